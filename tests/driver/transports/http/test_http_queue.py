"""Order, time and failure of requests, against a real server."""

from __future__ import annotations

import asyncio
import contextlib
import socket

import pytest

from placeos.driver.errors import NoReply, Offline, Superseded, Withdrawn
from placeos.driver.transports.http import HTTP


async def test_one_after_the_other_by_priority_with_names(server, make_client):
    http = make_client(server.uri)
    server.go.clear()
    first = asyncio.create_task(http.get("first"))
    await server.saw(1)
    later = [
        asyncio.create_task(http.get("low", priority=10)),
        asyncio.create_task(http.post("old", name="power")),
        asyncio.create_task(http.get("high", priority=90)),
        asyncio.create_task(http.post("new", name="power")),
    ]
    await asyncio.sleep(0)
    server.go.set()
    results = await asyncio.gather(first, *later, return_exceptions=True)
    assert isinstance(results[2], Superseded)
    assert server.requests == ["GET /first", "GET /high", "POST /new", "GET /low"]
    assert server.most_at_once == 1


async def test_as_many_at_once_as_the_driver_says(server, make_client):
    http = make_client(server.uri, HTTP(concurrent=3))
    server.go.clear()
    requests = [asyncio.create_task(http.get(str(number))) for number in range(7)]
    await server.saw(3)
    server.go.set()
    await asyncio.gather(*requests)
    assert server.most_at_once == 3
    assert len(server.peers) <= 3


async def test_delay_between_requests(server, make_client):
    http = make_client(server.uri, HTTP(delay=0.2))
    loop = asyncio.get_running_loop()
    begin = loop.time()
    await asyncio.gather(*(http.get() for _ in range(3)))
    assert loop.time() - begin >= 0.4


async def test_caller_that_is_gone_takes_its_request_along(server, make_client):
    http = make_client(server.uri)
    server.go.clear()
    flying, waiting = asyncio.create_task(http.get("a")), asyncio.create_task(http.get("b"))
    await server.saw(1)
    flying.cancel()
    waiting.cancel()
    await asyncio.wait([flying, waiting])
    async with asyncio.timeout(10):
        while not server.transports[0].is_closing():  # nobody reads that answer any more
            await asyncio.sleep(0.02)
    server.go.set()
    assert (await http.get("c")).ok
    assert server.requests == ["GET /a", "GET /c"]


async def test_withdrawn_requests(server, make_client):
    http = make_client(server.uri)
    server.go.clear()
    both = [asyncio.create_task(http.get(path)) for path in ("a", "b")]
    await server.saw(1)
    http.clear(current=True)
    results = await asyncio.gather(*both, return_exceptions=True)
    assert [type(result) for result in results] == [Withdrawn, Withdrawn]
    server.go.set()
    assert (await http.get("c")).ok


async def test_no_answer_in_time(server, make_client, events):
    http = make_client(server.uri, events=events)
    server.go.clear()
    with pytest.raises(NoReply, match=r"^GET /slow: no answer within 0\.3 s$"):
        await http.get("/slow?token=secret", timeout=0.3)
    assert server.requests == ["GET /slow?token=secret"], "a time-out is repeated"
    assert events.told == ["GET /slow: no answer within 0.3 s"]
    server.go.set()
    assert (await http.get("/fast")).ok
    assert events.told[1:] == ["heard"]


async def test_time_out_by_the_settings(server, make_client):
    http = make_client(server.uri, http_comms_timeout=0.2)
    server.go.clear()
    with pytest.raises(NoReply, match=r"within 0\.2 s"):
        await http.get()


async def test_no_connection_in_time(make_client, events):
    with contextlib.ExitStack() as stack:
        full = stack.enter_context(socket.socket())
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        for _ in range(3):  # more than wait to be accepted: the system answers no further one
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(full.getsockname())
        uri = f"http://127.0.0.1:{full.getsockname()[1]}"
        http = make_client(uri, events=events, http_connect_timeout=0.3)
        with pytest.raises(Offline, match=r"GET /: no connection within 0\.3 s"):
            await http.get(timeout=20)
        assert events.told == ["GET /: no connection within 0.3 s"]


async def test_nobody_listens(make_client, events):
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        port = bound.getsockname()[1]
        http = make_client(f"http://u:secret@127.0.0.1:{port}", events=events)
        with pytest.raises(Offline, match=r"^GET /a: Connection refused$"):
            await http.get("a", params={"token": "secret"})
        assert events.told == ["GET /a: Connection refused"], "told with each attempt"
    with pytest.raises(Offline, match="GET /a: "):
        await make_client("http://nowhere.invalid").get("a")


async def dropping(times: int):
    """A server that closes its first connections without an answer."""
    seen: list[bytes] = []

    async def handle(reader, writer) -> None:
        seen.append((await reader.readuntil(b"\r\n\r\n")).split(b" ")[0])
        if len(seen) > times:
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
        writer.close()

    made = await asyncio.start_server(handle, "127.0.0.1", 0)
    return made, seen, f"http://127.0.0.1:{made.sockets[0].getsockname()[1]}"


async def test_repeats_what_may_be_repeated(make_client):
    made, seen, uri = await dropping(1)
    async with made:
        assert (await make_client(uri).get()).text == "ok"
        assert seen == [b"GET", b"GET"]
    made, seen, uri = await dropping(9)
    async with made:
        with pytest.raises(NoReply, match="POST /: the connection failed before the answer"):
            await make_client(uri).post()
        assert seen == [b"POST"]
        with pytest.raises(NoReply):
            await make_client(uri).post(retries=2)
        assert len(seen) == 4
        with pytest.raises(NoReply):
            await make_client(uri, HTTP(retries=0)).get()
        assert len(seen) == 5


async def test_what_is_no_http(make_client):
    async def handle(reader, writer) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"\x00garbage\r\n\r\n")
        writer.close()

    made = await asyncio.start_server(handle, "127.0.0.1", 0)
    async with made:
        uri = f"http://127.0.0.1:{made.sockets[0].getsockname()[1]}"
        with pytest.raises(NoReply, match="GET /: the connection failed"):
            await make_client(uri, HTTP(retries=0)).get()


async def test_new_address_begins_anew(server, make_client, listening, address_of):
    async with listening() as other:
        http = make_client(server.uri)
        server.go.clear()
        flying = asyncio.create_task(http.get("a"))
        await server.saw(1)
        http.move(address_of(other.uri))
        with pytest.raises(Offline, match="were changed"):
            await flying
        assert (await http.get("b")).ok
        assert other.requests == ["GET /b"]
        http.move(address_of(other.uri, bearer_token="t"))
        assert (await http.get("c")).ok
        assert other.headers[-1]["Authorization"] == "Bearer t"
