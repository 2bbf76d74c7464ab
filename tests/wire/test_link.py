"""Links over real sockets: answers, failures, the handshake and its proof."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest

from placeos.wire import link as link_module
from placeos.wire.errors import CallError, Failure
from placeos.wire.frame import Command, FrameError, Header
from placeos.wire.link import Hello, Link, OnRequest


def echo(link: Link, header: Header, payload: bytes) -> None:
    link.reply(header.sequence, payload)


def ignore(link: Link, header: Header, payload: bytes) -> None:
    """A handler that never answers."""


@asynccontextmanager
async def pair(
    on_request: OnRequest = echo,
    *,
    secrets: tuple[bytes | None, bytes | None] = (None, None),
    on_cancel: Callable[[int], None] | None = None,
) -> AsyncIterator[tuple[Link, Link]]:
    """A connected client and server link on loopback."""
    loop = asyncio.get_running_loop()
    accepted: asyncio.Future[Link] = loop.create_future()

    def accept() -> Link:
        link = Link(on_request, secret=secrets[1], server=True, on_cancel=on_cancel)
        accepted.set_result(link)
        return link

    server = await loop.create_server(accept, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    _, client = await loop.create_connection(
        lambda: Link(ignore, secret=secrets[0], hello=Hello(service="api", identity="a")),
        "127.0.0.1",
        port,
    )
    try:
        yield client, await accepted
    finally:
        client.close()
        server.close()
        await client.closed
        await (await accepted).closed


async def test_answers_find_their_requests_in_any_order() -> None:
    waiting: list[tuple[int, bytes]] = []

    def answer_reversed(link: Link, header: Header, payload: bytes) -> None:
        waiting.append((header.sequence, payload))
        if len(waiting) == 10:
            for sequence, body in reversed(waiting):
                link.reply(sequence, body)

    async with pair(answer_reversed) as (client, _):
        await client.ready
        answers = await asyncio.gather(
            *(client.request(Header(Command.EXECUTE), b"%d" % n) for n in range(10))
        )
    assert [body for _, body in answers] == [b"%d" % n for n in range(10)]


async def test_an_error_answer_is_raised_with_its_detail() -> None:
    def refuse(link: Link, header: Header, payload: bytes) -> None:
        link.fail(header.sequence, CallError(Failure.RAISED, "no lamp", code=418, kind="LampError"))

    async with pair(refuse) as (client, _):
        await client.ready
        with pytest.raises(CallError) as caught:
            await client.request(Header(Command.EXECUTE))
    assert (caught.value.failure, caught.value.code, caught.value.kind, caught.value.message) == (
        Failure.RAISED,
        418,
        "LampError",
        "no lamp",
    )


async def test_a_lost_link_says_that_the_call_may_have_run() -> None:
    def hang_up(link: Link, header: Header, payload: bytes) -> None:
        link.abort(ConnectionError("pulled"))

    async with pair(hang_up) as (client, _):
        await client.ready
        with pytest.raises(CallError) as caught:
            await client.request(Header(Command.EXECUTE))
        assert caught.value.failure == Failure.MAY_HAVE_RUN
        await client.closed
        with pytest.raises(CallError) as caught:
            await client.request(Header(Command.EXECUTE))
        assert caught.value.failure == Failure.NOT_RUN


async def test_a_caller_that_gives_up_tells_the_other_side() -> None:
    cancelled: asyncio.Queue[int] = asyncio.Queue()
    async with pair(ignore, on_cancel=cancelled.put_nowait) as (client, _):
        await client.ready
        with pytest.raises(CallError) as caught:
            await client.request(Header(Command.EXECUTE), timeout=0.05)
        assert caught.value.failure == Failure.TIMED_OUT
        assert await asyncio.wait_for(cancelled.get(), 5) == 1


async def test_both_sides_prove_the_cluster_secret() -> None:
    async with pair(secrets=(b"shared", b"shared")) as (client, server):
        await client.ready
        await server.ready
        assert server.peer.service == "api"
        _, body = await client.request(Header(Command.EXECUTE), b"42")
        assert body == b"42"


@pytest.mark.parametrize("wrong", [b"guess", None])
async def test_a_link_without_the_secret_is_closed(
    wrong: bytes | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(link_module, "HANDSHAKE_TIMEOUT", 0.3)
    async with pair(secrets=(wrong, b"shared")) as (client, server):
        with pytest.raises((FrameError, ConnectionError, TimeoutError)):
            await server.ready
        await client.closed
        assert not client.is_open


async def test_garbage_closes_the_link_and_only_that() -> None:
    async with pair() as (client, server):
        await client.ready
        assert client._transport is not None
        client._transport.write(b"\xff" * 64)
        await server.closed
        await client.closed


async def test_a_large_frame_arrives_whole() -> None:
    async with pair() as (client, _):
        await client.ready
        payload = bytes(range(256)) * 40_000
        _, body = await client.request(Header(Command.EXECUTE), payload, timeout=20)
        assert body == payload
