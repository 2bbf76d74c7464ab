"""The fake clock of the harness: time in a driver process that a test moves."""

from __future__ import annotations

import time
from datetime import UTC, datetime

import pytest

from placeos.driver.testing import CallError, FakeClock, ScriptedDevice, ScriptedUDP, drive

POLLING = '''
    """Polls."""
    import asyncio
    from placeos.driver import TCP, Driver, Settings, every
    from placeos.driver import clock

    class Polling(Driver[Settings]):
        transport = TCP(port=7000, ends_with=b"\\r\\n")

        def __init__(self) -> None:
            self.polls = 0

        @every(10)
        async def poll(self) -> None:
            """Ask."""
            self["level"] = (await self.send("level?", timeout=2, retries=1)).decode()
            self.polls += 1
            self["polls"] = self.polls

        async def ask(self) -> str:
            """Ask."""
            return (await self.send("ask", timeout=3, retries=2)).decode()

        async def rest(self, seconds: float) -> float:
            """Sleep."""
            await asyncio.sleep(seconds)
            return seconds

        async def wall(self) -> float:
            """The date."""
            return clock.now()

        async def in_a_thread(self) -> str:
            """Work in a thread."""
            import time
            self["thread"] = "began"
            await asyncio.to_thread(time.sleep, 0.3)
            self["thread"] = "ended"
            return "done"
'''


@pytest.fixture
def polling(write_driver):
    return write_driver(POLLING)


def answering() -> ScriptedDevice:
    device = ScriptedDevice()
    device.answers(b"level?\r\n", b"5\r\n")
    return device


async def test_hours_pass_in_a_moment(polling):
    began = time.monotonic()
    async with drive(polling, device=answering(), clock=FakeClock()) as module:
        await module.clock.advance(3600)
        assert module.state["polls"] == 360
        assert module.device.requests == [b"level?\r\n"] * 360
        assert module.clock.passed == pytest.approx(3600, abs=1)
    assert time.monotonic() - began < 60


async def test_stands_still_until_it_is_moved(polling):
    async with drive(polling, device=answering(), clock=FakeClock()) as module:
        asked = module.exec("ask")
        await module.should_send(b"ask\r\n")
        rest = module.exec("rest", 0.01)
        began = time.monotonic()
        await module.clock.settle()
        while time.monotonic() - began < 0.3:  # real time, which must mean nothing
            await module.clock.settle()
        assert not asked.done()
        assert not rest.done()
        await module.clock.advance(0.02)
        assert rest.done()
        assert not asked.done()
        await module.responds(b"yes\r\n")
        assert await asked == "yes"


async def test_retries_and_time_outs_happen_when_they_are_due(polling):
    async with drive(polling, device=answering(), clock=FakeClock()) as module:
        asked = module.exec("ask")
        for _ in range(3):
            await module.should_send(b"ask\r\n")
            await module.clock.advance(2.9)
            assert module.device._received == b""
            await module.clock.advance(0.11)
        with pytest.raises(CallError, match="3"):
            await asked


async def test_a_call_has_the_time_it_is_given(polling):
    async with drive(polling, device=answering(), clock=FakeClock()) as module:
        unlimited, limited = module.exec("rest", 100), module.exec("rest", 100, timeout=50)
        await module.clock.advance(60)
        with pytest.raises(CallError, match="did not end within 50 s"):
            await limited
        await module.clock.advance(60)
        assert await unlimited == 100


async def test_wall_clock_goes_with_it(polling):
    start = datetime(2024, 2, 28, 23, 59, tzinfo=UTC)
    async with drive(polling, device=answering(), clock=FakeClock(start)) as module:
        began = await module.exec("wall")
        assert began == pytest.approx(start.timestamp(), abs=1)
        await module.clock.advance(86_400)
        assert await module.exec("wall") == pytest.approx(began + 86_400)
        assert module.clock.now.date().isoformat() == "2024-02-29"


async def test_waits_for_threads(polling):
    async with drive(polling, device=answering(), clock=FakeClock()) as module:
        call = module.exec("in_a_thread")
        await module.clock.advance(1)
        assert call.done()
        assert module.state["thread"] == "ended"


async def test_back_off_passes_too(polling):
    device = answering()
    async with drive(polling, device=device, clock=FakeClock()) as module:
        await device.unplug()
        await module.status("connected", False)
        await module.clock.advance(3600)
        assert device.connections == 1
        await device.listen()
        await module.clock.advance(120, until=lambda: module.state["connected"])
        assert device.connections == 2


async def test_busy_driver_is_told_of(write_driver):
    file = write_driver('''
        """Runs on."""
        import asyncio
        from placeos.driver import Driver, Settings, Logic

        class Busy(Logic[Settings]):
            async def run(self) -> None:
                """Never ends."""
                while True:
                    await asyncio.sleep(0)
    ''')
    async with drive(file, clock=FakeClock()) as module:
        call = module.exec("run")
        module.clock.patience = 1
        with pytest.raises(AssertionError, match="does not come to rest"):
            await module.clock.advance(1)
        call.cancel()


async def test_end_of_the_process_is_told(polling):
    async with drive(polling, device=answering(), clock=FakeClock()) as module:
        await module.core.close()
        with pytest.raises(AssertionError, match="the driver process ended"):
            await module.clock.advance(1)


async def test_needs_a_time_zone():
    with pytest.raises(ValueError, match="time zone"):
        FakeClock(datetime(2024, 1, 1))


async def test_datagrams_are_waited_for(write_driver):
    file = write_driver('''
        """Datagrams."""
        from placeos.driver import UDP, Driver, Settings, every

        class Sensor(Driver[Settings]):
            transport = UDP(port=7000)

            @every(1)
            async def poll(self) -> None:
                """Ask."""
                self["count"] = int(await self.send(b"count", timeout=0.5, retries=0))
    ''')
    device, count = ScriptedUDP(), 0

    def number() -> bytes:
        nonlocal count
        count += 1
        return str(count).encode()

    device.answers(b"count", number)
    async with drive(file, device=device, clock=FakeClock(), connected=False) as sensor:
        await sensor.clock.advance(60)
        assert sensor.state["count"] == count >= 59
