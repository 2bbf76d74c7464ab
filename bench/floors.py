"""The bare servers that the platform is compared with, each a process of its own.

`python bench/floors.py echo|fanout PORT` or `… read PORT DATABASE_URL REDIS_URL`. They do the
least that can be done for the same answer: no authentication, no routing, no checks.
"""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable
from typing import Any, ClassVar

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
        case ["read", port, database_url, redis_url]:
            uvloop.run(read(int(port), database_url, redis_url))
        case _:
            sys.exit(__doc__)


if __name__ == "__main__":
    main()
