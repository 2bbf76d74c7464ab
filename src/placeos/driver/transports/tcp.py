"""TCP, with or without TLS. An idle connection costs no task."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Final, cast

from placeos.driver.errors import Offline
from placeos.driver.framing import MAX_MESSAGE
from placeos.driver.log import ModuleLogger
from placeos.driver.settings import Settings
from placeos.driver.transports import base, tls
from placeos.driver.transports.base import Address, ConnectionEvents, Framed, Opening, Role, cut
from placeos.driver.transports.telnet import Telnet, TelnetError

MAX_UNSENT: Final = 1024 * 1024  # bytes the device has not taken; more drops the connection
TAKES_NOTHING: Final = "the device does not take what is sent"
AT_A_TIME: Final = 1024  # bytes cut into messages before others have their turn
_KEEP_ALIVE: Final = (("IDLE", 60), ("INTVL", 30), ("CNT", 3))
_UNACKNOWLEDGED: Final = 15_000  # milliseconds until unacknowledged bytes end a connection


@dataclass(frozen=True, kw_only=True)
class TCP(Framed):
    """A device on a TCP port; see `Framed` for how its bytes become messages.

    With `telnet`, Telnet commands among the bytes are answered and taken out.
    """

    role: ClassVar[Role] = Role.DEVICE
    name: ClassVar[str] = "TCP"
    settings: ClassVar[type[Settings] | None] = tls.TlsSettings
    port: int
    telnet: bool = False

    @property
    def default_port(self) -> int | None:
        """The port of its devices."""
        return self.port

    async def open(self, opening: Opening) -> base.Connection:
        """Connect, with TLS if the module's record says so."""
        if self.telnet:
            connection: Connection = TelnetConnection(self, opening, Telnet())
        else:
            connection = Connection(self, opening)
        await connect(opening.address, connection)
        return connection


async def connect(address: Address, connection: Connection) -> None:
    """Connect to an address, with TLS if it says so. Raises what `Transport.open` does."""
    context = tls.context_of(address) if address.tls else None
    try:
        await asyncio.get_running_loop().create_connection(
            lambda: connection,
            address.host,
            address.port,
            ssl=context,
            server_hostname=address.host if context is not None else None,
        )
    except (ConnectionResetError, ConnectionAbortedError) as error:
        if context is None:
            raise
        raise ConnectionError(tls.BROKEN_OFF) from error
    except BaseException:
        connection.drop("no longer wanted")
        raise


class Connection(asyncio.Protocol):
    """One connection."""

    __slots__ = ("_early", "_events", "_framer", "_log", "_lost", "_reason", "_rest", "_transport")

    def __init__(self, spec: Framed, opening: Opening) -> None:
        self._framer = spec.framer()
        self._events: ConnectionEvents = opening.events
        self._log: ModuleLogger = opening.log
        self._transport: asyncio.Transport | None = None
        self._reason = ""
        self._early: bytearray | None = bytearray()  # what came before `adopt`
        self._rest = bytearray()  # received and not yet cut
        self._lost: Callable[[base.Connection, str], None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports do not inherit from asyncio.Transport
        self._transport = transport = cast("asyncio.Transport", transport)
        _tune(transport.get_extra_info("socket"))

    def adopt(self, lost: Callable[[base.Connection, str], None]) -> None:
        """Take the connection into use."""
        if self._transport is None:
            lost(self, self._reason)
            return
        self._lost = lost
        early, self._early = self._early, None
        if early:
            self.data_received(bytes(early))

    def write(self, data: bytes) -> None:
        """Send bytes. Raises Offline when so much waits already that the connection is dropped."""
        if self._transport is None:
            return
        self._log.wire("sent", data)
        self._transport.write(data)
        if self._transport.get_write_buffer_size() > MAX_UNSENT:
            self.drop(TAKES_NOTHING)
            raise Offline(TAKES_NOTHING)

    def drop(self, reason: str) -> None:
        """End the connection at once."""
        self._reason = self._reason or reason
        self._rest.clear()
        if self._transport is not None:
            self._transport.abort()

    async def wait_closed(self) -> None:
        """There is nothing to wait for."""

    def data_received(self, data: bytes) -> None:
        if self._early is not None:
            self._early += data
            if len(self._early) > MAX_MESSAGE:
                self.drop("the device floods the connection")
            return
        self._log.wire("received", data)
        if not self._rest and (len(data) <= AT_A_TIME or not self._framer.cuts):
            self._cut(data)
            return
        going_on = bool(self._rest)
        self._rest += data
        if not going_on:
            self._go_on()
        elif len(self._rest) > MAX_MESSAGE and self._transport is not None:
            self._transport.pause_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._reason = self._reason or (str(exc) if exc else "closed by the device")
        if not self._rest:
            self._tell_lost()

    def _tell_lost(self) -> None:
        lost, self._lost = self._lost, None
        if lost is not None:
            lost(self, self._reason)

    def _go_on(self) -> None:
        """Deliver some of what was received, and the rest in the next turns of the loop."""
        piece = bytes(self._rest[:AT_A_TIME])
        del self._rest[:AT_A_TIME]
        self._cut(piece)
        if self._rest:
            asyncio.get_running_loop().call_soon(self._go_on)
        elif self._transport is None:
            self._tell_lost()
        elif not self._transport.is_reading():
            self._transport.resume_reading()

    def _cut(self, data: bytes) -> None:
        for message in cut(self._framer, data, self._log, self.drop):
            self._events.message(message)


class TelnetConnection(Connection):
    """One connection with Telnet commands among its bytes."""

    __slots__ = ("_telnet",)

    def __init__(self, spec: Framed, opening: Opening, telnet: Telnet) -> None:
        super().__init__(spec, opening)
        self._telnet = telnet

    def write(self, data: bytes) -> None:
        """Send bytes."""
        super().write(self._telnet.escape(data))

    def negotiated(self) -> None:
        """The other side may have told or asked something."""
        self._telnet.subnegotiations.clear()

    def data_received(self, data: bytes) -> None:
        try:
            plain = self._telnet.feed(data)
        except TelnetError as error:
            self.drop(str(error))
            return
        self.negotiated()
        self._negotiate()
        if plain:
            super().data_received(plain)

    def _negotiate(self) -> None:
        """Send what has to be sent."""
        out, self._telnet.out = self._telnet.out, bytearray()
        if out and self._transport is not None:
            self._transport.write(bytes(out))
            if self._transport.get_write_buffer_size() > MAX_UNSENT:
                self.drop(TAKES_NOTHING)


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
