"""What modules ask of core over the link of their process."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import msgspec
from msgspec import Raw

from placeos.driver.calls import DEEPEST, Call, present
from placeos.driver.errors import Busy, DriverError, RemoteError, sendable
from placeos.driver.state import Changes
from placeos.wire.errors import CallError, Failure
from placeos.wire.frame import Clearance, Command, FrameError, Header
from placeos.wire.link import HIGH_WATER, Link
from placeos.wire.messages import (
    Bind,
    Fault,
    LogLine,
    Message,
    Monitor,
    Publish,
    Read,
    Setting,
    SystemView,
    Unbind,
    Value,
)

_encode = msgspec.json.encode
_SETTING_TIMEOUT = 10.0  # seconds
MAX_TEXT = 1024 * 1024  # characters of a text for a channel
_BATCH = 4 * 1024 * 1024  # bytes of JSON in one STATE frame

OnValue = Callable[[bytes], None]
OnText = Callable[[str], None]


class Upstream:
    """The process's side of the link, for all its modules.

    Bounded while core reads slowly: of state the newest value of each key waits, lines of a
    debug log are dropped and counted, texts for channels are refused.
    """

    def __init__(self, link: Link) -> None:
        self._link = link
        self._bindings: dict[int, OnValue] = {}
        self._monitors: dict[int, OnText] = {}
        self._number = 0
        self._held: dict[str, dict[str, bytes]] = {}  # module → key → newest value
        self._release: asyncio.Task[None] | None = None
        self._dropped = 0

    # -- telling --------------------------------------------------------------------------

    def state(self, module: str, changes: Changes) -> None:
        """Publish changed state values."""
        if not self._held and not self._congested():
            self._send_state(module, changes)
            return
        self._held.setdefault(module, {}).update(changes)
        if self._release is None:
            self._release = asyncio.get_running_loop().create_task(self._release_held())

    def fault(
        self, module: str, message: str, backtrace: list[str] | None = None, *, cause: str = ""
    ) -> None:
        """Show an administrator what is wrong with a module, or (module "") with the driver.

        A newer fault of the same `cause` takes its place.
        """
        payload = _encode(Fault(sendable(message), backtrace or [], sendable(cause)))
        self._link.send(Header(Command.FAULT, module=module), payload)

    def well(self, module: str, cause: str) -> None:
        """The fault of that cause is over."""
        payload = _encode(Fault("", cause=sendable(cause), over=True))
        self._link.send(Header(Command.FAULT, module=module), payload)

    def log(self, module: str, level: int, text: str) -> None:
        """One line for those who debug the module."""
        if self._congested():
            self._dropped += 1
            return
        if self._dropped:
            text = f"({self._dropped} lines were dropped)\n{text}"
            self._dropped = 0
        self._link.send(Header(Command.LOG, module=module), _encode(LogLine(level, text)))

    def publish(self, module: str, channel: str, text: str) -> None:
        """Send text on a channel. Raises Busy; DriverError for one that is too long."""
        if len(text) > MAX_TEXT:
            raise DriverError(f"a text for a channel has at most {MAX_TEXT} characters")
        if self._congested():
            raise Busy("core does not keep up with what is published")
        self._link.send(Header(Command.PUBLISH, module=module), _encode(Publish(channel, text)))

    def _congested(self) -> bool:
        return self._link.buffered() > HIGH_WATER

    def _send_state(self, module: str, changes: Changes) -> None:
        """As many frames as their size asks for."""
        batch: list[tuple[str, Raw]] = []
        size = 0
        for key, text in changes:
            if batch and size + len(text) > _BATCH:
                self._link.send(Header(Command.STATE, module=module), _encode(batch))
                batch, size = [], 0
            batch.append((key, Raw(text)))
            size += len(text)
        self._link.send(Header(Command.STATE, module=module), _encode(batch))

    async def _release_held(self) -> None:
        while self._held:
            await self._link.drain()
            module = next(iter(self._held))
            self._send_state(module, list(self._held.pop(module).items()))
            await asyncio.sleep(0)  # let it be written before the next is judged
        self._release = None

    # -- following ------------------------------------------------------------------------

    def bind(
        self, module: str, system: str, name: str, index: int, key: str, on_value: OnValue
    ) -> Callable[[], None]:
        """Follow a status value of a system's module. Returns what ends it."""
        number = self._next()
        self._bindings[number] = on_value
        payload = _encode(Bind(number, system, name, index, key))
        self._link.send(Header(Command.BIND, module=module), payload)
        return lambda: self._unbind(module, number)

    def monitor(self, module: str, channel: str, on_text: OnText) -> Callable[[], None]:
        """Follow a text channel. Returns what ends it."""
        number = self._next()
        self._monitors[number] = on_text
        self._link.send(Header(Command.MONITOR, module=module), _encode(Monitor(number, channel)))
        return lambda: self._unbind(module, number)

    def value(self, payload: bytes) -> None:
        """A VALUE frame came."""
        value = msgspec.json.decode(payload, type=Value)
        on_value = self._bindings.get(value.binding)
        if on_value is not None:
            on_value(bytes(value.value))

    def message(self, payload: bytes) -> None:
        """A MESSAGE frame came."""
        message = msgspec.json.decode(payload, type=Message)
        on_text = self._monitors.get(message.binding)
        if on_text is not None:
            on_text(message.text)

    def _next(self) -> int:
        self._number += 1
        return self._number

    def _unbind(self, module: str, number: int) -> None:
        known = self._bindings.pop(number, None) or self._monitors.pop(number, None)
        if known is not None:
            self._link.send(Header(Command.UNBIND, module=module), _encode(Unbind(number)))

    # -- asking ---------------------------------------------------------------------------

    async def execute(
        self, place: str, function: str, payload: bytes, seconds: float | None = None
    ) -> bytes:
        """Call a function of another module. Raises RemoteError."""
        call = present.get()
        if call.depth >= DEEPEST:
            why = f"modules call each other in a circle: {DEEPEST} calls within each other"
            raise RemoteError(why, code=508, failure=str(Failure.NOT_RUN))
        header = Header(
            Command.EXECUTE,
            module=place,
            function=function,
            user=call.user,
            depth=call.depth + 1,
            clearance=Clearance.ADMINISTRATOR,  # clearance binds people, not modules
        )
        return await self._ask(header, payload, _within(call, seconds))

    async def read(self, place: str, key: str, seconds: float | None = None) -> bytes:
        """The JSON of a status value of another module. Raises RemoteError."""
        header = Header(Command.READ, module=place)
        return await self._ask(header, _encode(Read(key)), _within(present.get(), seconds))

    async def system(self, system_id: str, seconds: float | None = None) -> SystemView:
        """A system and its modules. Raises RemoteError."""
        timeout = _within(present.get(), seconds)
        answer = await self._ask(Header(Command.SYSTEM), _encode(system_id), timeout)
        return msgspec.json.decode(answer, type=SystemView)

    async def save_setting(self, module: str, name: str, value: bytes) -> None:
        """Store one setting of a module. Raises RemoteError."""
        header = Header(Command.SETTING, module=module)
        await self._ask(header, _encode(Setting(name, Raw(value))), _SETTING_TIMEOUT)

    async def _ask(self, header: Header, payload: bytes, timeout: float) -> bytes:
        try:
            _, answer = await self._link.request(header, payload, timeout=timeout)
        except CallError as error:
            raise RemoteError(
                error.message, code=error.code, kind=error.kind, failure=str(error.failure)
            ) from error
        except FrameError as error:  # nothing was sent
            raise RemoteError(str(error), code=413, failure=str(Failure.NOT_RUN)) from error
        return answer


def _within(call: Call, seconds: float | None) -> float:
    """How long to wait: as long as the call has left, or `seconds` if that is less."""
    return call.remaining() if seconds is None else min(seconds, call.remaining())
