"""Websockets on real sockets, at the level of a connection."""

from __future__ import annotations

import asyncio
import base64

import pytest

from placeos.driver.errors import DriverError
from placeos.driver.transports.websocket import WebSocket
from placeos.driver.transports.websocket_connection import AT_A_TIME


def frame(opcode: int, payload: bytes, *, fin: bool = True, rsv: int = 0) -> bytes:
    size = len(payload)
    head = bytes([fin << 7 | rsv << 4 | opcode])
    if size < 126:
        return head + bytes([size]) + payload
    if size < 65536:
        return head + b"\x7e" + size.to_bytes(2, "big") + payload
    return head + b"\x7f" + size.to_bytes(8, "big") + payload


async def test_text_stays_text_and_bytes_stay_bytes(peer, open_transport):
    transport = WebSocket()
    opened = await open_transport(transport, uri=peer.uri)
    for data in ("grüße", b"\x00\xff"):
        opened.connection.write(transport.encode(data))
        assert await peer.message() == data
    device = await peer.connection()
    await device.send("text")
    await device.send(b"\x01\x02")
    await opened.says(b"text", b"\x01\x02")


async def test_framing_over_websockets(peer, open_transport):
    transport = WebSocket(ends_with=b"\n")
    opened = await open_transport(transport, uri=peer.uri)
    opened.connection.write(transport.encode("hello"))
    assert await peer.message() == "hello\n"
    device = await peer.connection()
    await device.send("one\ntwo\nthr")
    await device.send(b"ee\n")
    await opened.says(b"one", b"two", b"three")


async def test_fragments_become_one_message(peer, open_transport):
    opened = await open_transport(WebSocket(), uri=peer.uri)
    device = await peer.connection()
    await device.send(["frag", "men", "ted"])
    await device.send([b"by", b"tes"])
    await device.send("x" * 200_000)
    await opened.says(b"fragmented", b"bytes", b"x" * 200_000)


async def test_invalid_utf8_is_the_drivers_business(open_transport, raw_server):
    async with raw_server(frame(1, b"\xff\xfe") + frame(1, b"ok")) as uri:
        opened = await open_transport(WebSocket(), uri=uri)
        await opened.says(b"\xff\xfe", b"ok")


@pytest.mark.parametrize(
    ("frames", "words"),
    [
        (frame(0, b"x"), "mixed up the fragments"),
        (frame(1, b"x", fin=False) + frame(1, b"y"), "mixed up the fragments"),
        (frame(1, b"x", rsv=4), "extension nobody asked for"),
        (frame(3, b"x"), "invalid opcode"),
        (frame(2, b"x" * (1024 * 1024 + 1)), "exceeding max allowed size"),
        (frame(2, b"x" * 2**20, fin=False) + frame(0, b"y"), "message of more than 1048576 bytes"),
    ],
)
async def test_what_breaks_the_protocol_ends_the_connection(
    open_transport, frames, words, raw_server
):
    async with raw_server(frame(1, b"fine") + frames) as uri:
        opened = await open_transport(WebSocket(), uri=uri)
        assert words in await opened.reason()
        assert opened.messages in ([b"fine"], [])  # picows may look ahead of a message


async def test_close_code_and_reason_are_told(peer, open_transport):
    opened = await open_transport(WebSocket(), uri=peer.uri)
    device = await peer.connection()
    await device.close(4001, "log in again")
    assert await opened.reason() == "closed by the device with code 4001: log in again"
    assert device.close_code == 4001


async def test_connection_that_ends_without_goodbye(peer, open_transport):
    opened = await open_transport(WebSocket(), uri=peer.uri)
    device = await peer.connection()
    device.transport.abort()
    assert await opened.reason() == "closed by the device"
    assert opened.reasons == ["closed by the device"]
    opened.connection.write("harmless")


async def test_goodbye_is_said(peer, open_transport):
    opened = await open_transport(WebSocket(), uri=peer.uri)
    device = await peer.connection()
    opened.connection.drop("changed")
    assert await opened.reason() == "changed"
    await asyncio.wait_for(device.wait_closed(), 10)
    assert device.close_code == 1000


async def test_their_pings_are_answered(open_transport, listening):
    async with listening(ping_interval=0.1, ping_timeout=5) as peer:
        await open_transport(WebSocket(), uri=peer.uri)
        device = await peer.connection()
        async with asyncio.timeout(10):
            await (await device.ping())


async def test_our_pings_keep_a_silent_device(peer, open_transport):
    opened = await open_transport(WebSocket(ping=0.7), uri=peer.uri)
    device = await peer.connection()
    await asyncio.sleep(2.5)  # several pings: nothing to wait for, for nothing must happen
    await device.send("still here")
    await opened.says(b"still here")
    assert opened.reasons == []


async def test_device_that_answers_no_ping_is_lost(open_transport, raw_server):
    async with raw_server(b"") as uri:
        opened = await open_transport(WebSocket(ping=0.1, ping_timeout=0.2), uri=uri)
        assert await opened.reason() == "the device does not answer pings"


async def test_device_that_takes_nothing_is_dropped(open_transport, raw_server):
    async with raw_server(b"") as uri:
        opened = await open_transport(WebSocket(ping=0), uri=uri)
        for _ in range(200):
            opened.connection.write(b"x" * 200_000)
        assert await opened.reason() == "the device does not take what is sent"


async def test_device_that_pings_for_ever_and_takes_nothing_is_dropped(open_transport, raw_server):
    async with raw_server(frame(9, b"x" * 125) * 200_000) as uri:
        opened = await open_transport(WebSocket(), uri=uri)
        assert await opened.reason() == "the device does not take what is sent"


async def test_flood_of_empty_messages_leaves_the_others_their_turn(open_transport, raw_server):
    count = 1_000_000
    async with raw_server(frame(1, b"") * count) as uri:
        opened = await open_transport(WebSocket(), uri=uri)
        most = before = len(opened.messages)
        async with asyncio.timeout(60):
            while before < count:
                await asyncio.sleep(0)
                most, before = max(most, len(opened.messages) - before), len(opened.messages)
        assert most <= AT_A_TIME  # messages of two bytes: the system keeps twice what it is told


async def test_headers_of_driver_and_settings(peer, open_transport):
    class Author:
        async def websocket_headers(self):
            return {"X-Token": "driver", "X-Own": "1", "Authorization": "Mine"}

    await open_transport(
        WebSocket(subprotocol="chat.v2"),
        uri=peer.uri,
        author=Author(),
        settings={
            "headers": {"x-token": "settings", "X-Many": ["a", "b"]},
            "host_header": "device.local",
            "basic_auth": {"username": "u", "password": "p"},
        },
    )
    headers = (await peer.connection()).request.headers
    assert headers.get_all("X-Token") == ["settings"]
    assert headers["X-Own"] == "1"
    assert headers["Authorization"] == "Mine"
    assert headers.get_all("X-Many") == ["a", "b"]
    assert headers["Host"] == "device.local"
    assert headers["Sec-WebSocket-Protocol"] == "chat.v2"


@pytest.mark.parametrize("settings", [{}, {"basic_auth": {"username": "user", "password": "p@s"}}])
async def test_name_and_password(peer, open_transport, settings):
    uri = peer.uri if settings else peer.uri.replace("//", "//user:p%40s@")
    await open_transport(WebSocket(), uri=uri, settings=settings)
    expected = "Basic " + base64.b64encode(b"user:p@s").decode()
    assert (await peer.connection()).request.headers["Authorization"] == expected


async def test_http_uris_path_query_and_fragment(peer, open_transport):
    uri = peer.uri.replace("ws:", "http:") + "?a=1#part"
    await open_transport(WebSocket(), uri=uri)
    assert (await peer.connection()).request.path == "/live?a=1"


async def test_subprotocol(open_transport, listening):
    async with listening(subprotocols=["chat.v2"]) as peer:
        await open_transport(WebSocket(subprotocol="chat.v2"), uri=peer.uri)
        assert (await peer.connection()).subprotocol == "chat.v2"
    async with listening(select_subprotocol=lambda _c, _s: "chat.v3") as peer:
        with pytest.raises(DriverError, match=r"'chat\.v3' and not 'chat\.v2'"):
            await open_transport(WebSocket(subprotocol="chat.v2"), uri=peer.uri)


async def test_refusals_say_why(open_transport, listening):
    def refuse(connection, _request):
        return connection.respond(401, "no\n")

    async with listening(process_request=refuse) as peer:
        with pytest.raises(DriverError, match="answered 401 Unauthorized"):
            await open_transport(WebSocket(), uri=peer.uri)
    for uri, words in [
        ("tcp://host/", r"must begin with ws:// or wss://"),
        ("ws:///path", "names no host"),
        ("ws://user:sec#ret@host/", "not valid"),
    ]:
        with pytest.raises(DriverError, match=words) as caught:
            await open_transport(WebSocket(), uri=uri)
        assert "sec" not in str(caught.value)


async def test_wrong_settings_are_named(peer, open_transport):
    with pytest.raises(DriverError, match=r"'proxy\.port'.*expected int"):
        await open_transport(
            WebSocket(), uri=peer.uri, settings={"proxy": {"host": "p", "port": "x"}}
        )
    with pytest.raises(DriverError, match="line break"):
        await open_transport(WebSocket(), uri=peer.uri, settings={"headers": {"X": "a\r\nY: b"}})


async def test_failing_headers_hook(peer, open_transport):
    class Author:
        async def websocket_headers(self):
            return {}["token"]

    with pytest.raises(DriverError, match="websocket_headers failed: KeyError: 'token'"):
        await open_transport(WebSocket(), uri=peer.uri, author=Author())


async def test_cancelled_in_the_handshake_leaves_nothing_open(open_transport):
    ended = asyncio.Event()

    async def handle(reader, writer) -> None:
        await reader.read()  # the end of the stream comes when the other side closes
        ended.set()
        writer.close()

    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    uri = f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.3):
            await open_transport(WebSocket(), uri=uri)
    await asyncio.wait_for(ended.wait(), 10)
    server.close()


async def test_closed_in_the_handshake(open_transport):
    async def handle(reader, writer) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.close()

    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    uri = f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
    with pytest.raises(DriverError, match="during the handshake"):
        await open_transport(WebSocket(), uri=uri)
    server.close()


async def test_through_a_proxy(peer, open_transport):
    """CONNECT with name and password, by a proxy of a few lines."""
    asked: list[bytes] = []

    async def handle(reader, writer) -> None:
        asked.append(await reader.readuntil(b"\r\n\r\n"))
        device_reader, device_writer = await asyncio.open_connection("127.0.0.1", peer.port)
        writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")

        async def pipe(source, sink) -> None:
            try:
                while data := await source.read(65536):
                    sink.write(data)
            except ConnectionError:  # a connection that is dropped is reset
                pass
            finally:
                sink.close()

        await asyncio.gather(pipe(reader, device_writer), pipe(device_reader, writer))

    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    proxy = {"host": "127.0.0.1", "port": port, "auth": {"username": "u", "password": "p"}}
    opened = await open_transport(WebSocket(), uri=peer.uri, settings={"proxy": proxy})
    await (await peer.connection()).send("through")
    await opened.says(b"through")
    assert asked[0].startswith(b"CONNECT 127.0.0.1:%d" % peer.port)
    assert b"Basic " + base64.b64encode(b"u:p") in asked[0]
    opened.connection.drop("over")
    server.close()
