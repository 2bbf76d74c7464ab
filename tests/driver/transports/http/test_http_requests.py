"""What a request carries, and what an answer becomes, against a server that is not ours."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import hashlib
import re

import pytest
from aiohttp import web

from placeos.driver.errors import DriverError, Offline
from placeos.driver.log import ModuleLogger
from placeos.driver.transports.base import Address
from placeos.driver.transports.http import HTTP
from placeos.driver.transports.http_client import HttpClient
from placeos.driver.transports.http_message import HTTPError
from placeos.driver.transports.tcp import TCP


async def test_methods_bodies_and_responses(server, make_client):
    http = make_client(server.uri + "/api")
    response = await http.get("rooms", params={"floor": 2})
    assert (response.status, response.ok, response.json()) == (200, True, {"body": ""})
    assert response.headers["content-type"].startswith("application/json")
    assert (await http.post("a", json={"x": [1]})).json() == {"body": '{"x":[1]}'}
    assert server.headers[-1]["Content-Type"] == "application/json"
    assert (await http.put("a", content="text")).json() == {"body": "text"}
    assert (await http.patch("a", data={"a": "1 2"})).json() == {"body": "a=1+2"}
    assert (await http.delete("a")).ok
    assert (await http.request("OPTIONS", "a", content=b"\x00")).ok
    upload = await http.post("a", files={"file": ("logo.png", b"PNG")}, data={"n": "1"})
    assert 'filename="logo.png"' in upload.json()["body"]
    assert server.requests[0] == "GET /api/rooms?floor=2"
    assert len(server.peers) == 1, "the connection is not kept"


async def test_connections_that_are_not_kept(server, make_client):
    http = make_client(server.uri, http_max_requests=0)
    await http.get("a")
    await http.get("b")
    assert len(server.peers) == 2


async def test_any_answer_is_one(server, make_client, events):
    http = make_client(server.uri, events=events)

    async def answer(_):
        return web.Response(status=500, text="broken")

    server.answer = answer
    response = await http.get("/x?secret=1")
    assert events.told == ["heard"]
    assert not response.ok
    with pytest.raises(HTTPError, match=r"^GET /x answered 500 Internal Server Error$"):
        response.expect()


async def test_basic_and_bearer(server, make_client):
    basic = {"username": "u", "password": "p"}
    await make_client(server.uri, basic_auth=basic).get()
    await make_client(server.uri.replace("//", "//u:p@")).get()
    await make_client(server.uri, bearer_token="t", basic_auth=basic).get()
    await make_client(server.uri, basic_auth=basic).get(headers={"authorization": "Own"})
    values = [headers["Authorization"] for headers in server.headers]
    assert values == ["Basic dTpw", "Basic dTpw", "Bearer t", "Own"]


async def test_digest(server, make_client):
    """RFC 7616, checked by a few lines of our own: httpx makes the answer."""

    def md5(text: str) -> str:
        return hashlib.md5(text.encode()).hexdigest()

    async def answer(request):
        given = request.headers.get("Authorization", "")
        fields = dict(re.findall(r'(\w+)="?([^",]+)"?', given.removeprefix("Digest ")))
        challenge = 'Digest realm="r", nonce="n", qop="auth", algorithm=MD5'
        if not fields:
            return web.Response(status=401, headers={"WWW-Authenticate": challenge})
        one, two = md5("u:r:p"), md5(f"{request.method}:{fields['uri']}")
        parts = (one, "n", fields["nc"], fields["cnonce"], "auth", two)
        good = fields["response"] == md5(":".join(parts))
        return web.Response(status=200 if good else 403)

    server.answer = answer
    http = make_client(server.uri, digest_auth={"username": "u", "password": "p"})
    (await http.get("a?b=c")).expect()
    (await http.get("d")).expect()
    assert len(server.requests) == 3, "the challenge is not remembered"
    wrong = make_client(server.uri, digest_auth={"username": "u", "password": "x"})
    assert (await wrong.get()).status == 403


async def test_headers(server, make_client):
    http = make_client(server.uri, headers={"X-A": "settings", "X-B": ["1", "2"]}, host_header="d")
    await http.get(headers={"x-a": "driver", "X-C": "3"})
    headers = server.headers[0]
    assert headers.getall("X-A") == ["settings"]
    assert headers.getall("X-B") == ["1", "2"]
    assert (headers["X-C"], headers["Host"]) == ("3", "d")
    assert headers["User-Agent"].startswith("PlaceOS/")
    with pytest.raises(DriverError, match="line break"):
        await http.get(headers={"X": "a\r\nY: b"})


async def test_before_request_may_ask_itself(server, make_client):
    async def hook(request):
        token = (await http.post("/token")).json()
        request.headers["Authorization"] = f"Bearer {len(token)}"
        request.params["v"] = 2
        request.path += "/changed"

    http = make_client(server.uri, hook=hook)
    await http.get("/a", params={"w": 1})
    assert server.requests == ["POST /token", "GET /a/changed?w=1&v=2"]
    assert server.headers[1]["Authorization"] == "Bearer 1"

    async def failing(_):
        raise KeyError("no token")

    with pytest.raises(KeyError):
        await make_client(server.uri, hook=failing).get()


async def test_cookies(server, make_client):
    async def answer(request):
        response = web.Response(text=request.headers.get("Cookie", ""))
        response.set_cookie("session", "1", path="/")
        response.set_cookie("deep", "2", path="/deep")
        return response

    server.answer = answer
    http = make_client(server.uri)
    assert http.cookie_header() == ""
    await http.get("/")
    assert (await http.get("/other")).text == "session=1"
    assert set((await http.get("/deep/x")).text.split("; ")) == {"session=1", "deep=2"}
    assert http.cookie_header() == "session=1"
    other = make_client(server.uri, disable_cookies=True)
    await other.get("/")
    assert (await other.get("/")).text == ""


async def test_redirects_are_followed_on_demand(server, make_client, listening):
    async with listening() as other:

        async def answer(request):
            if request.path == "/here":
                raise web.HTTPFound("/there")
            if request.path == "/away":
                raise web.HTTPFound(other.uri + "/x")
            if request.path == "/loop":
                raise web.HTTPFound("/loop")
            return web.Response(text="arrived")

        server.answer = answer
        http = make_client(server.uri, bearer_token="t", headers={"X-Key": "secret"})
        assert (await http.get("/here")).status == 302
        assert (await http.get("/here", follow=True)).text == "arrived"
        assert server.headers[-1]["Authorization"] == "Bearer t"
        assert server.headers[-1]["X-Key"] == "secret"
        assert (await http.get("/away", follow=True)).ok
        assert "X-Key" not in other.headers[0]
        assert "Authorization" not in other.headers[0]
        assert other.headers[0]["Host"] == f"127.0.0.1:{other.port}"
        with pytest.raises(DriverError, match="GET /loop"):
            await http.get("/loop", follow=True)


async def test_credentials_stay_with_the_device(server, make_client, listening, events):
    async with listening() as other:
        http = make_client(
            server.uri + "?key=secret", events=events, bearer_token="t", headers={"X-Key": "secret"}
        )
        assert (await http.get(other.uri + "/token")).ok
        assert other.requests == ["GET /token"]
        assert {"Authorization", "X-Key"}.isdisjoint(other.headers[0])
        assert events.told == [], "another server tells nothing about the device"
        assert (await http.get(server.uri + "/own")).ok
        assert server.requests == ["GET /own?key=secret"]
        assert server.headers[0]["X-Key"] == "secret"


async def test_compressed_and_huge_answers(server, make_client):
    size = {"/small": 1000, "/huge": 17 * 2**20}

    async def answer(request):
        body = gzip.compress(b"x" * size[request.path], 1)
        if "broken" in request.query:
            body = b"no gzip"
        return web.Response(body=body, headers={"Content-Encoding": "gzip"})

    server.answer = answer
    http = make_client(server.uri)
    assert (await http.get("/small")).text == "x" * 1000
    with pytest.raises(HTTPError, match="GET /huge answered 200 with more than 16777216 bytes"):
        await http.get("/huge")
    with pytest.raises(DriverError, match="GET /small: "):
        await http.get("/small?broken")
    assert (await http.get("/small")).ok


async def test_through_a_proxy(server, make_client):
    http = make_client(
        "http://device.invalid/api",
        proxy={
            "host": "127.0.0.1",
            "port": server.port,
            "auth": {"username": "u", "password": "p"},
        },
    )
    assert (await http.get("a")).ok  # the server stands for a proxy: it sees the whole URL
    assert server.headers[0]["Host"] == "device.invalid"
    assert server.headers[0]["Proxy-Authorization"] == "Basic dTpw"


async def test_proxies_of_the_environment_are_not_used(server, make_client, monkeypatch):
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    assert (await make_client(server.uri).get()).ok


async def test_tls_through_a_proxy(make_client, identity, listening):
    """CONNECT with name and password, by a proxy of a few lines; then TLS with the device."""
    asked: list[bytes] = []

    async def handle(reader, writer) -> None:
        asked.append(await reader.readuntil(b"\r\n\r\n"))
        if b"Basic dTpw" not in asked[-1]:
            writer.write(b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n")
            writer.close()
            return
        device_reader, device_writer = await asyncio.open_connection("127.0.0.1", device.port)
        writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")

        async def pipe(source, sink) -> None:
            with contextlib.suppress(ConnectionError):
                while data := await source.read(65536):
                    sink.write(data)
            sink.close()

        await asyncio.gather(pipe(reader, device_writer), pipe(device_reader, writer))

    mine = identity()
    async with listening(mine.server_context()) as device:
        server = await asyncio.start_server(handle, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        proxy = {"host": "127.0.0.1", "port": port, "auth": {"username": "u", "password": "p"}}
        uri = device.uri.replace("http:", "https:")
        assert (await make_client(uri, proxy=proxy, https_pin=mine.fingerprint).get("a")).ok
        assert asked[0].startswith(b"CONNECT 127.0.0.1:%d" % device.port)
        with pytest.raises(Offline, match="certificate is refused"):
            await make_client(uri, proxy=proxy).get()
        proxy["auth"]["password"] = "x"
        with pytest.raises(Offline, match="407 Proxy Authentication Required"):
            await make_client(uri, proxy=proxy, https_pin=mine.fingerprint).get()
        assert device.requests == ["GET /a"]
        server.close()


async def test_what_cannot_be_asked(server, make_client):
    http = make_client(server.uri)
    with pytest.raises(DriverError, match="one body, not json and content"):
        await http.post(json=1, content="x")
    with pytest.raises(DriverError, match="uri must begin with http"):
        await make_client("tcp://h").get()
    with pytest.raises(DriverError, match=r"'basic_auth\.username'|username"):
        await make_client(server.uri, basic_auth={"password": "p"}).get()
    with pytest.raises(DriverError, match="names no host"):
        await http.get("https:///x")
    with pytest.raises(DriverError, match="not valid"):
        await http.get("https://h:port/x")
    with pytest.raises(DriverError, match="not by send"):
        HTTP().encode("x")


async def test_drivers_of_other_roles(server, make_client):
    http = make_client(server.uri.replace("http:", "ws:") + "/live", TCP(port=1))
    await http.get("rooms")
    assert server.requests == ["GET /rooms"]
    assert make_client(host="10.0.0.1", spec=TCP(port=1))._url("a", None) == "http://10.0.0.1/a"
    v6 = HttpClient(
        TCP(port=1), Address(host="::1", tls=True), None, None, ModuleLogger("m"), lambda *_: None
    )
    assert v6._url("a", None) == "https://[::1]/a"


async def test_tls_is_verified_unless_pinned_or_trusted(make_client, identity, listening):
    mine = identity()
    async with listening(mine.server_context()) as server:
        uri = server.uri.replace("http:", "https:")
        for settings in (
            {"https_pin": mine.fingerprint},
            {"https_ca_certificates": mine.certificate},
            {"https_verify": "none"},
        ):
            assert (await make_client(uri, **settings).get()).ok
        seen = len(server.requests)
        with pytest.raises(
            Offline, match=r"^GET /: the device's certificate is refused: self-sign"
        ):
            await make_client(uri).get()
        with pytest.raises(Offline, match="is not the pinned one"):
            await make_client(uri, https_pin=identity().fingerprint).get()
        elsewhere = make_client("http://device.invalid", https_verify="none")
        with pytest.raises(Offline, match="certificate is refused"):
            await elsewhere.get(uri)  # the leave to take any holds for the device alone
        assert len(server.requests) == seen
