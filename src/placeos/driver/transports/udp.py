"""UDP: to one device, to all on a network (broadcast), or to a group (multicast).

There is no connection to lose: `connected` tells whether the device was heard of when it was
last spoken to. Multicast: RFC 1112, for IPv6 RFC 3493 section 5.2.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import socket
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Final

from msgspec import Meta

from placeos.driver.framing import FramingError
from placeos.driver.log import ModuleLogger
from placeos.driver.settings import Settings, SettingsReader
from placeos.driver.transports import base
from placeos.driver.transports.base import Address, ConnectionEvents, Framed, Opening, Role

MAX_UNSENT: Final = 256 * 1024  # bytes that wait for the network
MAX_EARLY: Final = 100  # datagrams that came before the connection was taken into use
_ONLY_OWN_GROUPS: Final = 49  # IP_MULTICAST_ALL of Linux, which Python does not name

Sockaddr = tuple[Any, ...]  # (host, port) or (host, port, flow, scope)


class UdpSettings(Settings):
    """The settings."""

    multicast_hops: Annotated[int, Meta(ge=0, le=255)] | None = None
    multicast_interface: str | None = None  # its name, or its IPv4 address


class Datagram(bytes):
    """A message by broadcast or multicast, where anybody may have sent it."""

    sender: tuple[str, int]
    """Its address and port."""


@dataclass(frozen=True, kw_only=True)
class UDP(Framed):
    """A device on a UDP port. Each datagram is a message, unless the framing says otherwise;
    then one datagram may hold several.

    If the module's ip is a device, only its answers arrive. If it is a multicast group, the
    group is joined and everybody's messages arrive as `Datagram`; likewise with a broadcast
    address. `local_port` is where to listen (any; for a group its port). With `loopback`
    what a module sends to its group also reaches others on the same machine.
    """

    role: ClassVar[Role] = Role.DEVICE
    name: ClassVar[str] = "UDP"
    settings: ClassVar[type[Settings] | None] = UdpSettings
    port: int
    local_port: int = 0
    loopback: bool = False

    @property
    def standing(self) -> bool:
        """There is no connection."""
        return False

    @property
    def udp(self) -> bool:
        """Its records say `udp`."""
        return True

    @property
    def default_port(self) -> int | None:
        """The port of its devices."""
        return self.port

    async def open(self, opening: Opening) -> base.Connection:
        """Look the name up and make the socket."""
        address = opening.address
        if address.tls:
            raise ValueError("TLS is not spoken over UDP; the module's record must not ask for it")
        loop = asyncio.get_running_loop()
        found = await loop.getaddrinfo(address.host, address.port, type=socket.SOCK_DGRAM)
        family, _, _, _, where = found[0]
        sock, target = self._socket(family, where, _settings(address))
        connection = Connection(self, opening, target)
        try:
            await loop.create_datagram_endpoint(lambda: connection, sock=sock)
        except BaseException:
            sock.close()
            raise
        return connection

    def _socket(
        self, family: int, where: Sockaddr, settings: UdpSettings
    ) -> tuple[socket.socket, Sockaddr | None]:
        """The socket, and where to send if it is not connected."""
        sock = socket.socket(family, socket.SOCK_DGRAM)
        try:
            sock.setblocking(False)
            group = ipaddress.ip_address(where[0]).is_multicast
            port = self.local_port or (where[1] if group else 0)
            if port:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if port or group:
                sock.bind(("", port))
            if group:
                _join(sock, where, settings, loopback=self.loopback)
                return sock, where
            try:
                sock.connect(where)
            except PermissionError:  # so Linux tells a broadcast address, whatever the netmask
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
                return sock, where
        except BaseException:
            sock.close()
            raise
        return sock, None


class Connection(asyncio.DatagramProtocol):
    """One socket. `target` is where to send if it is not connected."""

    __slots__ = (
        "_address",
        "_early",
        "_events",
        "_log",
        "_lost",
        "_permit",
        "_reason",
        "_spec",
        "_target",
        "_transport",
    )

    def __init__(self, spec: Framed, opening: Opening, target: Sockaddr | None) -> None:
        self._spec = spec
        self._address = opening.address
        self._events: ConnectionEvents = opening.events
        self._log: ModuleLogger = opening.log
        self._permit = opening.permit
        self._target = target
        self._transport: Any = None  # typed too narrowly by asyncio, differently by uvloop
        self._reason = ""
        self._early: list[tuple[bytes, Sockaddr]] | None = []  # what came before `adopt`
        self._lost: Callable[[base.Connection, str], None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def adopt(self, lost: Callable[[base.Connection, str], None]) -> None:
        """Take the socket into use."""
        if self._transport is None:
            lost(self, self._reason)
            return
        self._lost = lost
        early, self._early = self._early or [], None
        for data, sender in early:
            self.datagram_received(data, sender)

    def write(self, data: bytes) -> None:
        """Send a datagram. Raises OSError and LeaseLost."""
        if self._transport is None:
            return
        self._permit.check()
        self._log.wire("sent", data)
        self._transport.sendto(data, self._target)
        if self._transport.get_write_buffer_size() > MAX_UNSENT:
            self.drop("the network does not take what is sent")

    def drop(self, reason: str) -> None:
        """Close the socket."""
        self._reason = self._reason or reason
        if self._transport is not None:
            self._transport.abort()

    def finish(self, reason: str) -> None:
        """Close the socket: a datagram is on its way as soon as it is written."""
        self.drop(reason)

    async def wait_closed(self) -> None:
        """There is nothing to wait for."""

    def datagram_received(self, data: bytes, addr: Sockaddr) -> None:
        if self._early is not None:
            if len(self._early) < MAX_EARLY:
                self._early.append((data, addr))
            return
        self._log.wire("received", data)
        self._events.heard()
        for message in self._messages(data):
            if self._target is not None:
                message = Datagram(message)
                message.sender = (addr[0], addr[1])
            self._events.message(message)

    def _messages(self, data: bytes) -> list[bytes]:
        """Those of one datagram; a piece left over at its end is none, nor is an empty one."""
        if not data:
            return []
        try:
            return self._spec.framer().feed(data)
        except FramingError as error:
            self._log.warning("%s", error)
        except Exception:  # the driver's own frame function
            self._log.exception("the frame function failed on %r", data[:200])
        return []

    def error_received(self, exc: Exception) -> None:
        """An earlier datagram could not be delivered, or this one not be sent."""
        if isinstance(exc, ConnectionRefusedError):
            self._events.unheard(f"{self._address}: nobody listens on that port")
        else:
            self._events.unheard(f"{self._address}: {exc}")

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._reason = self._reason or (str(exc) if exc else "the socket was closed")
        lost, self._lost = self._lost, None
        if lost is not None:
            lost(self, self._reason)


def _settings(address: Address) -> UdpSettings:
    settings = SettingsReader(UdpSettings).read(address.settings)
    assert isinstance(settings, UdpSettings)
    return settings


def _join(sock: socket.socket, where: Sockaddr, settings: UdpSettings, *, loopback: bool) -> None:
    """Join a group, and say how what is sent to it travels. Raises OSError."""
    group = socket.inet_pton(sock.family, where[0].partition("%")[0])
    hops, interface = settings.multicast_hops, settings.multicast_interface
    if sock.family == socket.AF_INET6:
        index = _index(interface) if interface else where[3]
        level = socket.IPPROTO_IPV6
        sock.setsockopt(level, socket.IPV6_JOIN_GROUP, group + struct.pack("@I", index))
        sock.setsockopt(level, socket.IPV6_MULTICAST_IF, index)
        sock.setsockopt(level, socket.IPV6_MULTICAST_LOOP, loopback)
        if hops is not None:
            sock.setsockopt(level, socket.IPV6_MULTICAST_HOPS, hops)
        return
    level = socket.IPPROTO_IP
    own = bytes(4)
    index = 0
    if interface:
        try:
            own = socket.inet_aton(interface)
        except OSError:
            index = _index(interface)
    member = struct.pack("@4s4si", group, own, index)  # struct ip_mreqn
    sock.setsockopt(level, socket.IP_ADD_MEMBERSHIP, member)
    if interface:
        sock.setsockopt(level, socket.IP_MULTICAST_IF, member)
    sock.setsockopt(level, socket.IP_MULTICAST_LOOP, loopback)
    if hops is not None:
        sock.setsockopt(level, socket.IP_MULTICAST_TTL, hops)
    with contextlib.suppress(OSError):  # only Linux has it
        sock.setsockopt(level, _ONLY_OWN_GROUPS, 0)


def _index(interface: str) -> int:
    try:
        return socket.if_nametoindex(interface)
    except OSError:
        raise ValueError(
            f"'multicast_interface': there is no network interface {interface!r}"
        ) from None
