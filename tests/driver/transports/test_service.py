"""Drivers with a client library of their own: when they are told to connect and to close."""

from __future__ import annotations

import asyncio

import pytest

from placeos.driver.errors import DriverError
from placeos.driver.testing import CallError, ScriptedDevice, drive
from placeos.driver.transports import Service, service
from placeos.driver.transports.base import Address, Role

BROKER = """
    import asyncio
    from placeos.driver import Driver, Service, Settings

    class BrokerSettings(Settings):
        password: str = ""

    class Broker(Driver[BrokerSettings]):
        transport = Service("line://{host}")

        async def open(self):
            where, _, port = self.config.uri.rpartition(":")
            reader, self.writer = await asyncio.open_connection("127.0.0.1", int(port))
            greeting = await reader.readline()
            if greeting != b"welcome\\n":
                raise PermissionError(f"it says {greeting.decode().strip()}")
            self.reader = reader
            self.spawn(self.follow())

        async def follow(self):
            while line := await self.reader.readline():
                self["heard"] = line.decode().strip()
            self.disconnect("the broker hung up")

        async def close(self):
            self["closed"] = self.get("closed", 0) + 1
            self.writer.close()

        async def say(self, text: str):
            self.writer.write(f"{text}\\n".encode())

        async def send_it(self):
            await self.send("x")
"""


@pytest.fixture
def broker():
    made = ScriptedDevice(uri="line://127.0.0.1:{port}")
    made.greets(b"welcome\n")
    return made


async def test_library_that_connects(write_driver, broker):
    async with drive(write_driver(BROKER), device=broker) as module:
        assert module.defaults.role == Role.SERVICE
        await module.exec("say", "hello")
        await broker.should_send(b"hello\n")
        await broker.responds(b"news\n")
        await module.status("heard", "news")
        with pytest.raises(CallError, match="nothing to send with"):
            await module.exec("send_it")
        await module.stop()
        await broker.should_hang_up()
        assert module.state["closed"] == 1


async def test_library_that_loses_the_device(write_driver, broker):
    async with drive(write_driver(BROKER), device=broker) as module:
        await broker.hang_up()
        await module.expect_log("disconnected: the broker hung up")
        await broker.expect_connection(2)
        await module.core.until(lambda: module.state["connected"] is True, 10)
        assert module.state["closed"] == 1


async def test_library_that_cannot_connect(write_driver, broker):
    broker.greets(b"go away\n")
    async with drive(write_driver(BROKER), device=broker, connected=False) as module:
        fault = await module.fault("cannot connect")
        assert fault.endswith("it says go away")
        await module.status("closed", 1)  # what was half open is given back
        broker.greets(b"welcome\n")
        await module.status("connected", True, 15)


async def test_address_that_changes(write_driver, broker):
    other = ScriptedDevice(uri="line://127.0.0.1:{port}")
    other.greets(b"welcome\n")
    await other.listen()
    async with drive(write_driver(BROKER), device=broker) as module:
        other.introduce(module._start, module.defaults)
        await module.move(other.port)
        await other.expect_connection(1)
        await broker.should_hang_up()
        assert module.state["closed"] == 1
    await other.unplug()


class Slow:
    """A driver whose hooks do not end."""

    def __init__(self, told, open_hangs: bool) -> None:
        self.told = told
        self.open_hangs = open_hangs

    async def open(self) -> None:
        self.told.add("open")
        if self.open_hangs:
            await asyncio.Event().wait()

    async def close(self) -> None:
        self.told.add("close")
        await asyncio.Event().wait()


@pytest.mark.parametrize("open_hangs", [True, False])
async def test_hooks_that_do_not_end(connect, told, monkeypatch, open_hangs):
    monkeypatch.setattr(service, "CLOSE_TIMEOUT", 0.2)
    slow = Slow(told, open_hangs)
    told.open, told.close = slow.open, slow.close
    spec = Service("line://x", connect_timeout=0.2)
    async with connect(Address(uri="line://x"), spec, told) as (made, _):
        if open_hangs:
            reason = await told.has("unreachable")
            assert reason == "unreachable: line://x: no connection within 0.2 s"
        else:
            await told.has("opened")
            made.drop("lost it")
            await told.has("lost: lost it")
        await told.has("open", 2)  # tried again all the same
        assert told.events[1 if open_hangs else 2] == "close"


async def test_close_that_fails(connect, told):
    async def close() -> None:
        told.add("close")
        raise RuntimeError("odd")

    told.close = close
    async with connect(Address(uri="line://x"), Service("line://x"), told) as (made, _):
        await told.has("opened")
        made.drop("lost it")
        await told.has("opened", 2)
        assert told.events[-5:] == ["opened", "close", "lost: lost it", "open", "opened"]


def test_declaration():
    assert Service("mqtt://{host}").role is Role.SERVICE
    assert Service(port=502).role is Role.DEVICE
    assert Service(port=161, udp=True).udp
    for options in ({}, {"port": 1, "uri": "x://y"}):
        with pytest.raises(ValueError, match="a port or a uri"):
            Service(**options)
    with pytest.raises(DriverError, match="nothing to send with"):
        Service(port=1).encode("x")
