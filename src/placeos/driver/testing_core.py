"""The part of core that `testing.py` plays: the fork parent's client, and the link's other end."""

from __future__ import annotations

import asyncio
import atexit
import inspect
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import msgspec
from msgspec import Raw

from placeos.wire.errors import CallError, Failure
from placeos.wire.frame import Command, Header
from placeos.wire.link import Link
from placeos.wire.messages import (
    Bind,
    DriverDefaults,
    Fault,
    LogLine,
    Message,
    Monitor,
    Publish,
    Read,
    Setting,
    StateChanges,
    SystemModule,
    SystemRecord,
    SystemView,
    Unbind,
    Value,
)

START_TIMEOUT = 10.0  # seconds for a process to come up

_shared: dict[asyncio.AbstractEventLoop, ForkParent] = {}


class ForkParent:
    """A fork parent process and its control socket."""

    def __init__(self) -> None:
        self.exits: dict[int, int] = {}
        self._forked: dict[str, int] = {}
        self._failed: dict[str, str] = {}
        self._changed = asyncio.Event()
        self._count = 0

    async def __aenter__(self) -> ForkParent:
        return self.start()

    async def __aexit__(self, *_: object) -> None:
        asyncio.get_running_loop().remove_reader(self._control)
        await asyncio.to_thread(self.stop)

    def start(self) -> ForkParent:
        """Start the process; it serves the running loop."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            command = [sys.executable, "-m", "placeos.driver.parent", str(theirs.fileno())]
            self._process = subprocess.Popen(
                command, pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL
            )
        ours.setblocking(False)
        self._control = ours
        asyncio.get_running_loop().add_reader(ours, self._read)
        return self

    def stop(self) -> None:
        """End it, and with it every process it forked."""
        self._control.close()
        self._process.wait(START_TIMEOUT)

    @classmethod
    def shared(cls) -> ForkParent:
        """One that serves all tests on the running loop, and ends with the interpreter."""
        loop = asyncio.get_running_loop()
        parent = _shared.get(loop)
        if parent is None or parent._process.poll() is not None:
            parent = _shared[loop] = cls().start()
            atexit.register(parent.stop)
        return parent

    @property
    def pid(self) -> int:
        """The process id of the parent."""
        return self._process.pid

    async def fork(self, path: str, core: PlayedCore, title: str = "") -> int:
        """Start a driver process whose link `core` serves; returns its process id."""
        self._count += 1
        key = f"{self._count}"
        ours, theirs = socket.socketpair()
        with theirs:
            request = msgspec.json.encode({"fork": key, "path": path, "title": title})
            socket.send_fds(self._control, [request], [theirs.fileno()])
        await core.serve(ours)
        await self._until(lambda: key in self._forked or key in self._failed)
        if key in self._failed:
            raise OSError(self._failed[key])
        return self._forked[key]

    async def exited(self, pid: int) -> int:
        """Wait for the end of a driver process: its exit status, or minus the signal."""
        await self._until(lambda: pid in self.exits)
        return self.exits[pid]

    async def _until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(START_TIMEOUT):
            while not condition():
                self._changed.clear()
                await self._changed.wait()

    def _read(self) -> None:
        data = self._control.recv(65_536)
        if not data:
            asyncio.get_running_loop().remove_reader(self._control)
            return
        message = msgspec.json.decode(data)
        if "forked" in message:
            self._forked[message["forked"]] = message["pid"]
        elif "exited" in message:
            self.exits[message["pid"]] = message["status"]
        else:
            self._failed[message["failed"]] = message["error"]
        self._changed.set()


class FakeModule:
    """A module of the tested module's system: items are its state, methods its functions."""

    implements: ClassVar[Sequence[str]] = ()

    def __init__(self, **state: object) -> None:
        self.state: dict[str, object] = dict(state)
        self.calls: list[tuple[str, list[object]]] = []
        self.changed: Callable[[], None] = lambda: None

    def __getitem__(self, key: str) -> object:
        return self.state.get(key)

    def __setitem__(self, key: str, value: object) -> None:
        self.state[key] = value
        self.changed()

    async def run(self, function: str, payload: bytes) -> object:
        """Call the method of that name and remember the call. Raises CallError."""
        method = getattr(self, function, None)
        if function.startswith("_") or hasattr(FakeModule, function) or not callable(method):
            raise CallError(Failure.FUNCTION_NOT_FOUND, f"could not find function {function}")
        arguments = msgspec.json.decode(payload)
        positional = arguments if isinstance(arguments, list) else list(arguments.values())
        self.calls.append((function, positional))
        result = method(*positional)
        return await result if inspect.isawaitable(result) else result


class PlayedCore:
    """Core's end of a driver process's link."""

    def __init__(self, system_id: str, system: Mapping[str, Sequence[FakeModule]]) -> None:
        self.state: dict[str, Any] = {}
        self.faults: list[str] = []
        self.logs: list[LogLine] = []
        self.published: list[Publish] = []
        self.saved: dict[str, Any] = {}
        self.defaults: DriverDefaults | None = None
        self._system_id = system_id
        self._history: dict[str, list[object]] = {}
        self._modules: dict[str, FakeModule] = {}
        self._bindings: dict[int, Bind] = {}
        self._sent: dict[int, bytes] = {}
        self._monitors: dict[int, str] = {}
        self._changed = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self._link: Link
        self.set_system(system)

    def set_system(self, system: Mapping[str, Sequence[FakeModule]]) -> None:
        """Change which modules the system has; bindings follow."""
        self._modules = {
            f"{name}/{index}": module
            for name, modules in system.items()
            for index, module in enumerate(modules, 1)
        }
        for module in self._modules.values():
            module.changed = self._values
        self._values()

    def say(self, channel: str, text: str) -> None:
        """Send text on a channel that the process monitors."""
        for number, monitored in self._monitors.items():
            if monitored == channel:
                payload = msgspec.json.encode(Message(number, text))
                self._link.send(Header(Command.MESSAGE), payload)

    async def serve(self, sock: socket.socket) -> None:
        """Take the link into use."""
        sock.setblocking(False)
        self._link = Link(
            self._on_frame, server=True, on_closed=lambda _link, _reason: self._changed.set()
        )
        await asyncio.get_running_loop().create_connection(lambda: self._link, sock=sock)

    async def close(self) -> None:
        """Close the link, which ends the process."""
        self._link.abort(ConnectionError("the test is over"))
        await self._link.closed

    async def ready(self) -> DriverDefaults:
        """Wait for READY. Raises AssertionError when the driver cannot be used."""
        closed = self._link.closed
        await self.until(lambda: bool(self.defaults or closed.done()), START_TIMEOUT)
        if self.defaults is None:
            raise AssertionError("; ".join(self.faults) or "the driver process ended")
        return self.defaults

    async def ask(self, header: Header, payload: bytes, timeout: float) -> Any:
        """A request to the driver process; its answer decoded. Raises CallError."""
        _, answer = await self._link.request(header, payload, timeout=timeout)
        return msgspec.json.decode(answer)

    def terminate(self) -> None:
        """Tell the process to end."""
        self._link.send(Header(Command.TERMINATE))

    async def until(self, condition: Callable[[], bool], timeout: float) -> None:
        """Wait for something that frames of the process bring about."""
        async with asyncio.timeout(timeout):
            while not condition():
                self._changed.clear()
                await self._changed.wait()
                if self._link.closed.done() and not condition():
                    raise AssertionError("the driver process ended")

    # -- frames of the process ------------------------------------------------------------

    def _on_frame(self, link: Link, header: Header, payload: bytes) -> None:
        match header.command:
            case Command.READY:
                self.defaults = msgspec.json.decode(payload, type=DriverDefaults)
                link.reply(header.sequence)
            case Command.STATE:
                for key, text in msgspec.json.decode(payload, type=StateChanges):
                    self._store(key, msgspec.json.decode(text))
            case Command.FAULT:
                self.faults.append(msgspec.json.decode(payload, type=Fault).message)
            case Command.LOG:
                self.logs.append(msgspec.json.decode(payload, type=LogLine))
            case Command.PUBLISH:
                self.published.append(msgspec.json.decode(payload, type=Publish))
            case Command.SETTING:
                setting = msgspec.json.decode(payload, type=Setting)
                self.saved[setting.name] = msgspec.json.decode(setting.value)
                link.reply(header.sequence)
            case Command.BIND:
                bind = msgspec.json.decode(payload, type=Bind)
                self._bindings[bind.binding] = bind
                self._values()
            case Command.MONITOR:
                monitor = msgspec.json.decode(payload, type=Monitor)
                self._monitors[monitor.binding] = monitor.channel
            case Command.UNBIND:
                binding = msgspec.json.decode(payload, type=Unbind).binding
                self._bindings.pop(binding, None)
                self._monitors.pop(binding, None)
                self._sent.pop(binding, None)
            case Command.READ:
                key = msgspec.json.decode(payload, type=Read).key
                module = self._find(header.module)
                link.reply(header.sequence, msgspec.json.encode(module and module[key]))
            case Command.SYSTEM:
                link.reply(header.sequence, msgspec.json.encode(self._view()))
            case Command.EXECUTE:
                task = asyncio.create_task(self._execute(header, payload))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)
        self._changed.set()

    def saw(self, key: str, value: object) -> bool:
        """Whether a status has a value, or had it since that key was last asked for."""
        seen = self._history.setdefault(key, [])
        while seen:
            if seen.pop(0) == value:
                return True
        return bool(self.state.get(key) == value)

    def _store(self, key: str, value: object) -> None:
        self._history.setdefault(key, []).append(value)
        if value is None:
            self.state.pop(key, None)
        else:
            self.state[key] = value

    def _find(self, place: str) -> FakeModule | None:
        return self._modules.get(place.removeprefix(f"{self._system_id}/").removeprefix("mod-"))

    async def _execute(self, header: Header, payload: bytes) -> None:
        module = self._find(header.module)
        if module is None:
            error = CallError(Failure.MODULE_NOT_FOUND, "could not find module")
            self._link.fail(header.sequence, error)
            return
        try:
            result = await module.run(header.function, payload)
        except CallError as error:
            self._link.fail(header.sequence, error)
        except Exception as error:
            kind = type(error).__name__
            self._link.fail(header.sequence, CallError(Failure.RAISED, str(error), kind=kind))
        else:
            self._link.reply(header.sequence, msgspec.json.encode(result))

    def _values(self) -> None:
        """Send each binding its present value, if that is news."""
        for number, bind in self._bindings.items():
            module = self._modules.get(f"{bind.name}/{bind.index}")
            text = msgspec.json.encode(module[bind.key] if module is not None else None)
            known = self._sent.get(number)
            if text != known and not (known is None and text == b"null"):
                self._sent[number] = text
                payload = msgspec.json.encode(Value(number, Raw(text)))
                self._link.send(Header(Command.VALUE), payload)

    def _view(self) -> SystemView:
        modules = []
        for place, module in self._modules.items():
            name, _, index = place.partition("/")
            modules.append(
                SystemModule(f"mod-{place}", name, int(index), implements=list(module.implements))
            )
        return SystemView(SystemRecord(id=self._system_id, name="Tested"), modules)
