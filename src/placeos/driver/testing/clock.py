"""A clock that stands still until a test moves it; see `FakeClock`."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Final, Protocol

import msgspec

from placeos.driver.tcp_info import ESTABLISHED, LISTEN, SYN_SENT, End, connections
from placeos.driver.told_loop import BEGIN, Move, Rest

PATIENCE: Final = 15.0  # real seconds within which a process comes to rest
UNDELIVERED: Final = 0.5  # real seconds after which what nobody reads counts as lost
TURNS: Final = 5  # of the test's own loop: handlers of devices and of core run in them
MONDAY: Final = datetime(2025, 1, 6, 8, tzinfo=UTC)
HAIR: Final = 1e-6  # seconds; sums of fractions are a little off


class Datagrams(Protocol):
    """A scripted device that counts its datagrams."""

    port: int
    sent: int
    received: int


class FakeClock:
    """The time of one driver process: monotonic and wall clock, moved by `advance` alone.

    ::

        async with drive(FILE, clock=FakeClock()) as lamp:
            await lamp.clock.advance(30)

    While it stands still nothing in the process is ever late: no timer, time-out, pause,
    `asyncio.sleep` or schedule ends, however long the test takes. Bytes flow as always, so
    that calls which need no time end without it.

    `advance` goes from one timer of the process to the next. Before each step everything has
    come to rest: the process waits and none of its threads works, and on each TCP connection
    between it and the test both ends have read all that was written (for UDP, datagrams are
    counted). So a device that is scripted with `answers` always answers before time goes on,
    and `should_send` finds all that was due. A device that is another program is not waited
    for. `time.time()` and `datetime.now()` are not faked: a driver asks
    `placeos.driver.clock.now()`.

    `start` is what the wall clock shows first, with a time zone; else a Monday, 8:00 UTC.
    """

    def __init__(self, start: datetime = MONDAY) -> None:
        if start.tzinfo is None:
            raise ValueError("start needs a time zone, such as datetime(…, tzinfo=UTC)")
        self.patience = PATIENCE
        """Real seconds within which the process has to come to rest."""
        self._begin = start
        self._time = BEGIN
        self._datagrams: list[Datagrams] = []
        self._server: asyncio.Server | None = None
        self._line: asyncio.Future[tuple[asyncio.StreamReader, asyncio.StreamWriter]]
        self._turn = asyncio.Lock()

    @property
    def now(self) -> datetime:
        """What the wall clock of the process shows."""
        return self._begin + timedelta(seconds=self.passed)

    @property
    def passed(self) -> float:
        """Seconds since the process was started."""
        return self._time - BEGIN

    async def advance(self, seconds: float, *, until: Callable[[], bool] | None = None) -> None:
        """Let `seconds` go by, timer by timer; with `until` only as many as it takes.

        Ends at rest. Raises AssertionError when the process ends or never rests.
        """
        goal = self._time + seconds
        while True:
            rest = await self.settle()
            if until is not None and until():
                return
            if rest.next is None or rest.next > goal + HAIR:
                break
            await self._move(rest.next)
        await self._move(goal)
        await self.settle()

    async def settle(self) -> Rest:
        """Wait until nothing happens any more without the clock moving."""
        loop = asyncio.get_running_loop()
        began = changed = loop.time()
        before: Rest | None = None
        while True:
            for _ in range(TURNS):
                await asyncio.sleep(0)
            rest = await self._ask(Move())
            missing = self._undelivered(rest)
            now = loop.time()
            if before is None or rest.turns != before.turns:
                changed = now
            elif not missing or now - changed > UNDELIVERED:
                return rest
            else:
                await asyncio.sleep(0.001)
            if now - began > self.patience:
                raise AssertionError(f"the driver does not come to rest: {missing or 'it is busy'}")
            before = rest

    # -- used by `drive` --------------------------------------------------------------------

    async def listen(self) -> str:
        """Wait for the process; returns what it is told to find us with."""
        name = f"placeos-clock-{secrets.token_hex(12)}"
        self._line = asyncio.get_running_loop().create_future()
        self._server = await asyncio.start_unix_server(self._came, f"\0{name}")
        return f"{self._begin.timestamp()}@{name}"

    def watch(self, device: Datagrams) -> None:
        """Count the datagrams of a device."""
        self._datagrams.append(device)

    async def release(self) -> None:
        """From now on time goes by itself, and nobody tells it."""
        if self._server is None:
            return
        self._server.close()
        if self._line.done():
            _, writer = self._line.result()
            writer.write(msgspec.json.encode(Move(flow=True)) + b"\n")
            writer.close()

    # -- inside -----------------------------------------------------------------------------

    async def _came(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._line.set_result((reader, writer))

    async def _move(self, time: float) -> None:
        await self._ask(Move(max(time, self._time)))

    async def _ask(self, move: Move) -> Rest:
        try:
            async with self._turn, asyncio.timeout(self.patience):
                reader, writer = await asyncio.shield(self._line)
                writer.write(msgspec.json.encode(move) + b"\n")
                answer = await reader.readline()
        except TimeoutError:
            raise AssertionError(
                "the driver does not come to rest: it runs on and on, or a thread of it does"
            ) from None
        except ConnectionError:
            answer = b""
        if not answer:
            raise AssertionError("the driver process ended")
        rest = msgspec.json.decode(answer, type=Rest)
        self._time = rest.time
        return rest

    def _undelivered(self, rest: Rest) -> str:
        """What one side has written and the other not yet read; empty if there is nothing."""
        ours = connections()
        ends = {(one.local, one.peer): one for one in ours if one.state != LISTEN}
        ports = {one.local[1] for one in ours if one.state == LISTEN}
        for theirs in rest.connections:
            place = f"on the connection to {_text(theirs.peer)}"
            mine = ends.get((theirs.peer, theirs.local))
            if mine is None:
                if theirs.state in (ESTABLISHED, SYN_SENT) and theirs.peer[1] in ports:
                    return f"{place}, which is not accepted"
            elif mine.received < theirs.written or mine.unread:
                return f"{place} the device has not read everything"
            elif theirs.received < mine.written:
                return f"{place} the driver has not read everything"
        for device in self._datagrams:
            if device.received < rest.sent.get(device.port, 0):
                return f"a datagram to port {device.port} was lost"
            if rest.received.get(device.port, 0) < device.sent:
                return f"a datagram from port {device.port} was lost"
        return ""


def _text(end: End) -> str:
    return f"{end[0]}:{end[1]}"
