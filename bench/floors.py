"""The bare servers that the platform is compared with, each a process of its own.

`python bench/floors.py echo|fanout PORT`, `… read PORT DATABASE_URL REDIS_URL`, and for a chain
of processes `… chain PORT SOCKET`, `… relay SOCKET NEXT_SOCKET`, `… end SOCKET`. They do the
least that can be done for the same answer: no authentication, no routing, no checks.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable
from typing import Any, ClassVar, cast

import asyncpg
import msgspec
import uvloop
from granian.constants import Interfaces
from granian.server.embed import Server
from picows import (
    WSFrame,
    WSListener,
    WSMsgType,
    WSTransport,
    WSUpgradeRequest,
    ws_create_server,
)
from redis.asyncio import Redis


class Echo(WSListener):
    """Sends every frame back."""

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        transport.send(WSMsgType.TEXT, frame.get_payload_as_bytes())


class FanOut(WSListener):
    """Every line of a frame goes to everybody as a message of its own."""

    everybody: ClassVar[set[WSTransport]] = set()

    def on_ws_connected(self, transport: WSTransport) -> None:
        self.everybody.add(transport)

    def on_ws_disconnected(self, transport: WSTransport) -> None:
        self.everybody.discard(transport)

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        for message in frame.get_payload_as_bytes().split(b"\n"):
            for receiver in self.everybody:
                receiver.send(WSMsgType.TEXT, message)


async def websocket(listener: type[WSListener], port: int) -> None:
    """A bare picows server."""

    def accept(_: WSUpgradeRequest) -> WSListener:
        return listener()

    server = await ws_create_server(accept, "127.0.0.1", port)
    await server.serve_forever()


class Upstream(asyncio.Protocol):
    """A connection to the next process of a chain; what comes back goes to `back`."""

    back: Callable[[bytes], None]

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.send = cast(asyncio.Transport, transport).write

    def data_received(self, data: bytes) -> None:
        self.back(data)


class Relay(asyncio.Protocol):
    """Passes bytes on to the next process, or back if there is none."""

    def __init__(self, upstream: Upstream | None) -> None:
        self._upstream = upstream

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        back = cast(asyncio.Transport, transport).write
        self._pass_on = back
        if self._upstream is not None:
            self._upstream.back = back
            self._pass_on = self._upstream.send

    def data_received(self, data: bytes) -> None:
        self._pass_on(data)


class Chain(WSListener):
    """The websocket end of a chain: each frame goes through all of it and back."""

    def __init__(self, upstream: Upstream) -> None:
        self._upstream = upstream

    def on_ws_connected(self, transport: WSTransport) -> None:
        self._upstream.back = lambda data: transport.send(WSMsgType.TEXT, data)

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        self._upstream.send(frame.get_payload_as_bytes())


async def reach(path: str) -> Upstream:
    """Connect to the next process of a chain."""
    loop = asyncio.get_running_loop()
    return (await loop.create_unix_connection(Upstream, path))[1]


async def relay(path: str, upstream: Upstream | None) -> None:
    """One process of a chain."""
    loop = asyncio.get_running_loop()
    server = await loop.create_unix_server(lambda: Relay(upstream), path)
    await server.serve_forever()


async def chain(port: int, path: str) -> None:
    """The front of a chain."""
    upstream = await reach(path)
    server = await ws_create_server(lambda _: Chain(upstream), "127.0.0.1", port)
    await server.serve_forever()


async def relay_to(path: str, next_path: str) -> None:
    """A process in the middle of a chain."""
    await relay(path, await reach(next_path))


Scope = dict[str, Any]
Send = Callable[[dict[str, Any]], Awaitable[None]]


class Read:
    """A bare ASGI application: `/record/<id>` from PostgreSQL, `/state/<id>/<key>` from Redis."""

    def __init__(self, pool: asyncpg.Pool, redis: Redis) -> None:
        self._pool = pool
        self._redis = redis

    async def __call__(self, scope: Scope, receive: object, send: Send) -> None:
        if scope["type"] != "http":
            return
        _, kind, *rest = scope["path"].split("/")
        if kind == "record":
            row = await self._pool.fetchrow("SELECT * FROM sys WHERE id = $1", rest[0])
            body = msgspec.json.encode(dict(row) if row is not None else None)
        else:
            body = await self._redis.hget(f"status/{rest[0]}", rest[1]) or b"null"
        headers = [(b"content-type", b"application/json")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})


async def read(port: int, database_url: str, redis_url: str) -> None:
    """The ASGI application on granian, one worker, in this loop like the platform's."""
    async with asyncpg.create_pool(database_url, min_size=8, max_size=8) as pool:
        application = Read(pool, Redis.from_url(redis_url))
        server = Server(application, port=port, interface=Interfaces.ASGINL, log_enabled=False)
        await server.serve()


def main() -> None:
    """Command line."""
    match sys.argv[1:]:
        case ["echo", port]:
            uvloop.run(websocket(Echo, int(port)))
        case ["fanout", port]:
            uvloop.run(websocket(FanOut, int(port)))
        case ["chain", port, path]:
            uvloop.run(chain(int(port), path))
        case ["relay", path, next_path]:
            uvloop.run(relay_to(path, next_path))
        case ["end", path]:
            uvloop.run(relay(path, None))
        case ["read", port, database_url, redis_url]:
            uvloop.run(read(int(port), database_url, redis_url))
        case _:
            sys.exit(__doc__)


if __name__ == "__main__":
    main()
