"""How a module reaches its device: TCP, with or without TLS.

`TCP` is what a driver declares. `Connection` is one connection, used once; `Connector` is
the policy that replaces it, for ever, with a back-off. An idle connection costs no task.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import socket
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Final, Protocol, cast

from placeos.driver.errors import Offline
from placeos.driver.framing import FrameLength, Framer, FramingError

CONNECT_TIMEOUT: Final = 10.0  # seconds, with name resolution and TLS
LONGEST_PAUSE: Final = 10.0  # seconds between two attempts to connect
STABLE: Final = 5.0  # seconds after which a connection counts as a good one
MAX_UNSENT: Final = 1024 * 1024  # bytes the device has not taken; more drops the connection
_KEEP_ALIVE: Final = (("IDLE", 60), ("INTVL", 30), ("CNT", 3))
_UNACKNOWLEDGED: Final = 15_000  # milliseconds until unacknowledged bytes end a connection


@dataclass(frozen=True, kw_only=True)
class TCP:
    """A device on a TCP port.

    Messages end with `ends_with`, or are `length` bytes long, or as long as `frame` says;
    `starts_with` marks their beginning. `appends` is what a text passed to `send` is ended
    with; unless given it is `ends_with`.
    """

    port: int
    ends_with: bytes = b""
    starts_with: bytes = b""
    length: int = 0
    frame: FrameLength | None = None
    appends: bytes | None = None
    connect_timeout: float = CONNECT_TIMEOUT

    def encode(self, data: bytes | str) -> bytes:
        """What goes on the wire: bytes as they are, text with its ending."""
        if isinstance(data, bytes):
            return data
        return data.encode() + (self.ends_with if self.appends is None else self.appends)

    def framer(self) -> Framer:
        """The framing of a new connection."""
        return Framer(
            ends_with=self.ends_with,
            starts_with=self.starts_with,
            length=self.length,
            frame=self.frame,
        )


@dataclass(frozen=True)
class Address:
    """Where the device is. `ca` is PEM text; without `verify` any certificate will do."""

    host: str
    port: int
    tls: bool = False
    verify: bool = False
    ca: str = ""


class ConnectionEvents(Protocol):
    """Who is told what happens on the way to a device."""

    def opened(self) -> None:
        """A connection stands; nothing was sent yet."""

    def message(self, data: bytes) -> None:
        """The device sent a message."""

    def lost(self, reason: str) -> None:
        """The connection that was opened is gone."""

    def unreachable(self, reason: str) -> None:
        """An attempt to connect failed."""


class Connection(asyncio.Protocol):
    """One connection."""

    __slots__ = ("_early", "_events", "_framer", "_log", "_lost", "_reason", "_transport")

    def __init__(self, spec: TCP, events: ConnectionEvents, log: logging.Logger) -> None:
        self._framer = spec.framer()
        self._events = events
        self._log = log
        self._transport: asyncio.Transport | None = None
        self._reason = ""
        self._early: bytearray | None = bytearray()  # what came before `adopt`
        self._lost: Callable[[Connection, str], None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports do not inherit from asyncio.Transport
        self._transport = transport = cast("asyncio.Transport", transport)
        _tune(transport.get_extra_info("socket"))

    def adopt(self, lost: Callable[[Connection, str], None]) -> None:
        """Take the connection into use: `lost` is called once, when it ends."""
        if self._transport is None:
            lost(self, self._reason)
            return
        self._lost = lost
        early, self._early = self._early, None
        if early:
            self.data_received(bytes(early))

    def write(self, data: bytes) -> None:
        """Send bytes. A device that takes none is dropped."""
        if self._transport is None:
            return
        if self._log.isEnabledFor(logging.DEBUG):
            self._log.debug("sent %r", data)
        self._transport.write(data)
        if self._transport.get_write_buffer_size() > MAX_UNSENT:
            self.drop("the device does not take what is sent")

    def drop(self, reason: str) -> None:
        """End the connection at once."""
        self._reason = self._reason or reason
        if self._transport is not None:
            self._transport.abort()

    def data_received(self, data: bytes) -> None:
        if self._early is not None:
            self._early += data
            return
        if self._log.isEnabledFor(logging.DEBUG):
            self._log.debug("received %r", data)
        try:
            messages = self._framer.feed(data)
        except FramingError as error:
            self.drop(str(error))
            return
        except Exception:  # the driver's own frame function
            self._log.exception("the frame function failed on %r", data[:200])
            self.drop("the frame function failed")
            return
        for message in messages:
            self._events.message(message)

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._reason = self._reason or (str(exc) if exc else "closed by the device")
        lost, self._lost = self._lost, None
        if lost is not None:
            lost(self, self._reason)


class Connector:
    """Keeps one connection to the device standing."""

    __slots__ = (
        "_attempts",
        "_events",
        "_log",
        "_loop",
        "_now",
        "_opened_at",
        "_spec",
        "_task",
        "_timer",
        "address",
    )

    def __init__(
        self, spec: TCP, address: Address, events: ConnectionEvents, log: logging.Logger
    ) -> None:
        self.address = address
        self._loop = asyncio.get_running_loop()
        self._spec = spec
        self._events = events
        self._log = log
        self._now: Connection | None = None
        self._task: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._attempts = 0  # since the last good connection
        self._opened_at = 0.0

    def start(self) -> None:
        """Connect now."""
        self._timer = None
        self._task = self._loop.create_task(self._connect(), name=f"connect {self._log.name}")

    def write(self, data: bytes) -> None:
        """Send bytes on the present connection. Raises Offline."""
        if self._now is None:
            raise Offline("the device is not connected")
        self._now.write(data)

    def drop(self, reason: str) -> None:
        """Give up the present connection; a new one follows."""
        if self._now is not None:
            self._now.drop(reason)

    def move(self, address: Address) -> None:
        """The device is elsewhere now: leave the present connection and connect there."""
        self.address = address
        self._attempts = 0
        if self._now is not None:
            self._now.drop("the address was changed")
        else:
            self._cancel()
            self.start()

    def hasten(self) -> None:
        """Do not sit out the pause before the next attempt: what made it fail may be mended."""
        if self._timer is not None:
            self._attempts = 0
            self._cancel()
            self.start()

    async def close(self) -> None:
        """End the connection and connect no more."""
        task = self._task
        self._cancel()
        now, self._now = self._now, None
        if now is not None:
            now.drop("the module was stopped")
        if task is not None:
            with contextlib.suppress(asyncio.CancelledError):
                await task

    def _cancel(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._task is not None:
            self._task.cancel()
            self._task = None

    async def _connect(self) -> None:
        connection = Connection(self._spec, self._events, self._log)
        try:
            async with asyncio.timeout(self._spec.connect_timeout):
                await self._open(connection)
        except (OSError, TimeoutError, ssl.SSLError, UnicodeError, ValueError) as error:
            connection.drop("no longer wanted")
            self._task = None
            reason = f"no connection within {self._spec.connect_timeout:g} s"
            self._again()
            where = f"{self.address.host}:{self.address.port}"
            self._events.unreachable(
                f"{where}: {reason if isinstance(error, TimeoutError) else error}"
            )
            return
        except asyncio.CancelledError:
            connection.drop("no longer wanted")
            raise
        self._task = None
        self._now = connection
        self._opened_at = self._loop.time()
        self._events.opened()
        connection.adopt(self._connection_lost)

    async def _open(self, connection: Connection) -> None:
        address = self.address
        context = _tls_context(address.verify, address.ca) if address.tls else None
        await self._loop.create_connection(
            lambda: connection,
            address.host,
            address.port,
            ssl=context,
            server_hostname=address.host if context is not None else None,
        )

    def _connection_lost(self, connection: Connection, reason: str) -> None:
        if connection is self._now:
            self._now = None
            if self._loop.time() - self._opened_at >= STABLE:
                self._attempts = 0
            self._again()
            self._events.lost(reason)

    def _again(self) -> None:
        pause = backoff(self._attempts, random.random())  # noqa: S311 - no secret
        self._attempts += 1
        self._timer = self._loop.call_later(pause, self.start)


def backoff(attempt: int, luck: float) -> float:
    """Seconds before an attempt: none at first, then 1 to 1.25, 2 to 2.5, … up to 10.

    `luck` (0 to 1) spreads the devices of a building that lost its network.
    """
    if attempt == 0:
        return 0.0
    return min(float(2 ** min(attempt - 1, 10)), LONGEST_PAUSE / 1.25) * (1 + luck / 4)


@lru_cache(maxsize=64)
def _tls_context(verify: bool, ca: str) -> ssl.SSLContext:
    if verify:
        return ssl.create_default_context(cadata=ca or None)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False  # devices carry certificates of their own making
    context.verify_mode = ssl.CERT_NONE
    return context


def _tune(sock: socket.socket | None) -> None:
    if sock is None or sock.family not in (socket.AF_INET, socket.AF_INET6):
        return
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in _KEEP_ALIVE:
        option = getattr(socket, f"TCP_KEEP{name}", None)
        if option is not None:
            sock.setsockopt(socket.IPPROTO_TCP, option, value)
    if hasattr(socket, "TCP_USER_TIMEOUT"):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _UNACKNOWLEDGED)
