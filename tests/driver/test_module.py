"""The life of one module: settings, schedule, device, room."""

from __future__ import annotations

import asyncio
import statistics
from itertools import pairwise

import msgspec
import pytest

from placeos.driver.testing import CallError, ScriptedDevice, drive
from placeos.wire.frame import Command, Header

LIMIT = 5.0

LAMP = """
    import asyncio
    from placeos.driver import TCP, Driver, NoReply, Offline, Settings, every
    from placeos.driver.interfaces import Powerable

    class LampSettings(Settings):
        poll_every: float = 0
        level: int = 1

    class Lamp(Driver[LampSettings], Powerable):
        transport = TCP(port=9, ends_with=b"\\n")

        async def started(self):
            self["hooks"] = ["started"]

        async def connected(self):
            self["hooks"] = [*self["hooks"], "connected"]

        async def disconnected(self):
            self["hooks"] = [*self["hooks"], "disconnected"]

        async def stopped(self):
            self["hooks"] = [*self["hooks"], "stopped"]

        async def settings_changed(self):
            self["changes"] = self.get("changes", 0) + 1
            self["level"] = self.settings.level

        async def received(self, data: bytes):
            self["heard"] = [*self.get("heard", []), data.decode()]

        @every("poll_every")
        async def poll(self):
            self["polled"] = self.get("polled", 0) + 1
            await self.send("poll", retries=0)

        async def power(self, state: bool) -> str:
            return (await self.send(f"power {state}", name="power", timeout=1)).decode()

        async def unnamed(self) -> str:
            return (await self.send("unnamed", timeout=0.3, retries=1)).decode()

        async def both(self) -> list[str]:
            return [r.decode() for r in await asyncio.gather(self.send("a"), self.send("b"))]

        async def next(self) -> str:
            return (await self.receive(timeout=1)).decode()
"""


@pytest.fixture
async def device():
    return ScriptedDevice()


async def arrived(module):
    """Wait until the module has what was asked of it, or withdrawn, so far."""
    await asyncio.sleep(0)  # `exec` sends from a task: its frame has to go before ours
    await module.core.ask(Header(Command.PING), b"1", LIMIT)


async def test_hooks_on_every_loss(write_driver, device):
    async with drive(write_driver(LAMP), device=device) as lamp:
        await lamp.status("hooks", ["started", "connected"])
        for number in range(2, 4):
            await device.hang_up()
            await lamp.status("connected", False)
            await lamp.status("connected", True)
            await device.expect_connection(number)
        expected = ["started", "connected", *["disconnected", "connected"] * 2]
        await lamp.status("hooks", expected)
        await lamp.stop()
        assert lamp.state["hooks"] == [*expected, "stopped"]
        assert lamp.state["connected"] is True
        await device.should_hang_up()


async def test_replies_and_what_comes_by_itself(write_driver, device):
    async with drive(write_driver(LAMP), device=device) as lamp:
        await lamp.responds(b"hello\nworld\n")
        await lamp.status("heard", ["hello", "world"])
        call = lamp.exec("both")
        await lamp.should_send(b"a\n")
        await lamp.responds(b"A\n")
        await lamp.should_send(b"b\n")
        await lamp.responds(b"B\n")
        assert await call == ["A", "B"]


async def test_function_that_waits_for_a_message(write_driver, device):
    async with drive(write_driver(LAMP), device=device) as lamp:
        call = lamp.exec("next")
        await arrived(lamp)
        await lamp.responds(b"news\n")
        assert await call == "news"
        with pytest.raises(CallError, match="nothing of its own within 1 s") as caught:
            await lamp.exec("next")
        assert caught.value.code == 504


async def test_silent_device_is_dropped(write_driver, device):
    async with drive(write_driver(LAMP), device=device) as lamp:
        with pytest.raises(CallError) as caught:
            await lamp.exec("unnamed")
        assert "did not answer the command within 0.3 s (2 attempts)" in caught.value.message
        assert caught.value.kind == "NoReply"
        assert caught.value.code == 504
        await lamp.status("connected", False)
        await lamp.status("connected", True)


async def test_command_waits_for_the_connection_but_not_for_ever(write_driver, device):
    async with drive(write_driver(LAMP), device=device) as lamp:
        await device.unplug()
        await lamp.status("connected", False)
        with pytest.raises(CallError, match="not connected") as caught:
            await lamp.exec("unnamed")
        assert (caught.value.kind, caught.value.code) == ("Offline", 503)
        with pytest.raises(CallError, match="not connected"):
            await lamp.exec("power", True)
        await device.listen()
        await lamp.status("connected", True, timeout=15)  # the back-off may be at its longest
        call = lamp.exec("power", False)
        await lamp.should_send(b"power False\n")
        await lamp.responds(b"ok\n")
        assert await call == "ok"


async def test_a_call_that_comes_before_the_first_connection_waits_for_it(write_driver, device):
    file = write_driver(
        """
        import asyncio
        from placeos.driver import TCP, Driver


        class Lamp(Driver):
            transport = TCP(port=9, ends_with=b"\\n")

            def __init__(self) -> None:
                self.go = asyncio.Event()

            async def started(self) -> None:
                await self.go.wait()

            def goes(self) -> None:
                self.go.set()

            async def light(self) -> str:
                return (await self.send("light")).decode()
        """
    )
    async with drive(file, device=device, connected=False) as lamp:
        call = lamp.exec("light")
        await lamp.exec("goes")
        await lamp.should_send(b"light\n")
        await lamp.responds(b"ok\n")
        assert await call == "ok"
        await device.unplug()
        await lamp.status("connected", False)
        with pytest.raises(CallError, match="not connected"):  # as ever after the first
            await lamp.exec("light")


async def test_caller_that_is_gone_takes_its_command_along(write_driver, device):
    async with drive(write_driver(LAMP), device=device) as lamp:
        first = lamp.exec("unnamed")
        await lamp.should_send(b"unnamed\n")
        second = lamp.exec("power", True)
        await arrived(lamp)
        second.cancel()
        await arrived(lamp)
        await lamp.responds(b"ok\n")
        assert await first == "ok"
        third = lamp.exec("power", False)
        await lamp.should_send(b"power False\n")
        await lamp.responds(b"ok\n")
        await third


async def test_device_that_is_away_from_the_start(write_driver, device):
    await device.listen()
    await device.unplug()
    inherited = {"connected": True, "level": 3}
    async with drive(write_driver(LAMP), device=device, state=inherited, connected=False) as lamp:
        await lamp.fault("cannot connect: 127.0.0.1")
        assert "connected" not in lamp.state, "an inherited value is given up too early"
        await lamp.status("connected", False, timeout=15)
        assert len([f for f in lamp.core.faults if "cannot connect" in f]) == 1


async def test_schedule(write_driver, device):
    device.answers(b"poll\n", b"ok\n")
    file = write_driver(LAMP)
    async with drive(file, device=device, settings={"poll_every": 0.05}) as lamp:
        await device.expect_request(b"poll\n", 5)
        await device.unplug()
        await lamp.status("connected", False)
        polled = lamp.state["polled"]
        await asyncio.sleep(0.3)
        assert lamp.state["polled"] == polled, "polls while it is not connected"
        await device.listen()
        await lamp.status("connected", True, timeout=15)  # as above
        await device.expect_request(b"poll\n", len(device.requests) + 3)
        await lamp.update(poll_every=0)
        polled = lamp.state["polled"]
        await asyncio.sleep(0.2)
        assert lamp.state["polled"] <= polled + 1
        await lamp.update(poll_every=0.05)
        await device.expect_request(b"poll\n", len(device.requests) + 3)


async def test_schedule_keeps_its_pace_and_never_overlaps(write_driver):
    text = """
        import asyncio, time
        from placeos.driver import Logic, every

        class Clock(Logic):
            def __init__(self):
                self._runs = []
                self._running = 0

            @every(0.1)
            async def tick(self):
                self._running += 1
                assert self._running == 1
                self._runs.append(time.monotonic())
                self["runs"] = self._runs
                await asyncio.sleep(0.04)
                self._running -= 1
                if len(self._runs) == 3:
                    raise ValueError("once")
    """
    async with drive(write_driver(text)) as clock:
        await clock.core.until(lambda: len(clock.state.get("runs", [])) >= 12, 15)
        gaps = [after - before for before, after in pairwise(clock.state["runs"])]
        # Not the mean: one pause of a busy machine would spoil it.
        assert statistics.median(gaps) == pytest.approx(0.1, abs=0.03)


async def test_wrong_settings_leave_the_last_good_ones(write_driver, device):
    async with drive(write_driver(LAMP), device=device) as lamp:
        await lamp.update(level=5)
        await lamp.status("level", 5)
        with pytest.raises(CallError, match="'level': expected int, got str") as caught:
            await lamp.update(level="high")
        assert caught.value.kind == "InvalidSettings"
        await lamp.fault("'level': expected int, got str")
        await lamp.update(level=5)  # the wrong value is taken away again: nothing changed
        await lamp.update(level=6)
        await lamp.status("level", 6)
        assert lamp.state["changes"] == 2
        assert device.connections == 1


async def test_wrong_settings_at_the_start(write_driver, device):
    async with drive(write_driver(LAMP), device=device, settings={"level": "high"}) as lamp:
        await lamp.fault("'level': expected int, got str")


async def test_address_change(write_driver, device):
    other = ScriptedDevice()
    await other.listen()
    async with drive(write_driver(LAMP), device=device) as lamp:
        await lamp.move(other.port)
        await other.expect_connection(1)
        await device.should_hang_up()
        await lamp.status("connected", False)
        await lamp.status("connected", True)
    await other.unplug()


@pytest.mark.parametrize(
    ("record", "words"),
    [
        (b'{"id":"m","name":"Lamp","role":99}', "role 1"),
        (b'{"id":"m","name":"Lamp","role":1}', "no ip or port"),
    ],
)
async def test_records_that_do_not_fit(write_driver, device, record, words):
    async with drive(write_driver(LAMP), device=device) as lamp:
        with pytest.raises(CallError, match=words):
            await lamp.core.ask(Header(Command.START), record, LIMIT)


async def test_restart_releases_the_device_first(write_driver, device):
    async with drive(write_driver(LAMP), device=device) as lamp:
        header = Header(Command.STOP, module="mod-tested")
        stop = asyncio.create_task(lamp.core.ask(header, b"", LIMIT))
        record = {
            "id": "mod-tested",
            "name": "Lamp",
            "role": 1,
            "ip": "127.0.0.1",
            "port": device.port,
        }
        payload = msgspec.json.encode(record)
        start = asyncio.create_task(lamp.core.ask(Header(Command.START), payload, LIMIT))
        await stop
        metadata = await start
        assert metadata["implements"] == ["PlaceOS::Driver::Interface::Powerable"]
        await device.expect_connection(2)


async def test_inherited_state_is_not_published_again(write_driver, device):
    async with drive(write_driver(LAMP), device=device, state={"level": 1}) as lamp:
        await lamp.update(level=1)
        await lamp.update(level=2)
        await lamp.status("level", 2)
        assert not lamp.core.saw("level", 1)


async def test_exit_in_a_hook_or_a_timer_ends_nothing(write_driver):
    file = write_driver(
        """
        import sys

        from placeos.driver import Logic, every


        class Leaver(Logic):
            async def started(self) -> None:
                self["started"] = True
                sys.exit(3)

            @every(0.02, offline=True)
            async def again(self) -> None:
                self["again"] = self.get("again", 0) + 1
                exit()

            async def work(self) -> int:
                return 5
        """
    )
    async with drive(file) as module:
        await module.fault("started: DriverError: the driver tried to exit the process")
        await module.status("again", 3)
        assert await module.exec("work") == 5


async def test_a_failure_in_the_background_is_a_fault_until_it_goes_well(write_driver):
    file = write_driver(
        """
        from placeos.driver import Logic


        class Worker(Logic):
            async def begin(self, well: bool) -> None:
                self.spawn(self._work(well))

            async def _work(self, well: bool) -> None:
                if not well:
                    raise ValueError("no luck")
        """
    )
    async with drive(file) as module:
        await module.exec("begin", False)
        await module.fault("_work: ValueError: no luck")
        await module.exec("begin", True)
        await module.expect_log("_work works again")
