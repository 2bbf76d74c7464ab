"""A pytest harness: one driver file in a real driver process, with a scripted device.

::

    async def test_power() -> None:
        async with drive(Path(__file__).with_name("projector.py")) as projector:
            call = projector.exec("power", True)
            await projector.should_send(b"%1POWR 1\\r")
            await projector.responds(b"%1POWR=OK\\r")
            assert await call is True
            await projector.status("power", True)

Process, link and socket are the real ones; only core and the device are played. Nothing
sleeps: everything waits for what it expects, with a time limit.
"""

from __future__ import annotations

import asyncio
import socket
import weakref
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

import msgspec
from msgspec import Raw

from placeos.driver.loader import LOGIC
from placeos.driver.testing_core import FakeModule, ForkParent, PlayedCore
from placeos.wire.errors import CallError
from placeos.wire.frame import Clearance, Command, Header
from placeos.wire.messages import DriverDefaults, ModuleStart, SystemRecord

__all__ = ["CallError", "FakeModule", "ScriptedDevice", "TestedModule", "drive"]

SYSTEM_ID = "sys-tested"
MODULE_ID = "mod-tested"
TIMEOUT = 5.0  # seconds for anything that should happen at once

T = TypeVar("T")
Reply = bytes | Callable[[], bytes]


class ScriptedDevice:
    """A TCP server that plays the device: what it gets is expected, what it says is scripted."""

    def __init__(self) -> None:
        self.port = 0
        self.requests: list[bytes] = []
        """What `answers` took, in order."""
        self.connections = 0
        self._received = b""
        self._answers: dict[bytes, Reply] = {}
        self._greeting = b""
        self._writers: list[asyncio.StreamWriter] = []
        self._server: asyncio.Server | None = None
        self._changed = asyncio.Condition()

    async def listen(self) -> None:
        """Accept connections, on the same port as before."""
        if not self.port:
            self._hold_a_port()
        self._server = await asyncio.start_server(
            self._serve, "127.0.0.1", self.port, reuse_address=True
        )

    async def unplug(self) -> None:
        """Drop all connections and accept no more."""
        if self._server is not None:
            self._server.close()
            self._server = None
        self._drop()

    async def hang_up(self) -> None:
        """Drop the connection, once there is one; new ones are accepted."""
        await self._until(lambda: bool(self._writers), TIMEOUT)
        self._drop()

    def greets(self, data: bytes) -> None:
        """Say this at the start of each connection."""
        self._greeting = data

    def answers(self, request: bytes, reply: Reply) -> None:
        """From now on answer `request` by itself; what is answered so is not expected."""
        self._answers[request] = reply
        self._take_answered()

    def ignore_everything(self) -> None:
        """Answer nothing any more and greet nobody, though connections are accepted."""
        self._answers.clear()
        self._greeting = b""

    async def expect_request(self, request: bytes, number: int, timeout: float = TIMEOUT) -> None:
        """Wait until `answers` took `request` that many times."""
        await self._until(lambda: self.requests.count(request) >= number, timeout)

    async def should_send(self, data: bytes, timeout: float = TIMEOUT) -> None:
        """The next bytes of the module are `data`; what follows is kept for later."""
        try:
            await self._until(lambda: len(self._received) >= len(data), timeout)
        except TimeoutError:
            raise AssertionError(f"expected {data!r}, got {self._received!r}") from None
        got = self._received[: len(data)]
        assert got == data, f"expected {data!r}, got {self._received!r}"
        self._received = self._received[len(data) :]
        self._take_answered()

    async def expect_send(self, timeout: float = TIMEOUT) -> bytes:
        """Whatever the module sends next."""
        await self._until(lambda: bool(self._received), timeout)
        got, self._received = self._received, b""
        return got

    async def responds(self, data: bytes) -> None:
        """Send bytes to the module."""
        await self._until(lambda: bool(self._writers), TIMEOUT)
        self._writers[-1].write(data)

    async def expect_connection(self, number: int, timeout: float = TIMEOUT) -> None:
        """Wait for the `number`-th connection since the start."""
        await self._until(lambda: self.connections >= number, timeout)

    async def should_hang_up(self, timeout: float = TIMEOUT) -> None:
        """Wait until the module has dropped its connection."""
        await self._until(lambda: not self._writers, timeout)

    def _hold_a_port(self) -> None:
        """Choose a port that stays ours while nobody listens: else, once the device is
        unplugged, another program could be given it."""
        holder = socket.socket()
        weakref.finalize(self, holder.close)
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        holder.bind(("127.0.0.1", 0))
        self.port = holder.getsockname()[1]

    def _drop(self) -> None:
        for writer in self._writers:
            writer.transport.abort()
        self._writers.clear()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._server is None:  # accepted in the moment it was unplugged
            writer.transport.abort()
            return
        self._writers.append(writer)
        self.connections += 1
        self._received = b""
        if self._greeting:
            writer.write(self._greeting)
        await self._notify()
        try:
            while data := await reader.read(65_536):
                self._received += data
                self._take_answered()
                await self._notify()
        except ConnectionError:
            pass  # the module went away: as good as the end of the stream
        finally:
            if writer in self._writers:
                self._writers.remove(writer)
            writer.close()
            await self._notify()

    def _take_answered(self) -> None:
        while match := next((r for r in self._answers if self._received.startswith(r)), None):
            self._received = self._received[len(match) :]
            self.requests.append(match)
            reply = self._answers[match]
            if self._writers:
                self._writers[-1].write(reply() if callable(reply) else reply)

    async def _notify(self) -> None:
        async with self._changed:
            self._changed.notify_all()

    async def _until(self, condition: Callable[[], bool], timeout: float) -> None:
        async with asyncio.timeout(timeout), self._changed:
            await self._changed.wait_for(condition)


class TestedModule:
    """The module under test, its device and what is around it."""

    __test__ = False  # no test class, whatever pytest thinks of its name

    def __init__(self, core: PlayedCore, device: ScriptedDevice, start: ModuleStart) -> None:
        self.core = core
        self.device = device
        self.should_send = device.should_send
        self.responds = device.responds
        self._start = start

    @property
    def state(self) -> dict[str, Any]:
        """The live state as it is now."""
        return self.core.state

    @property
    def defaults(self) -> DriverDefaults:
        """What the driver file declares about itself."""
        assert self.core.defaults is not None
        return self.core.defaults

    def exec(
        self,
        function: str,
        *args: object,
        user: str = "",
        clearance: Clearance = Clearance.ADMINISTRATOR,
        timeout: float = TIMEOUT,
        **named: object,
    ) -> asyncio.Task[Any]:
        """Call a function. The task ends with its result, or raises CallError."""
        header = Header(
            Command.EXECUTE,
            module=self._start.id,
            function=function,
            user=user,
            clearance=clearance,
        )
        payload = msgspec.json.encode(named or list(args))
        return asyncio.create_task(self.core.ask(header, payload, timeout))

    async def status(self, key: str, value: object, timeout: float = TIMEOUT) -> None:
        """Wait until a status has a value, or has had it (None: until it has none)."""
        try:
            await self.core.until(lambda: self.core.saw(key, value), timeout)
        except TimeoutError:
            found = self.state.get(key)
            raise AssertionError(f"{key!r} is {found!r} and not {value!r}") from None

    async def fault(self, text: str, timeout: float = TIMEOUT) -> str:
        """Wait for a fault whose message holds `text`, and return it."""
        await self.core.until(lambda: any(text in f for f in self.core.faults), timeout)
        return next(f for f in self.core.faults if text in f)

    async def update(self, **settings: object) -> None:
        """Replace the settings. Raises CallError for wrong ones."""
        self._start.settings = _raw(settings)
        await self.core.ask(Header(Command.UPDATE), msgspec.json.encode(self._start), TIMEOUT)

    async def move(self, port: int) -> None:
        """Give the module another port."""
        self._start.port = port
        await self.core.ask(Header(Command.UPDATE), msgspec.json.encode(self._start), TIMEOUT)

    async def stop(self) -> None:
        """Stop the module."""
        await self.core.ask(Header(Command.STOP, module=self._start.id), b"", TIMEOUT)


@asynccontextmanager
async def drive(
    file: Path | str,
    *,
    settings: Mapping[str, object] | None = None,
    system: Mapping[str, Sequence[FakeModule]] | None = None,
    state: Mapping[str, object] | None = None,
    device: ScriptedDevice | None = None,
    port: int | None = None,
    connected: bool = True,
) -> AsyncIterator[TestedModule]:
    """Run `file` as a module. A logic module gets a `system` of fake modules by name.

    With `connected` it is handed over once it is; give a prepared `device` to script what
    happens before, or one that is unplugged. With `port` the device is another program
    there. Raises AssertionError if the driver file cannot be used.
    """
    device = device or ScriptedDevice()
    if not device.port:  # else the test has decided already
        await device.listen()
    try:
        parent = ForkParent.shared()
        core = PlayedCore(SYSTEM_ID, system or {})
        pid = await parent.fork(str(file), core)
        try:
            start = ModuleStart(
                id=MODULE_ID,
                name="",
                role=0,
                ip="127.0.0.1",
                port=port or device.port,
                settings=_raw(settings or {}),
                state=_raw(state or {}),
                system=SystemRecord(id=SYSTEM_ID, name="Tested"),
            )
            module = await _start(core, device, start)
            if connected:
                await module.status("connected", True)
                if port is None and start.role != LOGIC:
                    # Else the device might be unplugged with the connection half accepted,
                    # and that one would stay open.
                    await device.expect_connection(1)
            yield module
            core.terminate()
            await parent.exited(pid)
        finally:
            await core.close()
    finally:
        await device.unplug()


async def _start(core: PlayedCore, device: ScriptedDevice, start: ModuleStart) -> TestedModule:
    defaults = await core.ready()
    start.name, start.role = defaults.generic_name, defaults.role
    await core.ask(Header(Command.START), msgspec.json.encode(start), TIMEOUT)
    return TestedModule(core, device, start)


def _raw(values: Mapping[str, object]) -> dict[str, Raw]:
    return {key: Raw(msgspec.json.encode(value)) for key, value in values.items()}
