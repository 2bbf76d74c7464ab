"""Doing things later, and again and again. No task exists while a timer waits."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Final, Protocol

from placeos.driver.errors import Offline

SHORTEST: Final = 0.01  # seconds between two starts

Job = Callable[[], Awaitable[object] | None]
Period = Callable[[], float]


class Spawn(Protocol):
    """Starts a task that its module owns."""

    def __call__(self, job: Awaitable[object], name: str) -> asyncio.Task[object]: ...


class Timer:
    """One entry of a schedule. `cancel` ends it, with the run that may be going on."""

    __slots__ = ("_due", "_failing", "_handle", "_job", "_name", "_period", "_schedule", "_task")

    def __init__(self, schedule: Schedule, job: Job, name: str, period: Period | None) -> None:
        self._schedule = schedule
        self._job = job
        self._name = name
        self._period = period
        self._due = 0.0
        self._failing = False
        self._handle: asyncio.TimerHandle | None = None
        self._task: asyncio.Task[object] | None = None

    def cancel(self) -> None:
        """End it. Harmless when it has ended."""
        self.pause()
        self._schedule.forget(self)

    def pause(self) -> None:
        """Stop until `resume`, also a run that is going on."""
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None
        task, self._task = self._task, None
        if task is not None and task is not asyncio.current_task():
            task.cancel()

    def resume(self) -> None:
        """Begin anew: the first run is one period from now."""
        self.pause()
        if self._period is not None:
            self._due = self._schedule.loop.time()
            self._next()

    def start_in(self, seconds: float) -> None:
        """Run once, or for the first time, after `seconds`."""
        self._due = self._schedule.loop.time() + max(0.0, seconds)
        self._handle = self._schedule.loop.call_at(self._due, self._run)

    def _next(self) -> None:
        """Arm the next run: one period after the last start, at once if that has passed."""
        assert self._period is not None
        period = self._period()
        if period <= 0:
            return
        now = self._schedule.loop.time()
        self._due = max(self._due + max(period, SHORTEST), now)
        self._handle = self._schedule.loop.call_at(self._due, self._run)

    def _run(self) -> None:
        self._handle = None
        self._task = self._schedule.spawn(self._guarded(), self._name)

    async def _guarded(self) -> None:
        task = asyncio.current_task()
        try:
            waiting = self._job()
            if waiting is not None:
                await waiting
            self._failing = False
        except Offline as error:  # said by `connected` already
            self._schedule.log.debug("%s: %s", self._name, error)
        except Exception as error:
            self._report(error)
        if self._task is not task:
            return  # paused or cancelled by itself
        self._task = None
        if self._period is not None:
            self._next()
        else:
            self._schedule.forget(self)

    def _report(self, error: Exception) -> None:
        """Tell of the first failure in a row; the others only to who debugs."""
        if self._failing:
            self._schedule.log.debug("%s failed again: %s", self._name, error)
        else:
            self._schedule.log.error("%s failed", self._name, exc_info=error)
        self._failing = True


class Schedule:
    """`self.schedule` of a driver. All of it ends with the module."""

    __slots__ = ("_timers", "log", "loop", "spawn")

    def __init__(self, spawn: Spawn, log: logging.Logger) -> None:
        self.loop = asyncio.get_running_loop()
        self.spawn = spawn
        self.log = log
        self._timers: set[Timer] = set()

    def in_(self, seconds: float, job: Job) -> Timer:
        """Run `job` once, after `seconds`."""
        timer = self.timer(job, None)
        timer.start_in(seconds)
        return timer

    def every(self, seconds: float, job: Job, *, immediate: bool = False) -> Timer:
        """Run `job` every `seconds`, counted from start to start, never two at once."""
        timer = self.timer(job, lambda: seconds)
        if immediate:
            timer.start_in(0)
        else:
            timer.resume()
        return timer

    def timer(self, job: Job, period: Period | None) -> Timer:
        """An entry that does nothing yet."""
        timer = Timer(self, job, getattr(job, "__name__", "scheduled job"), period)
        self._timers.add(timer)
        return timer

    def forget(self, timer: Timer) -> None:
        """Called by a timer that has ended."""
        self._timers.discard(timer)

    def clear(self) -> None:
        """Cancel all entries."""
        for timer in list(self._timers):
            timer.cancel()
