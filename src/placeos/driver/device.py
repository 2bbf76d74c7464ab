"""One device as its module sees it: the connection, the login, the queue, the messages."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Final, Protocol

from placeos.driver.command import Command, Gate, Match
from placeos.driver.errors import NoReply, Offline, text_of
from placeos.driver.fencing.permit import OPEN, Permit
from placeos.driver.health import Health, rethrow_own
from placeos.driver.inbox import Inbox
from placeos.driver.log import ModuleLogger
from placeos.driver.sender import Sender
from placeos.driver.transports.base import Address, Author, Framed, Transport, makes_and_breaks
from placeos.driver.transports.connector import Connector
from placeos.driver.transports.idle import Idle

LOGIN_TIMEOUT: Final = 30.0  # seconds
LINGER: Final = 1.0  # seconds a connection made on demand stays without traffic
SILENT: Final = "the device does not answer"

Received = Callable[[bytes], Awaitable[None] | None]
"""The hook that is given messages."""


class Owner(Protocol):
    """The module, as its device needs it."""

    @property
    def log(self) -> ModuleLogger:
        """The module's logger."""

    @property
    def health(self) -> Health:
        """Where a failing hook is told."""

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
    received: Received | None


class Device:
    """Connects, logs in, and passes messages on, until it is closed.

    `standing`: a connection is kept, and `online` says that it is. Else commands may come at
    any time and wait for a socket if need be; `online` then only tells whether the device was
    heard of when it was last spoken to. Such a device has no connection at all (UDP, HTTP), or
    one that a command makes (makebreak).
    """

    __slots__ = (
        "_behind",
        "_heard",
        "_hooks",
        "_idle",
        "_login",
        "_loop",
        "_mute",
        "_on_demand",
        "_owner",
        "_pump",
        "_ready",
        "_sender",
        "_transport",
        "_unread",
        "_wanted",
        "connector",
        "online",
        "standing",
    )

    def __init__(
        self,
        transport: Transport,
        address: Address,
        hooks: Hooks,
        author: Author,
        owner: Owner,
        in_flight: int = 1,
        permit: Permit = OPEN,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._owner = owner
        self._hooks = hooks
        self._transport = transport
        self._on_demand = makes_and_breaks(transport, address)
        self.standing = transport.standing and not self._on_demand
        self.online = False  # as reported
        wanted = self._is_wanted if self._on_demand else None
        self.connector = Connector(transport, address, self, author, owner.log, wanted, permit)
        self._sender = Sender(
            self._write if self._on_demand else self.connector.write,
            self._silent,
            owner.log,
            in_flight=in_flight,
            on_demand=not self.standing,
            on_wanted=self.connector.want if self._on_demand else None,
        )
        self._idle = self._make_idle(transport)
        self._login: asyncio.Task[object] | None = None
        self._pump: asyncio.Task[object] | None = None
        self._ready = False  # connected and logged in
        self._heard = False  # anything, on the present connection
        self._mute = False  # reported offline though there is a connection
        self._unread = Inbox()
        self._behind = False  # with reading those; told once
        self._wanted: list[tuple[asyncio.Future[bytes], Match | None]] = []

    @property
    def usable(self) -> bool:
        """Whether commands may come."""
        return self._ready or not self.standing

    def start(self) -> None:
        """Begin to connect, or to wait for commands."""
        if self._on_demand:
            self._report()
        self.connector.start()

    async def close(self) -> None:
        """Disconnect for good."""
        self._reset("the module was stopped")
        self._give_up_waiting()
        if self._pump is not None:
            self._pump.cancel()
        self._sender.clear(current=True)
        await self.connector.close()

    async def send(self, command: Command) -> Any:
        """Queue a command and wait for its reply."""
        command.login = self._login is not None and asyncio.current_task() is self._login
        return await self._sender.send(command)

    def clear_queue(self, *, current: bool) -> None:
        """Withdraw queued commands."""
        self._sender.clear(current=current)

    def extend_timeout(self) -> None:
        """The device works on the command in flight: wait for its reply as long again."""
        self._sender.extend()

    async def receive(self, timeout: float, match: Match | None) -> bytes:
        """The next message that answers no command and that `match` accepts."""
        waiting = self._unread.find(match)
        if waiting is not None:
            return waiting
        if not self.usable and self._login is None:
            raise Offline("the device is not connected")
        future: asyncio.Future[bytes] = self._loop.create_future()
        self._wanted.append(entry := (future, match))
        try:
            async with asyncio.timeout(timeout):
                return await future
        except TimeoutError:
            raise NoReply(f"the device sent nothing of its own within {timeout:g} s") from None
        finally:
            if entry in self._wanted:
                self._wanted.remove(entry)

    def hang_up(self, reason: str) -> None:
        """Drop the connection. Nothing more is written to it, though it takes a moment to end."""
        if self.connector.connection is not None:
            self._sender.cause = reason
            self._sender.set_gate(Gate.CLOSED)
        self.connector.finish(reason)

    def set_connected(self, online: bool, reason: str) -> None:
        """The driver knows better whether the device is there."""
        if not online:
            self._mute = True
            self._report_offline(reason)
        elif self._ready or not self.standing:
            self._mute = False
            self._report()

    # -- what the connector tells ---------------------------------------------------------

    def opened(self) -> None:
        """A connection stands."""
        self._heard = False
        self._sender.cause = ""
        if self._idle is not None:
            self._idle.start()
        if self._hooks.login is None:
            self._use()
        else:
            self._sender.set_gate(Gate.LOGIN)
            self._login = self._owner.spawn(self._log_in(self._hooks.login), "login")

    def message(self, data: bytes) -> None:
        """A message came."""
        if not self._heard or self._mute or self._idle is not None:
            self.heard()
        if self._sender.offer(data):
            return
        if self._hand_over(data):
            return
        if self._login is not None or self._hooks.received is not None:
            if not self._unread.put(data) and not self._behind:
                self._behind = True
                self._owner.log.warning("it sends faster than `received` takes it: some is dropped")
            self._start_pump()
        else:
            self._owner.log.debug("nobody waited for %r", data[:200])

    def heard(self) -> None:
        """The device is there."""
        self._heard = True
        if self._idle is not None:
            self._idle.touch()
        if self._mute and not self.standing:
            self._mute = False
            self._report()

    def unheard(self, reason: str) -> None:
        """The device does not answer, which closes no gate."""
        if not self.standing:
            self._mute = True
            self._report_offline(reason)

    def lost(self, reason: str) -> None:
        """The connection is gone."""
        was_ready, in_flight = self._ready, self._sender.current is not None
        self._reset(reason)
        if self.standing:
            self._mute = False
            if self.online:
                self._report_offline(reason)
            elif not was_ready:
                self._owner.cannot_connect(reason)
        elif not was_ready:
            self.unreachable(reason)
        elif in_flight and not self._heard:
            self.unheard(reason)
        else:  # as usual
            self.connector.prove()

    def unreachable(self, reason: str) -> None:
        """An attempt failed."""
        self._sender.cause = reason
        self._owner.cannot_connect(reason)
        self._report_offline(reason)

    # -- inside ---------------------------------------------------------------------------

    def _is_wanted(self) -> bool:
        return self._sender.busy

    def _write(self, data: Any) -> None:
        if self._idle is not None:
            self._idle.touch()
        self.connector.write(data)

    def _silent(self) -> None:
        if not self.standing:
            self.unheard(SILENT)
        if self._transport.standing or self._transport.udp:  # its name may mean another address
            self.connector.drop(SILENT)

    def _make_idle(self, transport: Transport) -> Idle | None:
        seconds = transport.idle_timeout if isinstance(transport, Framed) else 0.0
        if self._on_demand:
            return Idle(seconds or LINGER, self._linger)
        return Idle(seconds, self._quiet) if seconds else None

    def _linger(self) -> None:
        assert self._idle is not None
        if self._sender.busy or self._login is not None or self._wanted:
            self._idle.start()
        else:
            self.hang_up("nothing more to say")

    def _quiet(self) -> None:
        reason = "the device fell silent"
        if self.standing:
            self.connector.drop(reason)
        elif self._idle is not None:
            self.unheard(reason)
            self._idle.start()

    async def _log_in(self, login: Callable[[], Awaitable[None]]) -> None:
        try:
            async with asyncio.timeout(LOGIN_TIMEOUT):
                await login()
        except TimeoutError:
            self._login_failed(f"login did not end within {LOGIN_TIMEOUT:g} s")
        except BaseException as error:
            rethrow_own(error)
            self._owner.log.debug("login failed", exc_info=error)
            self._login_failed(text_of(error))
        else:
            self._login = None
            self._use()

    def _login_failed(self, reason: str) -> None:
        self._login = None
        self.connector.drop(reason)

    def _use(self) -> None:
        """The connection is for everybody now."""
        self._ready = True
        if not self._transport.standing:
            self.connector.prove()
        if not self._mute:
            self._report()
        self._sender.set_gate(Gate.OPEN)
        self._start_pump()

    def _report(self) -> None:
        if not self.online:
            self.online = True
            self._owner.came_online()

    def _report_offline(self, reason: str) -> None:
        if self.online:
            self.online = False
            self._owner.went_offline(reason)

    def _reset(self, reason: str) -> None:
        """There is no connection any more."""
        self._ready = False
        if self._idle is not None:
            self._idle.stop()
        if self._login is not None:
            self._login.cancel()
            self._login = None
        if self.standing:
            self._give_up_waiting()
        self._sender.cause = reason
        self._sender.set_gate(Gate.CLOSED)

    def _hand_over(self, data: bytes) -> bool:
        """Give a message to who waits for it in `receive`, if anybody does."""
        for entry in list(self._wanted):
            future, match = entry
            try:
                fits = not future.done() and (match is None or match(data))
            except Exception as error:
                future.set_exception(error)
                self._wanted.remove(entry)
                continue
            if fits:
                future.set_result(data)
                self._wanted.remove(entry)
                return True
        return False

    def _give_up_waiting(self) -> None:
        self._unread = Inbox()  # the pump goes on with what came before
        self._behind = False
        wanted, self._wanted = self._wanted, []
        for future, _ in wanted:
            if not future.done():
                future.set_exception(Offline("the connection was lost"))

    def _start_pump(self) -> None:
        """Have `received` called with what waits, one message after the other."""
        if self._hooks.received is None:
            if self.usable:
                self._unread.clear()
        elif self.usable and self._unread and self._pump is None:
            reading = self._read_out(self._unread, self._hooks.received)
            self._pump = self._owner.spawn(reading, "received")

    async def _read_out(self, inbox: Inbox, received: Received) -> None:
        try:
            while inbox:
                await self._read(inbox.take(), received)
        finally:
            self._pump = None
        self._start_pump()  # with what came on another connection meanwhile

    async def _read(self, data: bytes, received: Received) -> None:
        try:
            waiting = received(data)
            if waiting is not None:
                await waiting
        except BaseException as error:
            self._owner.health.failed("received", error)
        else:
            self._owner.health.well("received")
