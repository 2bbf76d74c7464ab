"""A server that is not ours (aiohttp's), and clients for it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from typing import Any

import msgspec
import pytest
from aiohttp import web
from msgspec import Raw

from placeos.driver.log import ModuleLogger
from placeos.driver.transports.base import Address, Transport
from placeos.driver.transports.http import HTTP
from placeos.driver.transports.http_client import HttpClient


class Server:
    """Remembers the requests; a test gives it what it answers."""

    def __init__(self) -> None:
        self.requests: list[str] = []
        self.headers: list[Any] = []
        self.at_once = 0
        self.most_at_once = 0
        self.port = 0
        self.peers: set[object] = set()
        self.transports: list[Any] = []
        self.runner: Any = None
        self.go = asyncio.Event()
        self.go.set()
        self.arrived = asyncio.Condition()

    @property
    def uri(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def saw(self, number: int) -> None:
        """Wait for that many requests."""
        async with asyncio.timeout(10), self.arrived:
            await self.arrived.wait_for(lambda: len(self.requests) >= number)

    async def handle(self, request: web.Request) -> web.StreamResponse:
        self.requests.append(f"{request.method} {request.path_qs}")
        self.headers.append(request.headers)
        self.transports.append(request.transport)
        self.peers.add(request.transport.get_extra_info("peername"))
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        async with self.arrived:
            self.arrived.notify_all()
        try:
            await self.go.wait()
            return await self.answer(request)
        finally:
            self.at_once -= 1

    async def answer(self, request: web.Request) -> web.StreamResponse:
        return web.json_response({"body": await request.text()})


@contextlib.asynccontextmanager
async def _listening(ssl_context: Any = None, port: int = 0) -> AsyncIterator[Server]:
    server = Server()
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", server.handle)
    server.runner = runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", port, ssl_context=ssl_context)
    await site.start()
    server.port = site._server.sockets[0].getsockname()[1]
    try:
        yield server
    finally:
        server.go.set()
        await runner.cleanup()


@pytest.fixture
def listening() -> Callable[..., contextlib.AbstractAsyncContextManager[Server]]:
    """Starts a further server, with TLS or on a port if given."""
    return _listening


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    async with _listening() as made:
        yield made


class Events:
    """What the device was told."""

    def __init__(self) -> None:
        self.told: list[str] = []

    def heard(self) -> None:
        self.told.append("heard")

    def unheard(self, reason: str) -> None:
        self.told.append(reason)


@pytest.fixture
def events() -> Events:
    return Events()


@pytest.fixture
async def make_client() -> AsyncIterator[Callable[..., HttpClient]]:
    """Makes clients of transports; further arguments are settings."""
    made: list[HttpClient] = []
    tasks: set[asyncio.Task[object]] = set()

    def spawn(job: Any, _name: str) -> None:
        tasks.add(asyncio.create_task(job))

    def make(
        uri: str = "",
        spec: Transport | None = None,
        events: Any = None,
        hook: Any = None,
        host: str = "",
        **settings: Any,
    ) -> HttpClient:
        address = _address(uri, host, **settings)
        client = HttpClient(spec or HTTP(), address, events, hook, ModuleLogger("m"), spawn)
        made.append(client)
        return client

    yield make
    for client in made:
        await client.close()
    if tasks:
        await asyncio.wait(tasks)


def _address(uri: str, host: str = "", **settings: Any) -> Address:
    raw = {name: Raw(msgspec.json.encode(value)) for name, value in settings.items()}
    return Address(uri=uri, host=host, settings=raw)


@pytest.fixture
def address_of() -> Callable[..., Address]:
    """Makes addresses of URIs; further arguments are settings."""
    return _address
