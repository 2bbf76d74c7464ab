"""What the tests of the SDK share."""

from __future__ import annotations

import asyncio
import textwrap
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from msgspec import Raw

from placeos.driver import clock
from placeos.driver.log import ModuleLogger
from placeos.driver.transports.base import Address, Opening, Transport

WriteDriver = Callable[[str], Path]


@pytest.fixture
def write_driver(tmp_path: Path) -> WriteDriver:
    """Writes a driver file and returns where it is."""

    def write(text: str) -> Path:
        file = tmp_path / "tried.py"
        file.write_text(textwrap.dedent(text))
        return file

    return write


class Opened:
    """One connection of a transport, and what it told."""

    def __init__(self) -> None:
        self.connection: Any = None
        self.messages: list[bytes] = []
        self.reasons: list[str] = []
        self._changed = asyncio.Event()

    def message(self, data: bytes) -> None:
        self.messages.append(data)
        self._changed.set()

    def lost(self, _connection: object, reason: str) -> None:
        self.reasons.append(reason)
        self._changed.set()

    async def until(self, condition: Callable[[], object], timeout: float = 20) -> None:
        """Wait until it holds; looked at whenever something was told."""
        async with asyncio.timeout(timeout):
            while not condition():
                self._changed.clear()
                await self._changed.wait()

    async def says(self, *messages: bytes) -> None:
        """Wait for exactly these messages."""
        await self.until(lambda: len(self.messages) >= len(messages))
        assert self.messages == list(messages)

    async def reason(self) -> str:
        """Why the connection ended, once it has."""
        await self.until(lambda: self.reasons)
        return self.reasons[0]


class PlainAuthor:
    """A driver without hooks."""

    async def websocket_headers(self) -> dict[str, str]:
        return {}

    def get(self, key: str) -> object:
        return None


OpenTransport = Callable[..., Awaitable[Opened]]


@pytest.fixture
async def open_transport() -> AsyncIterator[OpenTransport]:
    """Opens connections of a transport and takes them into use; closes them in the end."""
    made: list[Opened] = []

    async def open_one(
        transport: Transport, *, author: object = None, adopt: bool = True, **address: Any
    ) -> Opened:
        opened = Opened()
        settings = {
            name: Raw(msgspec.json.encode(value))
            for name, value in address.pop("settings", {}).items()
        }
        where = Address(**address, settings=settings)
        told: Any = opened
        hooks: Any = author or PlainAuthor()
        opening = Opening(where, told, ModuleLogger("tested"), hooks)
        opened.connection = await transport.open(opening)
        made.append(opened)
        if adopt:
            opened.connection.adopt(opened.lost)
        return opened

    yield open_one
    for one in made:
        one.connection.drop("the test is over")
        await one.connection.wait_closed()


class FakeTimeLoop(asyncio.SelectorEventLoop):
    """An event loop whose time passes only when it has nothing to do, and then at once."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 1000.0

    def time(self) -> float:
        return self.now

    def _run_once(self) -> None:
        scheduled: list[asyncio.TimerHandle] = self._scheduled  # type: ignore[attr-defined]
        pending = [handle.when() for handle in scheduled if not handle.cancelled()]
        if not self._ready and pending:  # type: ignore[attr-defined]
            self.now = max(self.now, min(pending))
        super()._run_once()  # type: ignore[misc]


@pytest.fixture
def fake_time() -> Iterator[FakeTimeLoop]:
    """A loop for `run_until_complete` in which hours take no time."""
    loop = FakeTimeLoop()
    wall = time.time() - loop.now
    clock.set_source(lambda: wall + loop.now)
    yield loop
    clock.set_source(time.time)
    loop.close()
