"""One driver file against one device: its process, its module, and reloading both."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import msgspec

from placeos.cli.driver.words import Word, typed, undeclared
from placeos.driver.environment import EnvironmentProblem
from placeos.driver.loader import LOGIC
from placeos.driver.testing.core import Changed, News, PlayedCore
from placeos.driver.testing.module import raw
from placeos.driver.testing.packages import python_for
from placeos.driver.testing.parent import ForkParent
from placeos.wire.errors import CallError
from placeos.wire.frame import Clearance, Command, Header
from placeos.wire.messages import (
    DriverDefaults,
    Fault,
    LogLine,
    ModuleMetadata,
    ModuleStart,
    Publish,
    SystemRecord,
)

MODULE: Final = "mod-tried"
ROLES: Final = {"ssh": 0, "tcp": 1, "udp": 1, "http": 2, "service": 2, "websocket": 3, "logic": 99}
BY_URI: Final = (2, 3)  # roles whose devices are reached by a URI
SYSTEM: Final = SystemRecord(id="sys-tried", name="Tried")
CALL_WITHIN: Final = 60.0  # seconds
LOOK_EVERY: Final = 0.3  # seconds between looks whether the file was saved
CONNECTS_WITHIN: Final = 5.0
RESTART_AFTER: Final = 2.0
LEVELS: Final = ("trace", "debug", "info", "notice", "warning", "error", "fatal")

Say = Callable[[str, str], None]
"""Shows a line; the first argument is its kind: state, log, fault, wire, note."""


class CannotRun(Exception):
    """The driver file cannot be used; the message says where and why."""


@dataclass
class Target:
    """What was said on the command line of how the device is reached."""

    host: str = ""
    port: int = 0
    uri: str = ""
    role: str = ""
    tls: bool = False
    makebreak: bool | None = None
    settings: dict[str, Any] = field(default_factory=dict)

    def record(self, defaults: DriverDefaults, state: dict[str, Any]) -> ModuleStart:
        """The record of the module. Raises CannotRun if that is no way to reach its device."""
        role = ROLES[self.role] if self.role else self._role(defaults)
        if role not in (defaults.roles or [defaults.role]):
            raise CannotRun(f"the driver has no transport for the role {self.role}")
        udp = self.role == "udp" or (
            role == 1 and not self.role and not defaults.tcp_port and bool(defaults.udp_port)
        )
        port = (defaults.udp_port if udp else defaults.tcp_port) or 0
        uri = self.uri or defaults.uri_base or ""
        if role in BY_URI and not uri:
            raise CannotRun("the device's address is missing: give --uri")
        if role not in (*BY_URI, LOGIC) and not self.host:
            raise CannotRun("the device's address is missing: give --host")
        return ModuleStart(
            id=MODULE,
            name=defaults.generic_name,
            role=role,
            ip=self.host,
            port=self.port or port,
            uri=uri,
            tls=self.tls,
            udp=udp,
            makebreak=defaults.makebreak if self.makebreak is None else self.makebreak,
            settings=raw(self.typed(defaults.json_schema)),
            system=SYSTEM,
            state=raw(state),
            debug=True,
        )

    def typed(self, schema: dict[str, Any]) -> dict[str, Any]:
        """The settings, as what the driver's schema says they are."""
        known = schema.get("properties", {})
        return {
            name: typed(content, known.get(name, {})) if isinstance(content, Word) else content
            for name, content in self.settings.items()
        }

    def _role(self, defaults: DriverDefaults) -> int:
        """The first that fits what was given."""
        fitting = [role for role in defaults.roles if bool(self.uri) == (role in BY_URI)]
        return fitting[0] if fitting and (self.uri or self.host) else defaults.role


@dataclass
class Running:
    """A driver process that has loaded the file."""

    core: PlayedCore
    pid: int
    defaults: DriverDefaults
    metadata: ModuleMetadata | None = None


class Session:
    """Keeps the module running, with the newest version of the file that can be used."""

    def __init__(self, file: Path, target: Target, say: Say) -> None:
        self.file = file
        self.target = target
        self.wire = True
        self.wrong_settings = False
        """Whether the settings could not be used, some time."""
        self._say = say
        self._parents: dict[str, ForkParent] = {}
        self._output: asyncio.Task[None] | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._faults: dict[str, str] = {}  # by cause, while they last
        self._running: Running

    async def __aenter__(self) -> Session:
        """Load the file and start the module. Raises CannotRun."""
        read, self._write = os.pipe()
        self._output = asyncio.create_task(self._relay(read))
        try:
            self._running = await self._load()
            for name in undeclared(self.target.settings, self.schema):
                self._say("note", f"the driver declares no setting {name}")
            await self._start({})
        except BaseException:
            await self.__aexit__()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        for parent in self._parents.values():
            await parent.__aexit__()
        os.close(self._write)
        if self._output is not None:
            await self._output

    @property
    def state(self) -> dict[str, Any]:
        """The live state."""
        return self._running.core.state

    @property
    def schema(self) -> dict[str, Any]:
        """The JSON schema of the settings."""
        return self._running.defaults.json_schema

    @property
    def functions(self) -> dict[str, list[str]]:
        """Names of the functions, and of their arguments."""
        metadata = self._running.metadata
        if metadata is None:  # it was loaded, and then could not be started
            return {}
        return {name: list(arguments) for name, arguments in metadata.interface.items()}

    def signature(self, function: str) -> str:
        """A function as one reads it: `power(state: Bool)`."""
        metadata = self._running.metadata
        assert metadata is not None
        parts = []
        for name, details in metadata.interface[function].items():
            default = f" = {json.dumps(details['default'])}" if "default" in details else ""
            parts.append(f"{name}: {details.get('title', 'Any')}{default}")
        return f"{function}({', '.join(parts)})"

    async def wait_connected(self) -> bool:
        """Whether the device is there, after a while at the most."""
        core = self._running.core
        with contextlib.suppress(TimeoutError, AssertionError):
            await core.until(lambda: core.state.get("connected") is not None, CONNECTS_WITHIN)
        return bool(core.state.get("connected"))

    async def call(self, function: str, given: list[Any] | dict[str, Any]) -> Any:
        """Call a function as an administrator. Raises CallError."""
        header = Header(
            Command.EXECUTE,
            module=MODULE,
            function=function,
            clearance=Clearance.ADMINISTRATOR,
        )
        return await self._running.core.ask(header, msgspec.json.encode(given), CALL_WITHIN)

    async def set(self, name: str, content: Any) -> None:
        """Change a setting. Raises CallError; then the old one stays."""
        before = dict(self.target.settings)
        self.target.settings[name] = content
        try:
            await self._update()
        except CallError:
            self.target.settings = before
            raise

    async def follow_file(self) -> None:
        """Run the newest version of the file, whenever it was saved. Never ends."""
        seen = self._stamp()
        while True:
            await asyncio.sleep(LOOK_EVERY)
            now = self._stamp()
            if now != seen and now is not None:
                seen = now
                await self.reload()
            elif self._running.core.ended:
                self._say("fault", "the driver process ended; it is started again")
                await asyncio.sleep(RESTART_AFTER)
                await self.reload()

    async def reload(self) -> None:
        """Load the file anew; if that cannot be used the old version goes on."""
        try:
            newer = await self._load()
        except CannotRun as error:
            self._say("fault", f"{error} (the old version goes on)")
            return
        before, self._running = self._running, newer
        with contextlib.suppress(CallError, TimeoutError):
            header = Header(Command.STOP, module=MODULE)
            await before.core.ask(header, b"", CONNECTS_WITHIN)
        state = {key: value for key, value in before.core.state.items() if key != "connected"}
        before.core.on_news = lambda _news: None
        await before.core.close()
        try:
            await self._start(state)
        except CannotRun as error:
            self._say("fault", str(error))
        else:
            self._say("note", f"{self.file.name} was loaded again")

    # -- inside -----------------------------------------------------------------------------

    async def _load(self) -> Running:
        try:
            python = await python_for(self.file, lambda line: self._say("note", line))
        except EnvironmentProblem as error:
            raise CannotRun(str(error)) from error
        parent = self._parents.get(python)
        if parent is None:
            parent = self._parents[python] = ForkParent(python, self._write).start()
        core = PlayedCore()
        try:
            pid = await parent.fork(str(self.file.resolve()), core)
            defaults = await core.ready()
            self.target.record(defaults, {})  # can it reach its device?
        except CannotRun:
            await core.close()
            raise
        except (AssertionError, OSError, TimeoutError) as error:
            await core.close()
            raise CannotRun(str(error) or f"{self.file.name} did not load in time") from error
        return Running(core, pid, defaults)

    async def _start(self, state: dict[str, Any]) -> None:
        running = self._running
        running.core.on_news = self._news
        running.core.on_saved = lambda name, content: self._saved(name, bytes(content))
        running.core.state.update(state)
        start = self.target.record(running.defaults, state)
        try:
            answer = await running.core.ask(
                Header(Command.START), msgspec.json.encode(start), CALL_WITHIN
            )
        except CallError as error:
            raise CannotRun(f"{self.file.name}: {error.message}") from error
        running.metadata = msgspec.convert(answer, ModuleMetadata)

    async def _update(self) -> None:
        core = self._running.core
        start = self.target.record(self._running.defaults, {})
        await core.ask(Header(Command.UPDATE), msgspec.json.encode(start), CALL_WITHIN)

    def _saved(self, name: str, content: bytes) -> None:
        self.target.settings[name] = msgspec.json.decode(content)
        self._say("note", f"the driver stored the setting {name}")
        task = asyncio.create_task(self._update())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _news(self, news: News) -> None:
        match news:
            case Changed(key, content):
                self._say("state", f"{key} = {json.dumps(content)}")
            case Fault(cause=cause, over=True):
                self._faults.pop(cause, None)
            case Fault(message=message, backtrace=lines, cause=cause):
                self._faults[cause] = message
                self.wrong_settings |= cause == "settings"
                self._say("fault", "\n".join([message, *lines]))
            case LogLine(message=message) if message in self._faults.values():
                pass  # each further try would repeat it
            case LogLine(level=0, message=message):
                if self.wire:
                    self._say("wire", message)
            case LogLine(level=level, message=message):
                self._say("log", f"{LEVELS[min(level, len(LEVELS) - 1)]}: {message}")
            case Publish(channel=channel, text=text):
                self._say("note", f"published on {channel}: {text}")

    async def _relay(self, read: int) -> None:
        """Show what the driver prints; its log comes by the link already."""
        reader = asyncio.StreamReader()
        loop = asyncio.get_running_loop()
        with open(read, "rb", buffering=0) as pipe:  # noqa: ASYNC230 - it is open already
            protocol = asyncio.StreamReaderProtocol(reader)
            transport, _ = await loop.connect_read_pipe(lambda: protocol, pipe)
            while True:
                try:
                    line = await reader.readline()
                except ValueError:  # longer than a reader takes; that part of it is dropped
                    self._say("note", "a line that is too long to be shown")
                    continue
                if not line:
                    break
                text = line.decode(errors="replace").rstrip()
                if not _is_own_log(text):
                    self._say("note", text)
            transport.close()

    def _stamp(self) -> tuple[int, int, int] | None:
        try:
            found = self.file.stat()
        except OSError:  # it is being replaced
            return None
        return found.st_mtime_ns, found.st_size, found.st_ino


def _is_own_log(text: str) -> bool:
    try:
        line = msgspec.json.decode(text)
    except msgspec.DecodeError:
        return False
    return isinstance(line, dict) and line.get("logger") == MODULE
