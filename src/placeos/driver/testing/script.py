"""What scripted devices have in common: waiting for what the module sends, answering by rule."""

from __future__ import annotations

import asyncio
import socket
import weakref
from collections.abc import Callable
from typing import Any, Final, Generic, Protocol, TypeVar

from placeos.wire.messages import DriverDefaults, ModuleStart

TIMEOUT: Final = 5.0  # real seconds for anything that should happen at once
HOST: Final = "127.0.0.1"

Data = TypeVar("Data", bytes, bytes | str)
Said = TypeVar("Said", bytes, bytes | str, contravariant=True)


class Line(Protocol[Said]):
    """One connection of a device."""

    def write(self, data: Said, /) -> None:
        """Say something."""

    def abort(self) -> None:
        """Drop it."""


class Server(Protocol):
    """What accepts connections."""

    def close(self) -> None:
        """Accept no more."""


class Scripted:
    """Base of all. `port` is the same through `unplug` and `listen`."""

    roles: tuple[int, ...] = ()
    """The roles of modules whose device it can be."""
    kind = socket.SOCK_STREAM

    def __init__(self) -> None:
        self.port = 0
        self.connections = 0
        """How many there were so far."""
        self._changed = asyncio.Event()

    async def listen(self) -> None:
        """Can be reached, on the same port as before."""
        raise NotImplementedError

    async def unplug(self) -> None:
        """Cannot be reached any more; connections are dropped."""
        raise NotImplementedError

    def settings(self) -> dict[str, object]:
        """Settings that a module needs to be let in, unless the test gives its own."""
        return {}

    def introduce(self, start: ModuleStart, defaults: DriverDefaults) -> None:
        """Write into the module's record how it is reached."""
        fitting = [role for role in defaults.roles or [defaults.role] if role in self.roles]
        if not fitting:
            kind, names = type(self).__name__, defaults.roles or [defaults.role]
            raise AssertionError(f"a {kind} is no device for a driver with the roles {names}")
        start.role = fitting[0]
        start.ip, start.port = HOST, self.port

    async def expect_connection(self, number: int, timeout: float = TIMEOUT) -> None:
        """Wait for the `number`-th connection since the start."""
        await self._until(
            lambda: self.connections >= number,
            timeout,
            lambda: f"expected {number} connection(s), got {self.connections}",
        )

    def _hold_a_port(self) -> None:
        """Choose a port that stays ours while nobody listens: else, once the device is
        unplugged, another program could be given it."""
        if self.port:
            return
        holder = socket.socket(type=self.kind)
        weakref.finalize(self, holder.close)
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        holder.bind((HOST, 0))
        self.port = holder.getsockname()[1]

    def _notify(self) -> None:
        self._changed.set()

    async def _until(
        self, condition: Callable[[], bool], timeout: float, otherwise: Callable[[], str]
    ) -> None:
        """Wait. Raises AssertionError with what `otherwise` says when it takes too long."""
        try:
            async with asyncio.timeout(timeout):
                while not condition():
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            raise AssertionError(f"{otherwise()} within {timeout:g} s") from None


class Talking(Scripted, Generic[Data]):
    """A device that gets data and says data: what it gets is expected or answered."""

    def __init__(self) -> None:
        super().__init__()
        self.requests: list[Data] = []
        """What `answers` took, in order."""
        self._answers: dict[Data, Data | Callable[[], Data]] = {}

    def answers(self, request: Data, reply: Data | Callable[[], Data]) -> None:
        """From now on answer `request` by itself (a function is asked each time for what to
        say); what is answered so is not expected."""
        self._answers[request] = reply
        self._take_answered()

    def ignore_everything(self) -> None:
        """Answer nothing any more."""
        self._answers.clear()

    async def expect_request(self, request: Data, number: int, timeout: float = TIMEOUT) -> None:
        """Wait until `answers` took `request` that many times."""
        await self._until(
            lambda: self.requests.count(request) >= number,
            timeout,
            lambda: f"expected {request!r} {number} time(s), got {self.requests}",
        )

    async def responds(self, data: Data) -> None:
        """Say something to the module, once it can be heard."""
        await self._until(self._reachable, TIMEOUT, lambda: "the module did not connect")
        self._say(data)

    def _reachable(self) -> bool:
        """Whether there is somebody to talk to."""
        raise NotImplementedError

    def _say(self, data: Data) -> None:
        raise NotImplementedError

    def _take_answered(self) -> None:
        raise NotImplementedError

    def _forget(self) -> None:
        """What was received does not count any more."""
        raise NotImplementedError

    def _answer(self, request: Data) -> None:
        self.requests.append(request)
        reply: Any = self._answers[request]
        if self._reachable():
            self._say(reply() if callable(reply) else reply)


class Connected(Talking[Data]):
    """One that is connected to, and talks to who came last."""

    def __init__(self) -> None:
        super().__init__()
        self._greeting: Data | None = None
        self._lines: list[Line[Data]] = []
        self._server: Server | None = None

    async def unplug(self) -> None:
        """Drop all connections and accept no more."""
        if self._server is not None:
            self._server.close()
            self._server = None
        self._drop()

    async def hang_up(self) -> None:
        """Drop the connection, once there is one; new ones are accepted."""
        await self._until(self._reachable, TIMEOUT, lambda: "the module did not connect")
        self._drop()

    def greets(self, data: Data) -> None:
        """Say this at the start of each connection."""
        self._greeting = data

    def ignore_everything(self) -> None:
        """Answer nothing any more and greet nobody, though connections are accepted."""
        super().ignore_everything()
        self._greeting = None

    async def should_hang_up(self, timeout: float = TIMEOUT) -> None:
        """Wait until the module has dropped its connection."""
        await self._until(
            lambda: not self._lines, timeout, lambda: "the connection was not dropped"
        )

    def _drop(self) -> None:
        lines, self._lines = self._lines, []
        for line in lines:
            line.abort()
        self._notify()

    def _reachable(self) -> bool:
        return bool(self._lines)

    def _say(self, data: Data) -> None:
        self._lines[-1].write(data)

    def _opened(self, line: Line[Data]) -> None:
        if self._server is None:  # accepted in the moment it was unplugged
            line.abort()
            return
        self._lines.append(line)
        self.connections += 1
        self._forget()
        if self._greeting:
            line.write(self._greeting)
        self._notify()

    def _closed(self, line: Line[Data]) -> None:
        if line in self._lines:
            self._lines.remove(line)
        self._notify()


class Stream(Talking[bytes]):
    """One that reads a stream of bytes."""

    def __init__(self) -> None:
        super().__init__()
        self._received = b""

    async def should_send(self, data: bytes, timeout: float = TIMEOUT) -> None:
        """The next bytes of the module are `data`; what follows is kept for later."""
        await self._until(
            lambda: len(self._received) >= len(data),
            timeout,
            lambda: f"expected {data!r}, got {self._received!r}",
        )
        got = self._received[: len(data)]
        assert got == data, f"expected {data!r}, got {self._received!r}"
        self._received = self._received[len(data) :]
        self._take_answered()

    async def expect_send(self, timeout: float = TIMEOUT) -> bytes:
        """Whatever the module sends next."""
        await self._until(lambda: bool(self._received), timeout, lambda: "nothing was sent")
        got, self._received = self._received, b""
        return got

    def _forget(self) -> None:
        self._received = b""

    def _heard(self, data: bytes) -> None:
        self._received += data
        self._take_answered()
        self._notify()

    def _take_answered(self) -> None:
        while match := next((r for r in self._answers if self._received.startswith(r)), None):
            self._received = self._received[len(match) :]
            self._answer(match)


class Messages(Talking[Data]):
    """One that reads whole messages."""

    def __init__(self) -> None:
        super().__init__()
        self._received: list[Data] = []

    async def should_send(self, data: Data, timeout: float = TIMEOUT) -> None:
        """The next message of the module is `data`."""
        await self._until(
            lambda: bool(self._received), timeout, lambda: f"expected {data!r}, got nothing"
        )
        got = self._received.pop(0)
        assert got == data, f"expected {data!r}, got {got!r}"

    async def expect_send(self, timeout: float = TIMEOUT) -> Data:
        """Whatever message the module sends next."""
        await self._until(lambda: bool(self._received), timeout, lambda: "nothing was sent")
        return self._received.pop(0)

    def _forget(self) -> None:
        self._received.clear()

    def _heard(self, message: Data) -> None:
        self._received.append(message)
        self._take_answered()
        self._notify()

    def _take_answered(self) -> None:
        while self._received and self._received[0] in self._answers:
            self._answer(self._received.pop(0))
