"""One device as its module sees it: the connection, the login, the queue, the messages."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final, Protocol

from placeos.driver.errors import NoReply, Offline
from placeos.driver.queue import Command, Gate, Match, Sender
from placeos.driver.transport import TCP, Address, Connector

LOGIN_TIMEOUT: Final = 30.0  # seconds
MAX_UNREAD: Final = 1000  # messages that wait for `received`; the oldest are dropped


class Owner(Protocol):
    """The module, as its device needs it."""

    @property
    def log(self) -> logging.Logger:
        """The module's logger."""

    def spawn(self, job: Awaitable[object], name: str) -> asyncio.Task[object]:
        """Start a task that ends with the module."""

    def came_online(self) -> None:
        """The device can be used."""

    def went_offline(self, reason: str) -> None:
        """The device can no longer be used."""

    def cannot_connect(self, reason: str) -> None:
        """An attempt to get the device online failed."""


@dataclass(frozen=True)
class Hooks:
    """The driver's methods; None where it has none of its own."""

    login: Callable[[], Awaitable[None]] | None
    received: Callable[[bytes], Awaitable[None] | None] | None


class Device:
    """Connects, logs in, and passes messages on, until it is closed."""

    __slots__ = (
        "_connector",
        "_hooks",
        "_login",
        "_loop",
        "_owner",
        "_pump",
        "_sender",
        "_unread",
        "_wanted",
        "online",
    )

    def __init__(self, spec: TCP, address: Address, hooks: Hooks, owner: Owner) -> None:
        self.online = False
        self._loop = asyncio.get_running_loop()
        self._owner = owner
        self._hooks = hooks
        self._connector = Connector(spec, address, self, owner.log)
        self._sender = Sender(self._connector.write, self._silent, owner.log)
        self._login: asyncio.Task[object] | None = None
        self._pump: asyncio.Task[object] | None = None
        self._unread: deque[bytes] = deque(maxlen=MAX_UNREAD)
        self._wanted: list[tuple[asyncio.Future[bytes], Match | None]] = []

    def start(self) -> None:
        """Begin to connect."""
        self._connector.start()

    def move(self, address: Address) -> None:
        """Reconnect if that is another address."""
        if address != self._connector.address:
            self._connector.move(address)

    def hasten(self) -> None:
        """Try to connect now, if that waits for its next attempt."""
        self._connector.hasten()

    def drop(self, reason: str) -> None:
        """Reconnect."""
        self._connector.drop(reason)

    async def close(self) -> None:
        """Disconnect for good."""
        self._reset()
        self._sender.clear(current=True)
        await self._connector.close()

    async def send(self, command: Command) -> bytes:
        """Queue a command and wait for its reply."""
        command.login = self._login is not None and asyncio.current_task() is self._login
        return await self._sender.send(command)

    def clear_queue(self, *, current: bool) -> None:
        """Withdraw queued commands."""
        self._sender.clear(current=current)

    async def receive(self, timeout: float, match: Match | None) -> bytes:
        """The next message that answers no command and that `match` accepts."""
        for data in self._unread:
            if match is None or match(data):
                self._unread.remove(data)
                return data
        if not self.online and self._login is None:
            raise Offline("the device is not connected")
        future: asyncio.Future[bytes] = self._loop.create_future()
        entry = (future, match)
        self._wanted.append(entry)
        try:
            async with asyncio.timeout(timeout):
                return await future
        except TimeoutError:
            raise NoReply(f"the device sent nothing of its own within {timeout:g} s") from None
        finally:
            if entry in self._wanted:
                self._wanted.remove(entry)

    # -- what the connector tells ---------------------------------------------------------

    def opened(self) -> None:
        """A connection stands."""
        if self._hooks.login is None:
            self._ready()
        else:
            self._sender.set_gate(Gate.LOGIN)
            self._login = self._owner.spawn(self._log_in(self._hooks.login), "login")

    def message(self, data: bytes) -> None:
        """A message came."""
        if self._sender.offer(data):
            return
        for entry in self._wanted:
            future, match = entry
            if not future.done() and (match is None or match(data)):
                future.set_result(data)
                self._wanted.remove(entry)
                return
        if self._login is not None or self._hooks.received is not None:
            self._unread.append(data)
            self._start_pump()
        else:
            self._owner.log.debug("nobody waited for %r", data)

    def lost(self, reason: str) -> None:
        """The connection is gone."""
        was_online = self.online
        self._reset()
        if was_online:
            self._owner.went_offline(reason)
        else:
            self._owner.cannot_connect(reason)

    def unreachable(self, reason: str) -> None:
        """An attempt failed."""
        self._owner.cannot_connect(reason)

    # -- inside ---------------------------------------------------------------------------

    def _silent(self) -> None:
        self._connector.drop("the device does not answer")

    async def _log_in(self, login: Callable[[], Awaitable[None]]) -> None:
        try:
            async with asyncio.timeout(LOGIN_TIMEOUT):
                await login()
        except TimeoutError:
            self._login_failed(f"login did not end within {LOGIN_TIMEOUT:g} s")
        except Exception as error:
            self._owner.log.debug("login failed", exc_info=error)
            self._login_failed(str(error) or type(error).__name__)
        else:
            self._login = None
            self._ready()

    def _login_failed(self, reason: str) -> None:
        self._login = None
        self._connector.drop(reason)

    def _ready(self) -> None:
        self.online = True
        self._owner.came_online()
        self._sender.set_gate(Gate.OPEN)
        self._start_pump()

    def _reset(self) -> None:
        self.online = False
        for task in (self._login, self._pump):
            if task is not None:
                task.cancel()
        self._login = self._pump = None
        self._unread.clear()
        wanted, self._wanted = self._wanted, []
        for future, _ in wanted:
            if not future.done():
                future.set_exception(Offline("the connection was lost"))
        self._sender.set_gate(Gate.CLOSED)

    def _start_pump(self) -> None:
        """Have `received` called with what waits, one message after the other."""
        if self._hooks.received is None:
            if self.online:
                self._unread.clear()
        elif self.online and self._unread and self._pump is None:
            self._pump = self._owner.spawn(self._receive_all(self._hooks.received), "received")

    async def _receive_all(self, received: Callable[[bytes], Awaitable[None] | None]) -> None:
        task = asyncio.current_task()
        while self._unread:
            data = self._unread.popleft()
            try:
                waiting = received(data)
                if waiting is not None:
                    await waiting
            except Exception:
                self._owner.log.exception("received failed on %r", data[:200])
        if self._pump is task:
            self._pump = None
