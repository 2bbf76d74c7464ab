"""Connections on which nothing happens, and records that change."""

from __future__ import annotations

import asyncio

import msgspec

from placeos.driver.testing import ScriptedDevice, ScriptedUDP, drive
from placeos.driver.transports.idle import Idle
from placeos.wire.frame import Command, Header
from placeos.wire.messages import ModuleStart

SENSOR = """
    from placeos.driver import TCP, Driver

    class Sensor(Driver):
        transport = TCP(port=9, ends_with=b"\\r", idle_timeout=0.8)

        async def connected(self):
            self["times"] = self.get("times", 0) + 1

        async def received(self, data: bytes):
            self["heard"] = data.decode()

        async def ask(self, what: str) -> str:
            return (await self.send(what, timeout=2)).decode()
"""


async def test_one_timer_whatever_the_traffic():
    acted = asyncio.Event()
    idle = Idle(0.2, acted.set)
    idle.start()
    for _ in range(8):
        await asyncio.sleep(0.05)
        idle.touch()
    assert not acted.is_set()
    await asyncio.wait_for(acted.wait(), 10)
    acted.clear()
    idle.start()
    idle.stop()
    await asyncio.sleep(0.3)
    assert not acted.is_set()


async def test_device_that_falls_silent_is_connected_to_anew(write_driver):
    device = ScriptedDevice()
    async with drive(write_driver(SENSOR), device=device) as module:
        await device.responds(b"warm\r")
        await module.status("heard", "warm")
        await module.expect_log("disconnected: the device fell silent")
        await device.expect_connection(2)
        await module.status("times", 2)


async def test_messages_keep_a_connection(write_driver):
    device = ScriptedDevice()
    device.answers(b"a\r", b"A\r")
    async with drive(write_driver(SENSOR), device=device) as module:
        for number in range(8):  # longer than the time-out
            if number % 2:
                await device.responds(f"{number}\r".encode())
                await module.status("heard", str(number))
            else:
                assert await module.exec("ask", "a") == "A"
            await asyncio.sleep(0.2)
        assert device.connections == 1


async def test_udp_device_that_falls_silent(write_driver):
    """There is nothing to drop; it is reported, and over with the next datagram."""
    device = ScriptedUDP()
    device.answers(b"a\r", b"A\r")
    file = write_driver(SENSOR.replace("TCP", "UDP"))
    async with drive(file, device=device) as module:
        assert await module.exec("ask", "a") == "A"
        await module.status("connected", False)
        await device.responds(b"warm\r")
        await module.status("times", 2)
        assert module.state["heard"] == "warm"


def record(device: ScriptedDevice) -> bytes:
    """Of a second module."""
    start = ModuleStart(id="mod-second", name="S", role=1, ip="127.0.0.1", port=device.port)
    return msgspec.json.encode(start)


async def test_changed_address_reconnects_only_that_module(write_driver):
    file = write_driver(SENSOR.replace(", idle_timeout=0.8", ""))
    first, before, after = (ScriptedDevice() for _ in range(3))
    await before.listen()
    await after.listen()
    async with drive(file, device=first) as module:
        await module.core.ask(Header(Command.START), record(before), 5)
        await before.expect_connection(1)
        await module.core.ask(Header(Command.UPDATE), record(after), 5)
        await after.expect_connection(1)
        await before.should_hang_up()
        first.answers(b"a\r", b"A\r")
        assert await module.exec("ask", "a") == "A"
        assert (first.connections, before.connections) == (1, 1)
    await before.unplug()
    await after.unplug()


async def test_record_that_comes_back_as_it_was(write_driver):
    """So do settings that the transport does not read."""
    device = ScriptedDevice()
    device.answers(b"a\r", b"A\r")
    async with drive(write_driver(SENSOR.replace("0.8", "0")), device=device) as module:
        await module.update(unknown=1)
        await module.move(device.port)
        assert await module.exec("ask", "a") == "A"
        assert device.connections == 1
        await module.update(https_verify="none")  # this one it does
        await device.expect_connection(2)
