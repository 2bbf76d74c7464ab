"""Devices that are connected to only while there is something to say."""

from __future__ import annotations

import asyncio

import pytest

from placeos.driver.testing import CallError, ScriptedDevice, drive

PROJECTOR = """
    import asyncio
    from placeos.driver import TCP, Driver, Settings, every

    class ProjectorSettings(Settings):
        poll_every: float = 0

    class Projector(Driver[ProjectorSettings]):
        transport = TCP(port=9, ends_with=b"\\r", makebreak=True, idle_timeout=0.3)

        async def login(self):
            greeting = await self.receive(timeout=1)
            self["greeted"] = self.get("greeted", 0) + 1
            if greeting != b"welcome":
                raise ValueError(f"it greets with {greeting.decode()}")

        async def connected(self):
            self["hooks"] = [*self.get("hooks", []), "connected"]

        async def disconnected(self):
            self["hooks"] = [*self.get("hooks", []), "disconnected"]

        async def received(self, data: bytes):
            self["heard"] = data.decode()

        @every("poll_every")
        async def poll(self):
            self["polled"] = self.get("polled", 0) + 1
            await self.send("poll", retries=0, timeout=0.5)

        async def ask(self, what: str, patience: float = 1) -> str:
            reply = await self.send(what, timeout=patience, retries=1)
            return reply.decode()

        async def both(self) -> list[str]:
            return [r.decode() for r in await asyncio.gather(self.send("a"), self.send("b"))]

        async def hang_up(self) -> str:
            reply = await self.ask("last")
            self.disconnect()
            return reply

        async def hang_up_and_ask(self, what: str, wait: bool = True) -> str:
            self.disconnect()
            reply = await self.send(what, retries=0, wait=wait)
            return reply.decode()
"""


@pytest.fixture
async def device():
    made = ScriptedDevice()
    made.greets(b"welcome\r")
    await made.listen()
    return made


def projector(write_driver, device, **options):
    return drive(write_driver(PROJECTOR), device=device, connected=False, **options)


async def test_online_at_once_connected_when_needed(write_driver, device):
    async with projector(write_driver, device) as module:
        assert module.defaults.makebreak
        await module.status("hooks", ["connected"])
        assert module.state["connected"] is True
        assert device.connections == 0
        device.answers(b"a\r", b"A\r")
        device.answers(b"b\r", b"B\r")
        assert await module.exec("both") == ["A", "B"]
        assert device.connections == 1
        await device.should_hang_up()  # by itself, when nothing more is said
        assert await module.exec("ask", "a") == "A"
        assert device.connections == 2
        await module.status("greeted", 2)
        assert module.state["hooks"] == ["connected"]
        assert not module.core.saw("connected", False)


async def test_device_that_hangs_up_after_each_reply(write_driver, device):
    """As many do. What was written in that moment is written again."""
    device.answers(b"b\r", b"B\r")
    async with projector(write_driver, device) as module:
        call = module.exec("both")
        await device.should_send(b"a\r")
        await device.responds(b"A\r")
        await device.hang_up()
        assert await call == ["A", "B"]
        assert not module.core.saw("connected", False)


async def test_driver_that_hangs_up(write_driver, device):
    device.answers(b"last\r", b"ok\r")
    async with projector(write_driver, device) as module:
        for number in range(1, 4):
            assert await module.exec("hang_up") == "ok"
            await device.expect_connection(number)
            await device.should_hang_up()


async def test_what_comes_while_it_hangs_up_goes_out_on_the_next_connection(write_driver, device):
    """As when a command comes in the moment in which the last one is a second ago."""
    device.answers(b"last\r", b"ok\r")
    async with projector(write_driver, device) as module:
        await module.exec("ask", "last")
        assert await module.exec("hang_up_and_ask", "last") == "ok"
        assert device.connections == 2
        await module.exec("hang_up_and_ask", "unasked", False)
        await device.expect_connection(3)
        await device.should_send(b"unasked\r")
        assert not module.core.saw("connected", False)


async def test_device_that_is_away(write_driver, device):
    await device.unplug()
    async with projector(write_driver, device) as module:
        with pytest.raises(CallError, match=r"not connected: 127\.0\.0\.1:.*refused") as caught:
            await module.exec("ask", "a")
        assert caught.value.kind == "Offline"
        await module.status("connected", False)
        await module.status("hooks", ["connected", "disconnected"])
        await module.fault("cannot connect: 127.0.0.1")
        device.answers(b"a\r", b"A\r")
        await device.listen()
        # the pause of the back-off is sat out by the command, if that has the time
        assert await module.exec("ask", "a", 15, timeout=30) == "A"
        await module.status("hooks", ["connected", "disconnected", "connected"])


async def test_nothing_is_tried_while_nothing_waits(write_driver, device):
    await device.unplug()
    async with projector(write_driver, device) as module:
        with pytest.raises(CallError):
            await module.exec("ask", "a", 0.2)
        await device.listen()
        await asyncio.sleep(2)  # longer than the pauses of the first attempts
        assert device.connections == 0


async def test_device_that_does_not_answer(write_driver, device):
    async with projector(write_driver, device) as module:
        with pytest.raises(CallError, match="did not answer") as caught:
            await module.exec("ask", "a", 0.2)
        assert caught.value.kind == "NoReply"
        await module.status("connected", False)
        await device.should_hang_up()
        device.answers(b"a\r", b"A\r")
        assert await module.exec("ask", "a") == "A"
        await module.status("hooks", ["connected", "disconnected", "connected"])


async def test_login_that_fails(write_driver, device):
    device.greets(b"busy\r")
    async with projector(write_driver, device) as module:
        with pytest.raises(CallError, match="it greets with busy"):
            await module.exec("ask", "a", 0.5)
        await module.status("connected", False)
        device.greets(b"welcome\r")
        device.answers(b"a\r", b"A\r")
        assert await module.exec("ask", "a", 15, timeout=30) == "A"
        assert module.state["connected"] is True


async def test_timers_go_on_without_the_device(write_driver, device):
    await device.unplug()
    async with projector(write_driver, device, settings={"poll_every": 0.2}) as module:
        await module.status("connected", False)
        polled = module.state["polled"]
        await module.core.until(lambda: module.state["polled"] >= polled + 2, 10)


async def test_what_comes_by_itself(write_driver, device):
    async with projector(write_driver, device) as module:
        call = module.exec("ask", "a")
        await device.should_send(b"a\r")
        await device.responds(b"A\rnews\r")
        await device.hang_up()
        assert await call == "A"
        await module.status("heard", "news")


async def test_record_makes_it_so(write_driver, device):
    text = PROJECTOR.replace("makebreak=True, ", "")
    device.answers(b"a\r", b"A\r")
    file = write_driver(text)
    async with drive(file, device=device, makebreak=True, connected=False) as module:
        await module.status("connected", True)
        assert device.connections == 0
        assert await module.exec("ask", "a") == "A"
        await device.should_hang_up()
