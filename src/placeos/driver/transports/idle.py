"""Noticing that nothing happened for a while, with one timer whatever the traffic."""

from __future__ import annotations

import asyncio
from collections.abc import Callable


class Idle:
    """Calls `act` once `touch` was not called for `seconds`, until it is stopped."""

    __slots__ = ("_act", "_loop", "_seconds", "_timer", "_touched")

    def __init__(self, seconds: float, act: Callable[[], None]) -> None:
        self._loop = asyncio.get_running_loop()
        self._seconds = seconds
        self._act = act
        self._touched = 0.0
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Begin to watch."""
        self.stop()
        self._touched = self._loop.time()
        self._timer = self._loop.call_later(self._seconds, self._check)

    def touch(self) -> None:
        """Something happened."""
        self._touched = self._loop.time()

    def stop(self) -> None:
        """Watch no more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _check(self) -> None:
        due = self._touched + self._seconds
        if due > self._loop.time():
            self._timer = self._loop.call_at(due, self._check)
            return
        self._timer = None
        self._act()
