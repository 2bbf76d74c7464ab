"""Lines that delay, lose and swallow; and what namespaces cut."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import netns
import pytest
from line import Line, Proxy


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65536):
        writer.write(data)
    writer.close()


@asynccontextmanager
async def through(line: Line) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """A connection to an echo at the other end of a line."""
    server = await asyncio.start_server(echo, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    proxy = Proxy(lambda: asyncio.open_connection("127.0.0.1", port), line)
    near = await proxy.start("127.0.0.1", 0)
    reader, writer = await asyncio.open_connection("127.0.0.1", near)
    try:
        yield reader, writer
    finally:
        writer.close()
        await proxy.close()
        server.close()


async def there_and_back(
    streams: tuple[asyncio.StreamReader, asyncio.StreamWriter], data: bytes
) -> float:
    began = time.monotonic()
    streams[1].write(data)
    assert await asyncio.wait_for(streams[0].readexactly(len(data)), 20) == data
    return time.monotonic() - began


async def test_all_arrives_in_order() -> None:
    async with through(Line(loss=0.02)) as streams:
        await there_and_back(streams, bytes(range(256)) * 400)


async def test_delay() -> None:
    async with through(Line(delay=0.1)) as streams:
        assert 0.2 <= await there_and_back(streams, b"x") < 1.0
        # A line is no queue: what follows closely arrives closely.
        assert await there_and_back(streams, b"x" * 14_000) < 1.0


async def test_loss_is_a_stall() -> None:
    async with through(Line(loss=1.0)) as streams:
        assert await there_and_back(streams, b"x") >= 0.4


async def test_half_open_says_nothing_to_nobody() -> None:
    line = Line()
    async with through(line) as streams:
        await there_and_back(streams, b"x")
        line.swallow = True
        streams[1].write(b"lost")
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(streams[0].read(1), 0.3)
        line.swallow = False
        streams[1].write(b"the rest of what was lost in part")
        with suppress(ConnectionResetError):
            assert await asyncio.wait_for(streams[0].read(1), 5) == b""


needs_namespaces = pytest.mark.skipif(bool(netns.possible()), reason=netns.possible() or "")


@needs_namespaces
@pytest.mark.parametrize(
    "way",
    [
        pytest.param(way, marks=pytest.mark.skipif(not netns.can(way), reason="no nft"))
        for way in netns.WAYS
    ],
)
async def test_a_cut_is_of_one_address(way: str) -> None:
    with netns.network() as network:
        member = network.member()
        server = await asyncio.start_server(echo, "0.0.0.0", 0)
        port = server.sockets[0].getsockname()[1]

        async def reaches(place: str) -> bool:
            code = (
                f"import socket; socket.create_connection(({network.address(place)!r}, {port}), 1)"
            )
            command = [*member.prefix, sys.executable, "-c", code]
            done = await asyncio.to_thread(subprocess.run, command, capture_output=True)
            return done.returncode == 0

        assert await reaches("etcd")
        member.cut([network.address("etcd")], way)
        assert not await reaches("etcd")
        assert await reaches("redis")
        member.heal()
        assert await reaches("etcd")
        server.close()


@needs_namespaces
def test_nothing_is_left() -> None:
    with netns.network() as network:
        network.member()
    links = subprocess.run(["ip", "link"], capture_output=True, text=True).stdout
    spaces = subprocess.run(["ip", "netns"], capture_output=True, text=True).stdout
    assert network.tag not in links + spaces
