"""The part of core that `testing.py` plays: the other end of a driver process' link."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from typing import Any, NamedTuple

import msgspec
from msgspec import Raw

from placeos.driver.testing.parent import START_TIMEOUT
from placeos.driver.testing.system import FakeSystem
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
    Unbind,
    Value,
)


class Changed(NamedTuple):
    """A status has another value; None: it is gone."""

    key: str
    value: Any


News = Changed | Fault | LogLine | Publish


class PlayedCore:
    """Core's end of a driver process' link.

    `on_news` is told what the driver says, `on_saved` of each setting it stored.
    """

    def __init__(self, system: FakeSystem | None = None) -> None:
        self.state: dict[str, Any] = {}
        self.faults: list[str] = []
        self.logs: list[LogLine] = []
        self.published: list[Publish] = []
        self.saved: dict[str, Any] = {}
        self.defaults: DriverDefaults | None = None
        self.system = system or FakeSystem({})
        self.system.changed = self._values
        self.on_saved: Callable[[str, Raw], None] = lambda _name, _value: None
        self.on_news: Callable[[News], None] = lambda _news: None
        self._history: dict[str, list[object]] = {}
        self._bindings: dict[int, Bind] = {}
        self._sent: dict[int, bytes] = {}
        self._monitors: dict[int, str] = {}
        self._changed = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self._link: Link

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
        """Close the link, which ends the process, and what other modules still do for it."""
        self._link.abort(ConnectionError("the test is over"))
        await self._link.closed
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    @property
    def ended(self) -> bool:
        """Whether the process is gone."""
        return self._link.closed.done()

    async def ready(self) -> DriverDefaults:
        """Wait for READY. Raises AssertionError when the driver cannot be used."""
        await self.until(lambda: bool(self.defaults or self.ended), START_TIMEOUT)
        if self.defaults is None:
            raise AssertionError("; ".join(self.faults) or "the driver process ended")
        return self.defaults

    async def ask(
        self, header: Header, payload: bytes, timeout: float, *, unlimited: bool = False
    ) -> Any:
        """A request to the driver process; its answer decoded. Raises CallError.

        With `unlimited` the process is not told of the limit.
        """
        if not unlimited:
            _, answer = await self._link.request(header, payload, timeout=timeout)
        else:
            try:
                async with asyncio.timeout(timeout):
                    _, answer = await self._link.request(header, payload)
            except TimeoutError:
                raise CallError(Failure.TIMED_OUT, f"no answer within {timeout:g} s") from None
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
                if self.ended and not condition():
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
                fault = msgspec.json.decode(payload, type=Fault)
                if not fault.over:
                    self.faults.append(fault.message)
                self.on_news(fault)
            case Command.LOG:
                self.logs.append(msgspec.json.decode(payload, type=LogLine))
                self.on_news(self.logs[-1])
            case Command.PUBLISH:
                self.published.append(msgspec.json.decode(payload, type=Publish))
                self.on_news(self.published[-1])
            case Command.SETTING:
                setting = msgspec.json.decode(payload, type=Setting)
                self.saved[setting.name] = msgspec.json.decode(setting.value)
                link.reply(header.sequence)
                self.on_saved(setting.name, setting.value)
            case Command.BIND | Command.MONITOR | Command.UNBIND:
                self._follow(header.command, payload)
            case Command.READ:
                key = msgspec.json.decode(payload, type=Read).key
                module = self.system.find(header.module)
                link.reply(header.sequence, msgspec.json.encode(module and module[key]))
            case Command.SYSTEM:
                if msgspec.json.decode(payload) == self.system.record.id:
                    link.reply(header.sequence, msgspec.json.encode(self.system.view()))
                else:
                    error = CallError(Failure.MODULE_NOT_FOUND, "could not find system")
                    link.fail(header.sequence, error)
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
        self.on_news(Changed(key, value))

    def _follow(self, command: int, payload: bytes) -> None:
        if command == Command.BIND:
            bind = msgspec.json.decode(payload, type=Bind)
            self._bindings[bind.binding] = bind
            self._values()
        elif command == Command.MONITOR:
            monitor = msgspec.json.decode(payload, type=Monitor)
            self._monitors[monitor.binding] = monitor.channel
        else:
            number = msgspec.json.decode(payload, type=Unbind).binding
            for followed in (self._bindings, self._monitors, self._sent):
                followed.pop(number, None)

    async def _execute(self, header: Header, payload: bytes) -> None:
        module = self.system.find(header.module)
        try:
            if module is None:
                raise CallError(Failure.MODULE_NOT_FOUND, "could not find module")
            result = await module.run(header.function, payload)
        except CallError as error:
            self._link.fail(header.sequence, error)
        else:
            self._link.reply(header.sequence, result)

    def _values(self) -> None:
        """Send each binding its present value, if that is news."""
        for number, bind in self._bindings.items():
            text = self.system.value(bind.name, bind.index, bind.key)
            known = self._sent.get(number)
            if text != known and not (known is None and text == b"null"):
                self._sent[number] = text
                payload = msgspec.json.encode(Value(number, Raw(text)))
                self._link.send(Header(Command.VALUE), payload)
