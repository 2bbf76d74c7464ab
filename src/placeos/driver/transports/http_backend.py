"""The sockets below httpx: fenced like those of every other transport.

httpcore, which httpx is made on, lets its network be replaced (`network_backend`).
"""

from __future__ import annotations

import socket
import ssl
from collections.abc import Iterable
from typing import Any, Final

import anyio
import httpcore
import httpx
from httpcore import SOCKET_OPTION, AsyncNetworkStream
from httpcore._backends.anyio import AnyIOStream  # the public backend takes no socket of ours

from placeos.driver.fencing import sockets
from placeos.driver.fencing.permit import Permit

PIECE: Final = 64 * 1024  # bytes of a request between two questions whether to go on


class Stream(AsyncNetworkStream):
    """One connection, with TLS or without."""

    def __init__(self, below: AsyncNetworkStream, sock: socket.socket, permit: Permit) -> None:
        self._below = below
        self._sock = sock
        self._permit = permit

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        """Bytes the other side sent."""
        return await self._below.read(max_bytes, timeout)

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:
        """Send, as long as that may be done. Raises LeaseLost."""
        for start in range(0, len(buffer), PIECE):
            self._permit.check()
            await self._below.write(buffer[start : start + PIECE], timeout)

    async def aclose(self) -> None:
        """Close it: with a reset if the other side has not got all that was sent."""
        sockets.before_close(self._sock)
        await self._below.aclose()

    async def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,
    ) -> AsyncNetworkStream:
        """The same connection with TLS."""
        self._permit.check()
        secure = await self._below.start_tls(ssl_context, server_hostname, timeout)
        return Stream(secure, self._sock, self._permit)

    def get_extra_info(self, info: str) -> Any:
        """What httpcore asks of it."""
        return self._below.get_extra_info(info)


class Backend(httpcore.AsyncNetworkBackend):
    """Makes the connections of one module's requests."""

    def __init__(self, permit: Permit) -> None:
        self._permit = permit

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[SOCKET_OPTION] | None = None,
    ) -> AsyncNetworkStream:
        """Connect. Raises LeaseLost, httpcore.ConnectTimeout and httpcore.ConnectError."""
        self._permit.check()
        try:
            with anyio.fail_after(timeout):
                sock = await sockets.connected(host, port)
        except TimeoutError as error:
            raise httpcore.ConnectTimeout(str(error)) from error
        except OSError as error:
            raise httpcore.ConnectError(str(error)) from error
        try:
            stream = await anyio.abc.SocketStream.from_socket(sock)
        except BaseException:
            sock.close()
            raise
        return Stream(AnyIOStream(stream), sock, self._permit)

    async def sleep(self, seconds: float) -> None:
        """Between two attempts."""
        await anyio.sleep(seconds)


class Transport(httpx.AsyncHTTPTransport):
    """That of httpx on such sockets."""

    def __init__(self, permit: Permit, **options: Any) -> None:
        super().__init__(**options)
        self._pool._network_backend = Backend(permit)
