"""Scripted devices on TCP and UDP."""

from __future__ import annotations

import asyncio
import socket
import ssl as tls
import struct
from typing import Final, cast

from placeos.driver.testing.script import HOST, Connected, Messages, Stream
from placeos.wire.messages import DriverDefaults, ModuleStart

DEVICE: Final = 1  # role of a module on TCP or UDP
SERVICE: Final = 2


class ScriptedDevice(Connected[bytes], Stream):
    """A TCP server that plays the device: what it gets is expected, what it says is scripted.

    With `ssl` it speaks TLS. It also plays a service with a protocol of its own: its `uri`
    is then what `drive` is given, such as `"mqtt://127.0.0.1:{port}"`.
    """

    roles = (DEVICE, SERVICE)

    def __init__(self, *, ssl: tls.SSLContext | None = None, uri: str = "") -> None:
        super().__init__()
        self._ssl = ssl
        self._uri = uri

    async def listen(self) -> None:
        """Accept connections, on the same port as before."""
        self._hold_a_port()
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(
            self._line, HOST, self.port, reuse_address=True, ssl=self._ssl
        )

    def introduce(self, start: ModuleStart, defaults: DriverDefaults) -> None:
        """Write into the module's record how it is reached."""
        super().introduce(start, defaults)
        start.tls = self._ssl is not None
        start.uri = self._uri.format(port=self.port) if start.role == SERVICE else ""

    def _line(self) -> Line:
        """The protocol of a new connection."""
        return Line(self)


class Line(asyncio.Protocol):
    """One connection of a ScriptedDevice."""

    def __init__(self, device: ScriptedDevice) -> None:
        self._device = device
        self._transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._device._opened(self)

    def write(self, data: bytes) -> None:
        """Say something."""
        self._transport.write(data)

    def abort(self) -> None:
        """Drop it."""
        self._transport.abort()

    def data_received(self, data: bytes) -> None:
        if self in self._device._lines:
            self._device._heard(data)

    def connection_lost(self, exc: Exception | None) -> None:
        self._device._closed(self)


class ScriptedUDP(Messages[bytes]):
    """A UDP socket that plays the device; it answers whom it last heard.

    With `group` it has joined a multicast group (on the loopback interface) and is reached
    there. Each datagram is a message; `connections` counts those who sent.
    """

    roles = (DEVICE,)
    kind = socket.SOCK_DGRAM

    def __init__(self, *, group: str = "") -> None:
        super().__init__()
        self.received = 0
        self.sent = 0
        self._group = group
        self._peers: list[tuple[str, int]] = []
        self._transport: asyncio.DatagramTransport | None = None

    async def listen(self) -> None:
        """Hear datagrams, on the same port as before."""
        sock = socket.socket(type=socket.SOCK_DGRAM)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((self._group or HOST, self.port))
        self.port = sock.getsockname()[1]
        if self._group:
            joined = socket.inet_aton(self._group) + socket.inet_aton(HOST)
            sock.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, joined)
            sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton(HOST))
            sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL, struct.pack("b", 0))
        loop = asyncio.get_running_loop()
        self._transport, _ = await loop.create_datagram_endpoint(
            lambda: _Datagrams(self), sock=sock
        )

    async def unplug(self) -> None:
        """Hear and say nothing any more."""
        if self._transport is not None:
            self._transport.abort()
            self._transport = None

    def introduce(self, start: ModuleStart, defaults: DriverDefaults) -> None:
        """Write into the module's record how it is reached."""
        super().introduce(start, defaults)
        start.udp = True
        start.ip = self._group or HOST

    def _reachable(self) -> bool:
        return bool(self._peers) and self._transport is not None

    def _say(self, data: bytes) -> None:
        assert self._transport is not None
        self.sent += 1
        self._transport.sendto(data, self._peers[-1])

    def _came(self, data: bytes, peer: tuple[str, int]) -> None:
        self.received += 1
        if peer not in self._peers:
            self.connections += 1
        else:
            self._peers.remove(peer)
        self._peers.append(peer)
        self._heard(data)


class _Datagrams(asyncio.DatagramProtocol):
    """The socket of a ScriptedUDP."""

    def __init__(self, device: ScriptedUDP) -> None:
        self._device = device

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        self._device._came(data, addr)
