"""What driver processes ask for and tell: state, bindings, calls, settings, logs.

All they can reach is what is written here, and only on behalf of modules that run in them.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Final, Protocol

import msgspec
from msgspec import Raw
from redis.asyncio import Redis

from placeos.core.calls import Origin, Remote, Switch
from placeos.core.desired import Records, system_view
from placeos.core.listener import DebugLog
from placeos.core.process.processes import DriverProcess, fault_text, read_fault
from placeos.core.reports import DRIVER, TOLD_BY_BOTH, Reports
from placeos.core.state_writer import StateWriter
from placeos.driver.flood import Allowance
from placeos.state import values
from placeos.state.bindings import Binding, Bindings
from placeos.state.client import UNAVAILABLE, StateUnavailable
from placeos.state.lookups import Lookups
from placeos.wire.errors import CallError, Failure
from placeos.wire.frame import Command, FrameError, Header
from placeos.wire.link import Link
from placeos.wire.messages import (
    Bind,
    Message,
    Monitor,
    Publish,
    Read,
    Setting,
    StateChanges,
    SystemModule,
    Unbind,
    Value,
)

log = logging.getLogger("placeos.core")

MAX_BINDINGS: Final = 100_000  # of one driver process
MAX_TASKS: Final = 1_000  # requests of one driver process that wait for something
LINES: Final = 20.0  # log lines a second about one driver process, and as many at once as
LINES_AT_ONCE: Final = 200
MAX_LINE: Final = 4_000  # characters
_encode = msgspec.json.encode
_state = msgspec.json.Decoder(StateChanges).decode


class StoreSetting(Protocol):
    """Stores one setting of a module."""

    async def __call__(self, module: str, name: str, value: object) -> None:
        """Raises CallError when it could not be stored."""
        ...


@dataclass(slots=True)
class Session:
    """What one life of a driver process holds."""

    origin: Origin
    bindings: dict[int, tuple[str, Binding]] = field(default_factory=dict)
    tasks: set[asyncio.Task[None]] = field(default_factory=set)
    lines: Allowance = field(default_factory=lambda: Allowance(LINES, LINES_AT_ONCE))


class Drivers:
    """Serves the frames of all driver processes."""

    def __init__(
        self,
        *,
        switch: Switch,
        remote: Remote,
        state: StateWriter,
        bindings: Bindings,
        lookups: Lookups,
        redis: Redis,
        records: Records,
        reports: Reports,
        debug: DebugLog,
        owns: Callable[[str], bool],
        store_setting: StoreSetting,
    ) -> None:
        self._switch = switch
        self._remote = remote
        self._state = state
        self._bindings = bindings
        self._lookups = lookups
        self._redis = redis
        self._records = records
        self._reports = reports
        self._debug = debug
        self._owns = owns
        self._store_setting = store_setting
        self._sessions: dict[DriverProcess, Session] = {}
        self.interfaces: dict[str, SystemModule] = {}
        """What is known of the modules that run here, for system views."""

    # -- lives of processes ---------------------------------------------------------------------

    def opened(self, process: DriverProcess) -> None:
        """A process became ready."""
        if process.link is not None:
            self._sessions[process] = Session(Origin(process.link))

    def closed(self, process: DriverProcess) -> None:
        """A process ended: its bindings, calls and tasks end with it."""
        session = self._sessions.pop(process, None)
        if session is not None:
            session.origin.closed()
            for _, binding in session.bindings.values():
                binding.close()
            for task in session.tasks:
                task.cancel()

    def cancel(self, process: DriverProcess, sequence: int) -> None:
        """A driver no longer waits for an answer."""
        session = self._sessions.get(process)
        if session is not None:
            session.origin.cancel(sequence)

    # -- frames ---------------------------------------------------------------------------------

    def frame(self, process: DriverProcess, header: Header, payload: bytes) -> None:
        """Serve one frame. Bad payloads are answered or logged, never raised."""
        session = self._sessions.get(process)
        link = process.link
        if session is None or link is None:
            return
        try:
            self._serve(process, session, link, header, payload)
        except CallError as error:
            link.fail(header.sequence, error)
        except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
            message = f"unreadable payload of frame {header.command}: {error}"
            _complain(session, "bad frame", driver=process.version.title, reason=message)
            link.fail(header.sequence, CallError(Failure.BAD_REQUEST, message))

    def _serve(
        self,
        process: DriverProcess,
        session: Session,
        link: Link,
        header: Header,
        payload: bytes,
    ) -> None:
        match header.command:
            case Command.STATE:
                if self._runs_in(link, header.module):
                    self._changed(process, session, header.module, _state(payload))
            case Command.EXECUTE:
                self._execute(session, link, header, payload)
            case Command.LOG:
                if self._runs_in(link, header.module):
                    self._debug.line(header.module, payload)
            case Command.FAULT:
                if not header.module or self._runs_in(link, header.module):
                    self._fault(process, session, header.module, payload)
            case Command.BIND:
                bind = msgspec.json.decode(payload, type=Bind)
                self._bind(session, link, header.module, bind)
            case Command.MONITOR:
                monitor = msgspec.json.decode(payload, type=Monitor)
                self._monitor(session, link, header.module, monitor)
            case Command.UNBIND:
                number = msgspec.json.decode(payload, type=Unbind).binding
                known = session.bindings.pop(number, None)
                if known is not None:
                    known[1].close()
            case Command.PUBLISH:
                text = msgspec.json.decode(payload, type=Publish)
                self._state.publish(text.channel, text.text)
            case Command.READ:
                key = msgspec.json.decode(payload, type=Read).key
                self._spawn(session, link, header, self._read(link, header, key))
            case Command.SYSTEM:
                self._system(link, header, msgspec.json.decode(payload, type=str))
            case Command.SETTING:
                setting = msgspec.json.decode(payload, type=Setting)
                self._spawn(session, link, header, self._setting(link, header, setting))
            case _:
                raise CallError(Failure.BAD_REQUEST, f"core knows no frame {header.command}")

    def _runs_in(self, link: Link, module: str) -> bool:
        # A module that is being started is not in the switch yet, but may set state already;
        # one of another process never may.
        running = self._switch.running.get(module)
        return running is link or (running is None and self._state.owns(module))

    def _spawn(
        self, session: Session, link: Link, header: Header, job: Coroutine[object, object, None]
    ) -> None:
        if len(session.tasks) >= MAX_TASKS:
            raise CallError(Failure.BUSY, "too many requests of this driver process are open")

        async def guarded() -> None:
            try:
                await job
            except CallError as error:
                link.fail(header.sequence, error)
            except (StateUnavailable, *UNAVAILABLE) as error:
                link.fail(header.sequence, CallError(Failure.NOT_RUN, str(error)))

        task = asyncio.get_running_loop().create_task(guarded())
        session.tasks.add(task)
        task.add_done_callback(session.tasks.discard)

    # -- state ----------------------------------------------------------------------------------

    def _changed(
        self, process: DriverProcess, session: Session, module: str, changes: StateChanges
    ) -> None:
        if refused := self._state.change(module, changes):
            reason = f"{refused} values are too large, or too many with all others"
            _complain(session, "state refused", driver=process.version.title, reason=reason)
            self._reports.module_error(module, f"{DRIVER} state", f"state refused: {reason}")
        for key, raw in changes:
            if key == "connected" and bytes(raw) == b"true":
                self._reports.module_well(module, "connect")

    def _fault(self, process: DriverProcess, session: Session, module: str, payload: bytes) -> None:
        fault = read_fault(payload)
        cause = fault.cause if fault.cause in TOLD_BY_BOTH else f"{DRIVER} {fault.cause}"
        if fault.over:
            self._reports.module_well(module, cause)
            return
        text = fault_text(fault)
        title = process.version.title
        _complain(session, "driver fault", driver=title, id=module, reason=text)
        if module:
            self._reports.module_error(module, cause, text)

    # -- bindings -------------------------------------------------------------------------------

    def _bind(self, session: Session, link: Link, module: str, bind: Bind) -> None:
        def on_value(value: bytes) -> None:
            _send(link, Command.VALUE, module, Value(bind.binding, Raw(value)))

        self._keep(
            session,
            bind.binding,
            module,
            self._bindings.bind(bind.system, bind.name, bind.index, bind.key, on_value),
        )

    def _monitor(self, session: Session, link: Link, module: str, monitor: Monitor) -> None:
        def on_text(text: str) -> None:
            _send(link, Command.MESSAGE, module, Message(monitor.binding, text))

        binding = self._bindings.monitor(monitor.channel, on_text)
        self._keep(session, monitor.binding, module, binding)

    def _keep(self, session: Session, number: int, module: str, binding: Binding) -> None:
        known = session.bindings.pop(number, None)
        if known is not None:
            known[1].close()
        if len(session.bindings) >= MAX_BINDINGS:
            binding.close()
            raise CallError(Failure.BUSY, "too many bindings in this driver process")
        session.bindings[number] = (module, binding)

    def module_stopped(self, module: str) -> None:
        """No binding of the module stays, whatever its driver forgot."""
        self.interfaces.pop(module, None)
        for session in self._sessions.values():
            ended = [n for n, (owner, _) in session.bindings.items() if owner == module]
            for number in ended:
                session.bindings.pop(number)[1].close()

    # -- asking ---------------------------------------------------------------------------------

    def _execute(self, session: Session, link: Link, header: Header, payload: bytes) -> None:
        if "/" not in header.module:
            self._route(session.origin, header, payload)
            return
        system, name, index = _place(header.module)
        known = self._lookups.known(system)
        if known is not None:
            header.module = _found(known.get(f"{name}/{index}"))
            self._route(session.origin, header, payload)
            return

        async def resolve() -> None:
            header.module = _found(await self._lookups.resolve(system, name, index))
            self._route(session.origin, header, payload)

        self._spawn(session, link, header, resolve())

    def _route(self, origin: Origin, header: Header, payload: bytes) -> None:
        if header.module in self._switch.running or self._owns(header.module):
            self._switch.execute(origin, header, payload)
        else:
            self._switch.execute_elsewhere(origin, header, payload, self._remote)

    async def _read(self, link: Link, header: Header, key: str) -> None:
        module = header.module
        if "/" in module:
            module = _found(await self._lookups.resolve(*_place(module)))
        if self._state.owns(module):
            value = self._state.value(module, key)
        else:
            value = await values.read(self._redis, module, key)
        link.reply(header.sequence, value if value is not None else b"null")

    def _system(self, link: Link, header: Header, system: str) -> None:
        view = system_view(self._records, system, self.interfaces)
        if view is None:
            raise CallError(Failure.MODULE_NOT_FOUND, f"there is no system {system}")
        link.reply(header.sequence, _encode(view))

    async def _setting(self, link: Link, header: Header, setting: Setting) -> None:
        if not self._runs_in(link, header.module):
            raise CallError(Failure.ACCESS_DENIED, "a module may set its own settings only")
        value = msgspec.json.decode(setting.value)
        await self._store_setting(header.module, setting.name, value)
        link.reply(header.sequence)


def _place(text: str) -> tuple[str, str, int]:
    """System, name and index of `<system>/<name>/<index>`. Raises CallError."""
    system, _, rest = text.partition("/")
    name, _, index = rest.rpartition("/")
    if not (system and name and index.isascii() and index.isdigit() and len(index) < 10):
        raise CallError(Failure.MODULE_NOT_FOUND, f"could not find module: {text[:200]}")
    return system, name, int(index)


def _found(module: str | None) -> str:
    if module is None:
        raise CallError(Failure.MODULE_NOT_FOUND, "could not find module")
    return module


def _send(link: Link, command: Command, module: str, message: Value | Message) -> None:
    if link.is_open:
        try:
            link.send(Header(command, module=module), _encode(message))
        except FrameError as error:
            log.warning("value not delivered", extra={"id": module, "reason": str(error)})


def _complain(session: Session, event: str, **about: object) -> None:
    """A log line about a driver process, within its allowance: it must not fill our log."""
    if session.lines.allows(asyncio.get_running_loop().time()):
        about["reason"] = str(about["reason"])[:MAX_LINE]
        if dropped := session.lines.take_dropped():
            about["dropped"] = dropped
        log.warning(event, extra=about)
