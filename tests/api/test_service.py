"""The api process itself, on real sockets, with engines that come and go."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import psutil
import pytest

from placeos.local.engines import running_engines
from placeos.store import Database, migrate
from placeos.store.seed import ensure_first_user, new_api_key

BASE = "/api/engine/v2"


class Running:
    """A started process with a client."""

    def __init__(
        self,
        process: asyncio.subprocess.Process,
        client: httpx.AsyncClient,
        port: int,
        pids: dict[str, int],
    ) -> None:
        self.process = process
        self.client = client
        self.port = port
        self.pids = pids


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@pytest.fixture
async def running(tmp_path: Path, secrets_folder: Path) -> AsyncIterator[Running]:
    """`python -m placeos.api` with engines of its own."""
    async with running_engines(tmp_path, durable=False) as engines:
        await asyncio.to_thread(migrate, engines.database_url)
        database = Database(engines.database_url)
        await database.connect()
        key = new_api_key()
        await ensure_first_user(database, "localhost", "a@example.com", "pw", api_key=key)
        await database.close()
        port = free_port()
        environment = {
            **os.environ,
            "PLACEOS_DATA": str(tmp_path),
            "PLACEOS_SECRETS": str(secrets_folder),
            "PLACEOS_DATABASE_URL": engines.database_url,
            "PLACEOS_REDIS_URL": engines.redis_url,
            "PLACEOS_ETCD_ENDPOINTS": ",".join(engines.etcd_endpoints),
            "PLACEOS_LISTEN": f"127.0.0.1:{port}",
            "PLACEOS_CONTROL_LISTEN": f"127.0.0.1:{free_port()}",
            "PLACEOS_IDENTITY": "api-1",
        }
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "placeos.api", env=environment
        )
        client = httpx.AsyncClient(
            base_url=f"http://127.0.0.1:{port}{BASE}",
            headers={"x-api-key": key, "host": "localhost"},
            timeout=30,
        )
        try:
            await until(client, "/version", 200)
            yield Running(process, client, port, engines.pids)
        finally:
            await client.aclose()
            if process.returncode is None:
                process.kill()
            await process.wait()


async def until(client: httpx.AsyncClient, path: str, status: int, seconds: float = 60) -> None:
    """Ask until a status comes back."""
    async with asyncio.timeout(seconds):
        while True:
            try:
                if (await client.get(path)).status_code == status:
                    return
            except httpx.TransportError:
                pass
            await asyncio.sleep(0.05)


async def test_the_process_lives_through_its_engines(running: Running) -> None:
    client = running.client
    made = (await client.post("/systems", json={"name": "Room"})).json()["id"]
    assert (await client.get(f"/systems/{made}")).json()["name"] == "Room"
    assert (await client.get("")).status_code == 200

    server = psutil.Process(running.pids["postgres"])
    frozen_processes = [server, *server.children(recursive=True)]
    for one in frozen_processes:
        one.suspend()
    try:  # nothing answers, within the time limit of a statement
        frozen = await client.get(f"/systems/{made}")
        assert frozen.status_code == 503
        assert "database is not available" in frozen.json()["error"]
    finally:
        for one in frozen_processes:
            one.resume()
    await until(client, f"/systems/{made}", 200)

    redis = running.pids["redis"]
    os.kill(redis, signal.SIGKILL)
    assert running.process.returncode is None
    await until(client, "", 200)

    killed = running.pids["postgres"]
    os.kill(killed, signal.SIGKILL)
    answer = await client.get(f"/systems/{made}")
    seen = {answer.status_code}
    async with asyncio.timeout(60):
        while running.pids.get("postgres", killed) == killed or answer.status_code != 200:
            answer = await client.get(f"/systems/{made}")
            seen.add(answer.status_code)
            await asyncio.sleep(0.02)
        while (
            renamed := await client.patch(
                f"/systems/{made}", params={"version": 0}, json={"name": "Other"}
            )
        ).status_code != 200:
            seen.add(renamed.status_code)
    assert seen <= {200, 503}

    running.process.send_signal(signal.SIGTERM)
    assert await asyncio.wait_for(running.process.wait(), 5) == 0


async def raw(port: int, request: bytes, *, body: bytes = b"", repeat: int = 1) -> bytes:
    """What a plain socket gets back."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(request)
        for _ in range(repeat):
            writer.write(body)
            await writer.drain()
        async with asyncio.timeout(20):
            return await reader.readuntil(b"\r\n\r\n")
    finally:
        writer.close()


async def test_on_a_plain_socket(running: Running) -> None:
    client, port = running.client, running.port
    key = client.headers["x-api-key"].encode()
    head = b"Host: localhost\r\nX-API-Key: " + key + b"\r\n"
    answered = await raw(port, b"HEAD " + BASE.encode() + b"/systems HTTP/1.1\r\n" + head + b"\r\n")
    assert answered.startswith(b"HTTP/1.1 200")
    assert b"x-total-count: 0" in answered.lower()
    post = b"POST " + BASE.encode() + b"/systems HTTP/1.1\r\n" + head
    declared = await raw(
        port, post + b"Content-Length: 10000000\r\n\r\n", body=b"x" * 100_000, repeat=100
    )
    assert declared.startswith(b"HTTP/1.1 413")
    chunk = b"186a0\r\n" + b"x" * 100_000 + b"\r\n"
    chunked = await raw(port, post + b"Transfer-Encoding: chunked\r\n\r\n", body=chunk, repeat=100)
    # the last chunk is missing: the answer must not wait for what is over the limit already
    assert chunked.startswith(b"HTTP/1.1 413")
    slash = await client.get("/systems/a%2Fb")
    assert slash.json() == {"error": "could not find system 'a/b'"}
    broken = await raw(port, b"GET /\xff HTTP/1.1\r\n" + head + b"\r\n")
    assert broken.startswith((b"HTTP/1.1 400", b"HTTP/1.1 404"))
    assert running.process.returncode is None
