"""A server that is not ours (the websockets package), and one that sends what it likes."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from websockets.asyncio.server import ServerConnection, serve


class Peer:
    """The other side: what it got, and the connections to talk on."""

    def __init__(self) -> None:
        self.got: asyncio.Queue[str | bytes] = asyncio.Queue()
        self.connections: asyncio.Queue[ServerConnection] = asyncio.Queue()
        self.port = 0

    @property
    def uri(self) -> str:
        return f"ws://127.0.0.1:{self.port}/live"

    async def __call__(self, connection: ServerConnection) -> None:
        await self.connections.put(connection)
        async for message in connection:
            await self.got.put(message)

    async def connection(self) -> ServerConnection:
        return await asyncio.wait_for(self.connections.get(), 10)

    async def message(self) -> str | bytes:
        return await asyncio.wait_for(self.got.get(), 10)


@contextlib.asynccontextmanager
async def _listening(**options: Any) -> AsyncIterator[Peer]:
    """A server on a free port; its own pings are off unless wanted."""
    peer = Peer()
    options = {"ping_interval": None, "close_timeout": 1, "compression": None} | options
    async with serve(peer, "127.0.0.1", 0, **options) as server:
        peer.port = server.sockets[0].getsockname()[1]
        yield peer


@pytest.fixture
def listening() -> Callable[..., contextlib.AbstractAsyncContextManager[Peer]]:
    """Starts a further server; arguments are those of its library."""
    return _listening


@pytest.fixture
async def peer() -> AsyncIterator[Peer]:
    async with _listening() as made:
        yield made


@contextlib.asynccontextmanager
async def _raw_server(frames: bytes) -> AsyncIterator[str]:
    """A server that shakes hands and then sends bytes of our making."""
    done = asyncio.Event()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        key = next(
            line.split(b":")[1].strip()
            for line in head.split(b"\r\n")
            if line.lower().startswith(b"sec-websocket-key")
        )
        magic = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
        accept = base64.b64encode(hashlib.sha1(key + magic).digest())
        writer.write(
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: upgrade\r\n"
            b"Sec-WebSocket-Accept: " + accept + b"\r\n\r\n" + frames
        )
        await done.wait()
        writer.transport.abort()

    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    try:
        yield f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
    finally:
        done.set()
        server.close()


@pytest.fixture
def raw_server() -> Callable[[bytes], contextlib.AbstractAsyncContextManager[str]]:
    """Starts a server of our own making, which gives its URI."""
    return _raw_server
