"""Doing things later, and again and again. No task exists while a timer waits."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Awaitable, Callable
from datetime import datetime, tzinfo
from pathlib import Path
from typing import Any, Final, Protocol

from placeos.driver import clock
from placeos.driver.cron import Cron, machine_zone, zone_of
from placeos.driver.errors import DriverError
from placeos.driver.health import Health

SHORTEST: Final = 0.01  # seconds between two starts
LOOK_AGAIN: Final = 60.0  # seconds after which a date is compared with the wall clock anew
LATE: Final = 120.0  # seconds by which a cron line may run late; later it is skipped
SET_BACK: Final = 3600.0  # seconds; a clock that went back by more was wrong before

Job = Callable[[], Awaitable[object] | None]
Period = Callable[[], float]
Zone = Callable[[], tzinfo]


class Spawn(Protocol):
    """Starts a task that its module owns."""

    def __call__(
        self, job: Awaitable[object], name: str, *, report: bool = True
    ) -> asyncio.Task[object]: ...


class Timer:
    """One entry of a schedule: what happens once. Never are two runs of one going on."""

    __slots__ = ("_active", "_due", "_handle", "_job", "_name", "_schedule", "_task", "runs")

    def __init__(self, schedule: Schedule, job: Job) -> None:
        self.runs = 0  # how often it was started
        self._schedule = schedule
        self._job = job
        self._name = _name(job)
        self._due = 0.0  # in the loop's time
        self._active = False
        self._handle: asyncio.TimerHandle | None = None
        self._task: asyncio.Task[object] | None = None

    @property
    def next_run(self) -> float | None:
        """When it runs next, in unix seconds; None while it runs, is paused, or has ended."""
        if self._handle is None:
            return None
        return clock.now() + self._due - self._schedule.loop.time()

    def cancel(self) -> None:
        """End it, with the run that may be going on. Harmless when it has ended."""
        self.pause()
        self._schedule.forget(self)

    def pause(self) -> None:
        """Stop until `resume`, also a run that is going on."""
        self._active = False
        self._disarm()
        task, self._task = self._task, None
        if task is not None and task is not asyncio.current_task():
            task.cancel()

    def resume(self) -> None:
        """Begin anew, as when it was made. Raises DriverError once the module was stopped."""
        self.pause()
        self._schedule.remember(self)
        self._active = True
        self._begin()

    def trigger(self) -> None:
        """Run it now, unless it is running; what happens once happens now instead."""
        if self._task is None and not self._schedule.closed:
            self._run()

    # -- inside ---------------------------------------------------------------------------

    def _begin(self) -> None:
        """Arm the first run."""
        self._arm(self._schedule.loop.time())

    def _again(self) -> None:
        """A run is over: arm the next one."""
        self._schedule.forget(self)

    def _arm(self, due: float) -> None:
        self._due = due
        self._disarm()
        self._handle = self._schedule.loop.call_at(due, self._fire)

    def _disarm(self) -> None:
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None

    def _fire(self) -> None:
        self._handle = None
        if self._task is None:  # else it was triggered; the next run is armed when that is over
            self._run()

    def _run(self) -> None:
        self.runs += 1
        self._task = self._schedule.spawn(self._guarded(), self._name)

    async def _guarded(self) -> None:
        task = asyncio.current_task()
        health = self._schedule.health
        try:
            waiting = self._job()
            if waiting is not None:
                await waiting
        except BaseException as error:
            health.failed(self._name, error)
        else:
            health.well(self._name)
        if self._task is not task:
            return  # paused or cancelled by itself
        self._task = None
        if self._active and self._handle is None:
            self._again()


class Once(Timer):
    """`in_`: one run, so many seconds from now."""

    __slots__ = ("_seconds",)

    def __init__(self, schedule: Schedule, job: Job, seconds: float) -> None:
        super().__init__(schedule, job)
        self._seconds = max(0.0, seconds)

    def trigger(self) -> None:
        """Run it now instead of later."""
        self._disarm()
        super().trigger()

    def _begin(self) -> None:
        self._arm(self._schedule.loop.time() + self._seconds)


class Repeated(Timer):
    """`every`: from start to start, at once if that has passed. A period of 0: never."""

    __slots__ = ("_period",)

    def __init__(self, schedule: Schedule, job: Job, period: Period) -> None:
        super().__init__(schedule, job)
        self._period = period

    def _begin(self) -> None:
        self._due = self._schedule.loop.time()
        self._again()

    def _again(self) -> None:
        period = self._period()
        if period > 0:
            now = self._schedule.loop.time()
            self._arm(max(self._due + max(period, SHORTEST), now))


class Dated(Timer):
    """`at`: one run at a date of the wall clock, at once if that has passed.

    The wall clock may be set, so that the wait is cut into pieces.
    """

    __slots__ = ("_when",)

    def __init__(self, schedule: Schedule, job: Job, when: float) -> None:
        super().__init__(schedule, job)
        self._when: float | None = when  # unix seconds

    @property
    def next_run(self) -> float | None:
        """When it runs next, in unix seconds; None while it runs, is paused, or has ended."""
        return self._when if self._handle is not None else None

    def trigger(self) -> None:
        """Run it now instead of later."""
        self._disarm()
        super().trigger()

    def _begin(self) -> None:
        self._wait()

    def _wait(self) -> None:
        if self._when is not None:
            pause = min(max(0.0, self._when - clock.now()), LOOK_AGAIN)
            self._arm(self._schedule.loop.time() + pause)

    def _fire(self) -> None:
        self._handle = None
        if self._when is not None and clock.now() < self._when:
            self._wait()
        else:
            super()._fire()


class Calendar(Dated):
    """`cron`: again and again by a crontab line. What was missed is not made up for."""

    __slots__ = ("_cron", "_last", "_zone")

    def __init__(self, schedule: Schedule, job: Job, cron: Cron, zone: Zone) -> None:
        super().__init__(schedule, job, 0.0)
        self._cron = cron
        self._zone = zone
        self._last = 0.0  # when it was due last, unix seconds

    def trigger(self) -> None:
        """Run it now, unless it is running."""
        Timer.trigger(self)

    def _begin(self) -> None:
        self._again()

    def _again(self) -> None:
        now = clock.now()
        begin = now if self._last - now > SET_BACK else max(now, self._last)
        self._when = self._cron.after(begin, self._zone())
        self._wait()

    def _fire(self) -> None:
        self._handle = None
        now = clock.now()
        if self._when is not None and 0 <= now - self._when <= LATE:
            self._last = self._when
            Timer._fire(self)
        else:  # the clock was set, or a piece of the wait is over
            self._again()


class Schedule:
    """`self.schedule` of a driver. All of it ends with the module.

    Each entry can be cancelled, paused, resumed and triggered, and tells `runs` and
    `next_run`. A run that fails is logged and does not end its entry.
    """

    __slots__ = ("_declared", "_timers", "_zone", "closed", "health", "loop", "spawn")

    def __init__(self, spawn: Spawn, health: Health, zone: Zone = machine_zone) -> None:
        self.loop = asyncio.get_running_loop()
        self.spawn = spawn
        self.health = health
        self._zone = zone
        self._timers: set[Timer] = set()
        self._declared: list[Timer] = []
        self.closed = False

    def in_(self, seconds: float, job: Job) -> Timer:
        """Run `job` once, after `seconds`."""
        return self._started(Once(self, job, seconds))

    def every(self, seconds: float, job: Job, *, immediate: bool = False) -> Timer:
        """Run `job` every `seconds`, counted from start to start."""
        return self._started(Repeated(self, job, lambda: seconds), immediate)

    def at(self, when: datetime | float, job: Job) -> Timer:
        """Run `job` once, at a date (without a zone: in that of the system or the machine) or
        at unix seconds; at once if that has passed."""
        if isinstance(when, datetime):
            when = (when if when.tzinfo else when.replace(tzinfo=self._zone())).timestamp()
        return self._started(Dated(self, job, when))

    def cron(self, spec: str, job: Job, *, zone: str = "", immediate: bool = False) -> Timer:
        """Run `job` by a crontab line (see `Cron`), in the time of `zone` (`Europe/Berlin`; of
        the system or the machine if not given). Raises ValueError."""
        return self._started(self._calendar(spec, job, zone), immediate)

    def declare_every(self, job: Job, period: Period) -> Timer:
        """An entry of `@every`: it waits for its `resume`, and its period may change."""
        timer = Repeated(self, job, period)
        self._declared.append(timer)
        return timer

    def declare_cron(self, job: Job, spec: str, zone: str) -> Timer:
        """An entry of `@cron`: it waits for its `resume`."""
        timer = self._calendar(spec, job, zone)
        self._declared.append(timer)
        return timer

    def remember(self, timer: Timer) -> None:
        """Called by a timer that begins. Raises DriverError."""
        if self.closed:
            raise DriverError("the module was stopped")
        if timer not in self._declared:
            self._timers.add(timer)

    def forget(self, timer: Timer) -> None:
        """Called by a timer that has ended."""
        self._timers.discard(timer)

    def clear(self) -> None:
        """Cancel what code has made; what decorators declare goes on."""
        for timer in list(self._timers):
            timer.cancel()

    def close(self) -> None:
        """Cancel all entries and take no more."""
        self.closed = True
        self.clear()
        for timer in self._declared:
            timer.cancel()

    def _calendar(self, spec: str, job: Job, zone: str) -> Timer:
        fixed = zone_of(zone) if zone else None
        where = self._zone if fixed is None else lambda: fixed
        return Calendar(self, job, Cron(spec), where)

    def _started(self, timer: Timer, immediate: bool = False) -> Timer:
        timer.resume()
        if immediate:
            timer.trigger()
        return timer


def _name(job: Any) -> str:
    """What a job is called in logs and faults: two of them should not be taken for one."""
    if isinstance(job, functools.partial):
        return _name(job.func)
    name: str = getattr(job, "__name__", "scheduled job")
    if name != "<lambda>":
        return name
    return f"lambda at {Path(job.__code__.co_filename).name}:{job.__code__.co_firstlineno}"
