"""The auth service as a process of its own, on a fresh database with one domain and one user."""

from __future__ import annotations

import asyncio
import os
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit, urlunsplit

import asyncpg
import httpx
import pytest

from placeos.local.engines import Engines
from placeos.model.tokens import Claims, Verifier
from placeos.store import Database
from placeos.store.seed import FirstUser, ensure_first_user

EMAIL, PASSWORD = "ada@example.com", "correct horse"


class Running:
    """The service, a client for it, and the database behind it."""

    def __init__(self, url: str, database_url: str, key: bytes) -> None:
        self.url = url
        self.client = httpx.AsyncClient(base_url=url, timeout=30.0)
        self.database_url = database_url
        self.verifier = Verifier(key)
        self.user_id = ""
        self.authority_id = ""
        self.log: Path = Path()

    async def sign_in(self, **more: str) -> dict[str, Any]:
        answer = await self.client.post("/auth/token", params=self.grant(**more))
        assert answer.status_code == 200, answer.text
        content: dict[str, Any] = answer.json()
        return content

    def grant(self, **more: str) -> dict[str, str]:
        return {"grant_type": "password", "username": EMAIL, "password": PASSWORD, **more}

    async def renew(self, token: str, **more: str) -> httpx.Response:
        return await self.client.post(
            "/auth/oauth/token",
            data={"grant_type": "refresh_token", "refresh_token": token, **more},
        )

    def claims(self, token: str) -> Claims:
        return self.verifier.verify(token)

    @asynccontextmanager
    async def relay(self) -> AsyncIterator[Relay]:
        """A way to the database that can be cut."""
        host = parse_qs(urlsplit(self.database_url).query)["host"][0]
        relay = Relay(str(next(Path(host).glob(".s.PGSQL.*[0-9]"))))
        relay.url = f"postgresql://placeos@127.0.0.1:{relay.port}/auth_tests"
        await relay.mend()
        try:
            yield relay
        finally:
            await relay.cut()

    def beside(
        self, database_url: str, secrets: Path, folder: Path
    ) -> AbstractAsyncContextManager[Running]:
        """Another process of the service."""
        return auth_process(database_url, secrets, folder)

    async def fails_to_start(self, secrets: Path) -> tuple[int, str]:
        """The exit status and log of a process with this folder of secrets."""
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "placeos.auth",
            env=environment(self.database_url, secrets, secrets, 0),
            stderr=asyncio.subprocess.PIPE,
        )
        async with asyncio.timeout(60):
            _, log = await process.communicate()
        assert process.returncode is not None
        return process.returncode, log.decode()

    async def sql(self, statement: str, *args: object) -> Any:
        connection = await asyncpg.connect(self.database_url)
        try:
            return await connection.fetch(statement, *args)
        finally:
            await connection.close()


class Relay:
    """Carries bytes between a TCP port and a Unix socket, until it is cut."""

    def __init__(self, target: str) -> None:
        self.url = ""
        self.port = free_port()
        self._target = target
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()

    async def mend(self) -> None:
        self._server = await asyncio.start_server(self._carry, "127.0.0.1", self.port)

    async def cut(self) -> None:
        if self._server is not None:
            self._server.close()
        for writer in list(self._writers):
            writer.transport.abort()

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far_reader, far_writer = await asyncio.open_unix_connection(self._target)
        both = {writer, far_writer}
        self._writers |= both
        try:
            await asyncio.gather(pipe(reader, far_writer), pipe(far_reader, writer))
        finally:
            self._writers -= both
            for each in both:
                each.close()


async def pipe(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(ConnectionError):
        while data := await reader.read(65_536):
            writer.write(data)
            await writer.drain()
        writer.close()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def environment(database_url: str, secrets: Path, folder: Path, port: int) -> dict[str, str]:
    return {
        **os.environ,
        "PLACEOS_DATA": str(folder),
        "PLACEOS_SECRETS": str(secrets),
        "PLACEOS_DATABASE_URL": database_url,
        "PLACEOS_REDIS_URL": "redis://127.0.0.1:1",
        "PLACEOS_LISTEN": f"127.0.0.1:{port}",
    }


@asynccontextmanager
async def auth_process(database_url: str, secrets: Path, folder: Path) -> AsyncIterator[Running]:
    port = free_port()
    running = Running(f"http://127.0.0.1:{port}", database_url, (secrets / "jwt.pem").read_bytes())
    running.log = folder / "auth.log"
    with running.log.open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "placeos.auth",
            env=environment(database_url, secrets, folder, port),
            stderr=log,
        )
    try:
        async with asyncio.timeout(60):
            while True:
                try:
                    if (await running.client.get("/auth/authority?health")).status_code == 200:
                        break
                except httpx.TransportError:
                    assert process.returncode is None, running.log.read_text()
                await asyncio.sleep(0.05)
        yield running
    finally:
        await running.client.aclose()
        process.terminate()
        async with asyncio.timeout(20):
            assert await process.wait() == 0


@pytest.fixture(scope="module")
async def auth_service(
    engines: Engines,
    template_database: str,
    secrets_folder: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> AsyncIterator[Running]:
    """One process for all tests: starting one costs seconds."""
    connection = await asyncpg.connect(engines.database_url)
    await connection.execute("DROP DATABASE IF EXISTS auth_tests WITH (FORCE)")
    await connection.execute(f'CREATE DATABASE auth_tests TEMPLATE "{template_database}"')
    await connection.close()
    database_url = urlunsplit(urlsplit(engines.database_url)._replace(path="/auth_tests"))
    await fill(database_url)
    folder = tmp_path_factory.mktemp("auth")
    async with auth_process(database_url, secrets_folder, folder) as running:
        yield running


@pytest.fixture
async def auth(auth_service: Running) -> Running:
    """The service with one domain and one administrator, as if just set up."""
    for table in ("refresh_token", "api_key", '"user"', "authority"):
        await auth_service.sql(f"DELETE FROM {table}")
    first = await fill(auth_service.database_url)
    auth_service.user_id, auth_service.authority_id = first.user_id, first.authority_id
    async with asyncio.timeout(20):
        while True:
            answer = await auth_service.client.get("/auth/authority")
            if answer.status_code == 200 and answer.json()["id"] == first.authority_id:
                return auth_service
            await asyncio.sleep(0.01)


async def fill(database_url: str) -> FirstUser:
    database = Database(database_url)
    await database.connect()
    try:
        return await ensure_first_user(database, "localhost", EMAIL, PASSWORD, name="Ada Lovelace")
    finally:
        await database.close()
