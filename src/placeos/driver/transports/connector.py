"""Keeps one connection to a device: standing for ever with a back-off, or made on demand."""

from __future__ import annotations

import asyncio
import contextlib
import random
import ssl
from collections.abc import Callable
from typing import Final

from placeos.driver.errors import DriverError, Offline
from placeos.driver.fencing.permit import LAPSED, OPEN, Permit, watch
from placeos.driver.log import ModuleLogger
from placeos.driver.transports import tls
from placeos.driver.transports.base import (
    Address,
    Author,
    Connection,
    ConnectionEvents,
    Opening,
    Transport,
)
from placeos.driver.transports.turnstile import Ticket, turnstile

LONGEST_PAUSE: Final = 10.0  # seconds between two attempts to connect
SCATTER: Final = 1.0  # seconds over which the first attempts after a loss are spread
STABLE: Final = 5.0  # seconds after which a connection counts as a good one
CLOSING: Final = 0.5  # seconds a connection may take to end in good order; then it is reset
STOPPED: Final = "the module was stopped"
AT_ONCE: Final = -1  # an attempt before the first: without a pause

_EXPECTED: Final = (OSError, TimeoutError, ssl.SSLError, ValueError, DriverError)


class Connector:
    """The policy that replaces a lost connection. An idle one costs no task.

    With `wanted` a connection is made only while that is true: see `want`.
    """

    __slots__ = (
        "_attempts",
        "_author",
        "_events",
        "_log",
        "_loop",
        "_now",
        "_opened_at",
        "_permit",
        "_proven",
        "_started",
        "_task",
        "_ticket",
        "_timer",
        "_transport",
        "_wanted",
        "address",
    )

    def __init__(
        self,
        transport: Transport,
        address: Address,
        events: ConnectionEvents,
        author: Author,
        log: ModuleLogger,
        wanted: Callable[[], bool] | None = None,
        permit: Permit = OPEN,
    ) -> None:
        self.address = address
        self._loop = asyncio.get_running_loop()
        self._transport = transport
        self._events = events
        self._author = author
        self._log = log
        self._wanted = wanted
        self._permit = permit
        self._now: Connection | None = None
        self._task: asyncio.Task[None] | None = None
        self._ticket: Ticket | None = None  # of an attempt that waits for its turn
        self._timer: asyncio.TimerHandle | None = None
        self._attempts = 0  # since the last good connection
        self._opened_at = 0.0
        self._proven = False
        self._started = False

    @property
    def connection(self) -> Connection | None:
        """The present one."""
        return self._now

    @property
    def queued(self) -> bool:
        """Whether an attempt still waits for its turn."""
        return self._ticket is not None and self._ticket.go is not None

    def start(self) -> None:
        """Connect from now on; what was wanted before had to wait."""
        self._started = True
        watching = watch()
        if watching is not None:
            watching.add(self._permit, self._lapsed)
        self._enter()

    def want(self) -> None:
        """Something waits for a connection: make one, unless that is on its way."""
        under_way = self._now or self._task or self._timer or self.queued
        if self._started and not under_way:
            self._enter()

    def prove(self) -> None:
        """The present connection is a good one: when it ends, the next follows at once."""
        self._proven = True

    def write(self, data: object) -> None:
        """Send on the present connection. Raises Offline."""
        if self._now is None:
            raise Offline("the device is not connected")
        self._now.write(data)

    def drop(self, reason: str) -> None:
        """Give up the present connection; a new one follows."""
        if self._now is not None:
            self._now.drop(reason)

    def finish(self, reason: str) -> None:
        """Leave the present connection once all that was written to it is sent."""
        if self._now is not None:
            self._now.finish(reason)

    def move(self, address: Address) -> None:
        """The device is elsewhere now, if that is another address: leave the present connection
        and connect there."""
        if address == self.address:
            return
        self.address = address
        self._attempts = AT_ONCE
        if self._now is not None:
            self._now.finish("the address was changed")
        elif self._started:
            self._cancel()
            self._enter()

    def hasten(self) -> None:
        """Do not sit out the pause before the next attempt: what made it fail may be mended."""
        if self._timer is not None:
            self._attempts = 0
            self._cancel()
            self._enter()

    async def close(self) -> None:
        """End the connection and connect no more: in good order if that takes no longer than
        `CLOSING` seconds, else by a reset."""
        self._started = False
        watching = watch()
        if watching is not None:
            watching.remove(self._lapsed)
        task = self._task
        self._cancel()
        now, self._now = self._now, None
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(CLOSING):
                if now is not None:
                    now.finish(STOPPED)
                    await now.wait_closed()
                if task is not None:
                    await asyncio.wait([task])
        if now is not None:
            now.drop(STOPPED)

    def _enter(self) -> None:
        """Connect, as soon as it is this one's turn."""
        self._timer = None
        if self._wanted is None or self._wanted():
            self._ticket = turnstile().enter(self._go)

    def _cancel(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._ticket is not None:
            self._ticket.cancel()
            self._ticket = None
        if self._task is not None:
            self._task.cancel()

    def _go(self) -> None:
        connecting = self._connect(self._task)
        self._task = self._loop.create_task(connecting, name=f"connect {self._log.name}")

    async def _connect(self, before: asyncio.Task[None] | None) -> None:
        task = asyncio.current_task()
        try:
            if before is not None:  # cancelled, but perhaps still giving back what it had
                await asyncio.wait([before])
            await self._attempt()
        finally:
            if self._task is task:
                self._task = None

    async def _attempt(self) -> None:
        opening = Opening(self.address, self._events, self._log, self._author, self._permit)
        seconds = self._transport.connect_timeout
        self._proven = False
        try:
            self._permit.check()
            async with asyncio.timeout(seconds):
                connection = await self._transport.open(opening)
        except Exception as error:
            if not isinstance(error, _EXPECTED):
                self._log.debug("the attempt to connect failed", exc_info=error)
            self._again(getattr(error, "pause", 0.0))
            self._events.unreachable(f"{self.address}: {_reason(error, seconds)}")
            return
        self._now = connection
        self._opened_at = self._loop.time()
        self._events.opened()
        connection.adopt(self._connection_lost)

    def _connection_lost(self, connection: Connection, reason: str) -> None:
        if connection is self._now:
            self._now = None
            self._events.lost(reason)
            if self._proven:
                self._attempts = AT_ONCE
            elif self._loop.time() - self._opened_at >= STABLE:
                self._attempts = min(self._attempts, 0)
            self._again()

    def _lapsed(self) -> None:
        """Nothing may be written any more. What waits to be sent shall not be, and a device
        that takes one connection only be free for another core."""
        if self._now is not None:
            self._now.drop(LAPSED)
        elif self._task is not None:
            self._cancel()
            self._again()
            self._events.unreachable(f"{self.address}: {LAPSED}")

    def _again(self, least: float = 0.0) -> None:
        pause = max(least, backoff(self._attempts, random.random()))  # noqa: S311 - no secret
        self._attempts += 1
        self._timer = self._loop.call_later(pause, self._enter)


def backoff(attempt: int, luck: float) -> float:
    """Seconds before an attempt: none where `attempt` is below 0, up to 1 for the first, then
    1 to 2, 2 to 4, 4 to 8, and from then on 5 to 10.

    `luck` (0 to 1) spreads the devices of a building that lost its network.
    """
    if attempt < 0:
        return 0.0
    if attempt == 0:
        return luck * SCATTER
    longest = min(float(2 ** min(attempt, 10)), LONGEST_PAUSE)
    return longest * (1 + luck) / 2


def _reason(error: Exception, seconds: float) -> str:
    if isinstance(error, TimeoutError) and not str(error):
        return f"no connection within {seconds:g} s"
    text = tls.explain(error)
    name = type(error).__name__
    if not text:
        return name
    return text if isinstance(error, _EXPECTED) else f"{name}: {text}"
