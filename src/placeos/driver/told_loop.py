"""The event loop of a driver process whose time is told by its test.

Time stands still while the loop runs and while it waits; only the test moves it, and only
while there is nothing else to do. `testing/clock.py` is the other end. Over a Unix socket go
lines of JSON: the test sends a `Move`, and is answered with a `Rest` as soon as the loop has
nothing left to do at that time.
"""

from __future__ import annotations

import asyncio
import selectors
import socket
import time
from collections.abc import Callable, Coroutine
from concurrent.futures import Executor
from typing import Any, Final, TypeVar, TypeVarTuple, cast

import msgspec

from placeos.driver import clock
from placeos.driver.tcp_info import Connection, connections

T = TypeVar("T")
Ts = TypeVarTuple("Ts")
Events = list[tuple[selectors.SelectorKey, int]]

BEGIN: Final = 1000.0  # what the loop's time is at first; 0 means "never" in places


class Move(msgspec.Struct, omit_defaults=True):
    """Go to that time (none: stay), and answer when at rest. `flow`: from now on time goes by
    as usual."""

    time: float | None = None
    flow: bool = False


class Rest(msgspec.Struct):
    """The loop has nothing to do. `next` is when its next timer is due; `turns` counts what it
    did so far; datagrams are counted by the port of the other side."""

    time: float
    next: float | None
    turns: int
    connections: list[Connection]
    sent: dict[int, int]
    received: dict[int, int]


class ToldTime:
    """The present time, and the line to who tells it."""

    def __init__(self, line: socket.socket) -> None:
        self.now = BEGIN
        self.turns = 0
        self.threads = 0
        self.sent: dict[int, int] = {}
        self.received: dict[int, int] = {}
        self.line = line
        self.asked = False
        self.ahead: float | None = None  # of the real clock, once time flows
        self._heard = b""

    def time(self) -> float:
        """Seconds, as `loop.time()` gives them."""
        return self.now if self.ahead is None else time.monotonic() + self.ahead

    def listen(self) -> None:
        """Take what came on the line."""
        data = self.line.recv(65_536)
        self._heard += data
        if not data:  # the test is over
            self._flow()
        while b"\n" in self._heard:
            line, _, self._heard = self._heard.partition(b"\n")
            move = msgspec.json.decode(line, type=Move)
            if move.time is not None:
                self.now = max(self.now, move.time)
            if move.flow:
                self._flow()
            self.asked = True

    def answer(self, due: float | None) -> None:
        """Tell that the loop is at rest."""
        self.asked = False
        rest = Rest(self.time(), due, self.turns, connections(), self.sent, self.received)
        self.line.sendall(msgspec.json.encode(rest) + b"\n")

    def _flow(self) -> None:
        if self.ahead is None:
            self.ahead = self.now - time.monotonic()


class ToldSelector(selectors.DefaultSelector):
    """Waits for sockets only; the time-out is what the loop's next timer is told by."""

    def __init__(self, told: ToldTime) -> None:
        super().__init__()
        self._told = told
        self.register(told.line, selectors.EVENT_READ)

    def select(self, timeout: float | None = None) -> Events:
        told = self._told
        told.turns += 1
        if told.ahead is not None:
            return super().select(timeout)
        if timeout is not None and timeout <= 0:
            return self._sockets(super().select(0))
        due = None if timeout is None else told.now + timeout
        while True:
            events = self._sockets(super().select(0))
            if events:
                return events
            if told.asked and not told.threads:
                told.answer(due)
            events = super().select(None)
            if self._sockets(events):
                return self._sockets(events)
            if events and self._moved():
                return []

    def _moved(self) -> bool:
        """The test said something: whether it is another time now."""
        told, before = self._told, self._told.now
        told.listen()
        if told.ahead is not None:
            self.unregister(told.line)
        return told.now != before or told.ahead is not None

    def _sockets(self, events: Events) -> Events:
        return [event for event in events if event[0].fileobj is not self._told.line]


class ToldLoop(asyncio.SelectorEventLoop):
    """See the module. Threads count as work; datagrams are counted."""

    def __init__(self, told: ToldTime) -> None:
        self._told = told
        super().__init__(ToldSelector(told))

    def time(self) -> float:
        """Seconds; stands still."""
        return self._told.time()

    def run_in_executor(
        self, executor: Executor | None, func: Callable[[*Ts], T], *args: *Ts
    ) -> asyncio.Future[T]:
        """As usual, and no rest before it has ended."""
        future: asyncio.Future[T] = super().run_in_executor(executor, func, *args)
        self._told.threads += 1
        future.add_done_callback(self._thread_ended)
        return future

    def _thread_ended(self, _: object) -> None:
        self._told.threads -= 1

    async def create_datagram_endpoint(
        self, protocol_factory: Callable[[], Any], *args: Any, **named: Any
    ) -> tuple[asyncio.DatagramTransport, Any]:
        """As usual, and datagrams are counted."""
        inner: list[Any] = []

        def counted() -> CountedDatagrams:
            inner.append(protocol_factory())
            return CountedDatagrams(inner[0], self._told)

        transport, _ = await super().create_datagram_endpoint(counted, *args, **named)
        return transport, inner[0]


class CountedDatagrams(asyncio.DatagramProtocol):
    """Stands between a datagram transport and the protocol that uses it."""

    def __init__(self, inner: asyncio.DatagramProtocol, told: ToldTime) -> None:
        self._inner = inner
        self._told = told

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Count also what is sent."""
        transport = cast("asyncio.DatagramTransport", transport)
        send, sent = transport.sendto, self._told.sent

        def sendto(data: Any, addr: Any = None) -> None:
            address = addr or transport.get_extra_info("peername")
            send(data, addr)
            sent[address[1]] = sent.get(address[1], 0) + 1

        transport.sendto = sendto  # type: ignore[method-assign]
        self._inner.connection_made(transport)

    def datagram_received(self, data: bytes, addr: tuple[str | Any, int]) -> None:
        received = self._told.received
        received[addr[1]] = received.get(addr[1], 0) + 1
        self._inner.datagram_received(data, addr)

    def error_received(self, exc: Exception) -> None:
        self._inner.error_received(exc)

    def connection_lost(self, exc: Exception | None) -> None:
        self._inner.connection_lost(exc)

    def pause_writing(self) -> None:
        self._inner.pause_writing()

    def resume_writing(self) -> None:
        self._inner.resume_writing()


def run_told(name: str, job: Coroutine[Any, Any, T]) -> T:
    """Run `job` by the time told on the Unix socket `name` (`<wall clock at first>@<name>`)."""
    wall, _, place = name.partition("@")
    line = socket.socket(socket.AF_UNIX)
    line.connect(f"\0{place}")
    told = ToldTime(line)
    begin = float(wall) - BEGIN
    clock.set_source(lambda: begin + told.time())
    with asyncio.Runner(loop_factory=lambda: ToldLoop(told)) as runner:
        return runner.run(job)
