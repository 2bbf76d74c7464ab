"""TCP, with or without TLS. An idle connection costs no task."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Final, cast

from placeos.driver.errors import LeaseLost, Offline
from placeos.driver.fencing import sockets
from placeos.driver.framing import MAX_MESSAGE
from placeos.driver.log import ModuleLogger
from placeos.driver.settings import Settings
from placeos.driver.transports import base, tls
from placeos.driver.transports.base import Address, ConnectionEvents, Framed, Opening, Role, cut
from placeos.driver.transports.telnet import Telnet, TelnetError

MAX_UNSENT: Final = 1024 * 1024  # bytes the device has not taken; more drops the connection
TAKES_NOTHING: Final = "the device does not take what is sent"
AT_A_TIME: Final = 1024  # bytes cut into messages before others have their turn


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
    sock = await sockets.connected(address.host, address.port)
    try:
        await asyncio.get_running_loop().create_connection(
            lambda: connection.on(sock),
            sock=sock,
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

    __slots__ = (
        "_closed",
        "_early",
        "_events",
        "_farewell",
        "_framer",
        "_log",
        "_lost",
        "_permit",
        "_reason",
        "_rest",
        "_sock",
        "_transport",
    )

    def __init__(self, spec: Framed, opening: Opening) -> None:
        self._framer = spec.framer()
        self._events: ConnectionEvents = opening.events
        self._log: ModuleLogger = opening.log
        self._permit = opening.permit
        self._sock: socket.socket
        self._farewell: sockets.Farewell | None = None
        self._closed: asyncio.Future[None] | None = None  # made for who waits for that
        self._transport: asyncio.Transport | None = None
        self._reason = ""
        self._early: bytearray | None = bytearray()  # what came before `adopt`
        self._rest = bytearray()  # received and not yet cut
        self._lost: Callable[[base.Connection, str], None] | None = None

    def on(self, sock: socket.socket) -> Connection:
        """This, about to be made on a socket."""
        self._sock = sock
        return self

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports do not inherit from asyncio.Transport
        self._transport = cast("asyncio.Transport", transport)

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
        """Send bytes. Raises LeaseLost, and Offline when so much waits already that the
        connection is dropped."""
        if self._transport is None or self._farewell is not None:
            return
        self._permit.check(self.drop)
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
            if not self._transport.get_write_buffer_size():
                sockets.before_close(self._sock)
            self._transport.abort()

    def finish(self, reason: str) -> None:
        """End the connection once all is sent."""
        transport = self._transport
        if transport is None or self._farewell is not None:
            return
        self._reason = self._reason or reason
        self._rest.clear()
        above = transport.get_write_buffer_size
        self._farewell = sockets.Farewell(self._sock, above, lambda: self.drop(reason))

    async def wait_closed(self) -> None:
        """Returns once the socket is closed."""
        if self._transport is not None:
            if self._closed is None:
                self._closed = asyncio.get_running_loop().create_future()
            await asyncio.wait([self._closed])

    def data_received(self, data: bytes) -> None:
        if self._farewell is not None:
            return
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

    def eof_received(self) -> None:
        """The device has closed its side: the loop closes ours now."""
        if self._transport is not None and not self._transport.get_write_buffer_size():
            sockets.before_close(self._sock)

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        if self._farewell is not None:
            self._farewell.cancel()
        if self._closed is not None and not self._closed.done():
            self._closed.set_result(None)
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
            try:
                self._permit.check(self.drop)
            except LeaseLost:
                return
            self._transport.write(bytes(out))
            if self._transport.get_write_buffer_size() > MAX_UNSENT:
                self.drop(TAKES_NOTHING)
