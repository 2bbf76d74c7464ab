"""How fast one process may begin to connect.

When the network of a building returns, or a process starts with ten thousand modules, the
attempts are let through a few at a time. There is no limit on how many are under way: devices
that are switched off answer nothing, and must not keep the others waiting.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Final

TICK: Final = 0.025  # seconds
PER_TICK: Final = 12  # attempts, so 480 a second


class Ticket:
    """One who wants to pass. `go` is None once it has, or wants no more."""

    __slots__ = ("go",)

    def __init__(self, go: Callable[[], None]) -> None:
        self.go: Callable[[], None] | None = go

    def cancel(self) -> None:
        """Pass no more."""
        self.go = None


class Turnstile:
    """Lets `PER_TICK` pass at once, then as many again with each tick, in order of arrival.

    A loop that is busy with handshakes ticks late, so that fewer follow.
    """

    __slots__ = ("_left", "_loop", "_timer", "_waiting")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._left = PER_TICK
        self._timer: asyncio.TimerHandle | None = None
        self._waiting: deque[Ticket] = deque()

    def enter(self, go: Callable[[], None]) -> Ticket:
        """Call `go` as soon as it may pass, perhaps at once."""
        ticket = Ticket(go)
        self._waiting.append(ticket)
        self._let_through()
        return ticket

    def _let_through(self) -> None:
        while self._left and self._waiting:
            ticket = self._waiting.popleft()
            go, ticket.go = ticket.go, None
            if go is not None:
                self._left -= 1
                go()
        if self._timer is None and self._left < PER_TICK:
            self._timer = self._loop.call_later(TICK, self._tick)

    def _tick(self) -> None:
        self._timer = None
        self._left = PER_TICK
        self._let_through()


_of_loop: Turnstile | None = None


def turnstile() -> Turnstile:
    """The one of the running loop; a process has one loop."""
    global _of_loop
    loop = asyncio.get_running_loop()
    if _of_loop is None or _of_loop._loop is not loop:
        _of_loop = Turnstile(loop)
    return _of_loop
