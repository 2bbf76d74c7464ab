"""Timers of a module, on a loop in which days take no time."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest

from placeos.driver import clock
from placeos.driver.errors import DriverError, Offline
from placeos.driver.health import Health
from placeos.driver.schedule import Schedule

START = datetime(2025, 3, 3, 6, 59, 30, tzinfo=UTC)  # a Monday


class Scene:
    """A schedule, its loop and its wall clock (which can be set), and what was told."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.begin = loop.time()
        self.offset = START.timestamp() - loop.time()
        clock.set_source(lambda: loop.time() + self.offset)
        self.ran: list[float] = []
        self.told: list[tuple[str, str | None]] = []
        self.tasks: set[asyncio.Task[object]] = set()
        health = Health(logging.getLogger("tested"), self._tell)
        self.schedule = Schedule(self._spawn, health, lambda: ZoneInfo("UTC"))

    def _tell(self, cause: str, message: str | None, backtrace: list[str] | None = None) -> None:
        self.told.append((cause, message))

    def _spawn(self, job: Awaitable[object], name: str) -> asyncio.Task[object]:
        task = self.loop.create_task(job, name=name)
        self.tasks.add(task)
        return task

    @property
    def now(self) -> float:
        return self.loop.time() - self.begin

    def job(self) -> None:
        self.ran.append(self.now)

    async def slow(self) -> None:
        self.ran.append(self.now)
        await asyncio.sleep(25)


@pytest.fixture
def run(fake_time) -> Callable[[Callable[[Scene], Awaitable[None]]], None]:
    def run_scene(play: Callable[[Scene], Awaitable[None]]) -> None:
        async def main() -> None:
            scene = Scene(fake_time)
            await play(scene)
            scene.schedule.close()
            await asyncio.gather(*scene.tasks, return_exceptions=True)

        fake_time.run_until_complete(main())

    return run_scene


def test_in(run):
    async def play(scene: Scene) -> None:
        timer = scene.schedule.in_(5, scene.job)
        assert timer.next_run == START.timestamp() + 5
        await asyncio.sleep(100)
        assert scene.ran == [5]
        assert (timer.runs, timer.next_run) == (1, None)
        now = scene.schedule.in_(5, scene.job)
        now.trigger()
        gone = scene.schedule.in_(5, scene.job)
        gone.cancel()
        await asyncio.sleep(100)
        assert scene.ran == [5, 100]

    run(play)


def test_every_counts_from_start_to_start_and_never_overlaps(run):
    async def play(scene: Scene) -> None:
        timer = scene.schedule.every(10, scene.slow, immediate=True)
        await asyncio.sleep(80)
        assert scene.ran == [0, 25, 50, 75]
        assert timer.next_run is None  # it is running
        timer.trigger()
        await asyncio.sleep(1)
        assert scene.ran == [0, 25, 50, 75]

    run(play)


def test_pause_resume_and_trigger(run):
    async def play(scene: Scene) -> None:
        timer = scene.schedule.every(10, scene.job)
        await asyncio.sleep(15)
        timer.pause()
        assert timer.next_run is None
        await asyncio.sleep(100)
        assert scene.ran == [10]
        timer.trigger()
        await asyncio.sleep(100)
        assert scene.ran == [10, 115]
        timer.resume()
        await asyncio.sleep(10.5)
        assert scene.ran == [10, 115, 225]
        assert timer.runs == 3

    run(play)


def test_failures_do_not_end_it_and_are_told_once(run):
    async def play(scene: Scene) -> None:
        async def job() -> None:
            scene.job()
            if len(scene.ran) < 4:
                raise ValueError("no")
            if len(scene.ran) == 4:
                raise Offline("not connected")

        timer = scene.schedule.every(10, job)
        await asyncio.sleep(65)
        assert timer.runs == 6
        assert scene.told == [("job", "job: ValueError: no"), ("job", None)]

    run(play)


def test_at(run):
    async def play(scene: Scene) -> None:
        tomorrow = START + timedelta(days=1)
        timer = scene.schedule.at(tomorrow, scene.job)
        naive = scene.schedule.at(datetime(2025, 3, 3, 7), scene.job)
        past = scene.schedule.at(START.timestamp() - 100, scene.job)
        assert timer.next_run == tomorrow.timestamp()
        await asyncio.sleep(2 * 86_400)
        assert scene.ran == [0, 30, 86_400]
        assert [timer.runs, naive.runs, past.runs] == [1, 1, 1]

    run(play)


def test_at_follows_a_wall_clock_that_is_set(run):
    async def play(scene: Scene) -> None:
        scene.schedule.at(START + timedelta(hours=10), scene.job)
        await asyncio.sleep(100)
        scene.offset += 10 * 3600  # the date has passed meanwhile
        await asyncio.sleep(61)
        assert len(scene.ran) == 1
        assert 100 < scene.ran[0] <= 160

    run(play)


def test_cron(run):
    async def play(scene: Scene) -> None:
        timer = scene.schedule.cron("0 7 * * 1-5", scene.job)
        berlin = scene.schedule.cron("0 8 * * *", lambda: None, zone="Europe/Berlin")
        at_once = scene.schedule.cron("0 12 * * *", lambda: None, immediate=True)
        assert timer.next_run == berlin.next_run == START.timestamp() + 30
        await asyncio.sleep(7 * 86_400 - 3600)
        assert scene.ran == [30 + day * 86_400 for day in range(5)]
        assert berlin.runs == 7
        assert at_once.runs == 8
        for spec, zone in (("0 7", ""), ("0 7 * * *", "No/Where")):
            with pytest.raises(ValueError, match=r"cron|zone"):
                scene.schedule.cron(spec, scene.job, zone=zone)

    run(play)


def test_cron_runs_that_were_missed_are_not_made_up_for(run):
    async def play(scene: Scene) -> None:
        async def long() -> None:
            scene.job()
            await asyncio.sleep(150)

        scene.schedule.cron("* * * * *", long)
        await asyncio.sleep(400)
        assert scene.ran == [30, 210, 390]  # those due while it ran were skipped

    run(play)


def test_cron_notices_that_the_clock_was_set(run):
    async def play(scene: Scene) -> None:
        timer = scene.schedule.cron("0 7 * * *", scene.job)
        await asyncio.sleep(1)
        scene.offset += 3 * 86_400 + 1800  # over four of them: none is run
        await asyncio.sleep(61)
        assert scene.ran == []
        await asyncio.sleep(86_400 - 1800)
        assert len(scene.ran) == 1  # the next morning
        scene.offset -= 120  # back over what has run: not again
        await asyncio.sleep(3600)
        assert len(scene.ran) == 1
        scene.offset -= 30 * 86_400  # it was quite wrong before
        await asyncio.sleep(86_400)
        assert len(scene.ran) == 2
        assert timer.next_run is not None
        assert 0 < timer.next_run - clock.now() < 86_400

    run(play)


def test_a_triggered_run_and_one_that_is_due_are_never_two_at_once(run):
    async def play(scene: Scene) -> None:
        running = 0

        async def job() -> None:
            nonlocal running
            running += 1
            assert running == 1
            scene.job()
            await asyncio.sleep(45)
            running -= 1

        timer = scene.schedule.cron("* * * * *", job)
        await asyncio.sleep(10)
        timer.trigger()  # runs until 55; 7:00 (at 30) is skipped
        await asyncio.sleep(90)
        assert scene.ran == [10, 90]
        assert not scene.told

    run(play)


def test_clear_and_the_end(run):
    async def play(scene: Scene) -> None:
        declared = scene.schedule.declare_every(scene.job, lambda: 10)
        declared.resume()
        made = scene.schedule.every(10, scene.job)
        scene.schedule.clear()
        assert made.next_run is None
        await asyncio.sleep(15)
        assert scene.ran == [10]
        scene.schedule.close()
        await asyncio.sleep(100)
        assert scene.ran == [10]
        with pytest.raises(DriverError, match="stopped"):
            scene.schedule.in_(1, scene.job)

    run(play)


def test_cancelling_itself(run):
    async def play(scene: Scene) -> None:
        async def job() -> None:
            scene.job()
            if len(scene.ran) == 3:
                timer.cancel()
            await asyncio.sleep(0)
            scene.ran.append(-1)  # the run goes on to its end

        timer = scene.schedule.every(10, job)
        await asyncio.sleep(100)
        assert scene.ran == [10, -1, 20, -1]

    run(play)
