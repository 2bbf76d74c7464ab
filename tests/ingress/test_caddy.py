"""The generated configuration, served by the real Caddy."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import ssl
from pathlib import Path
from typing import Any

import aiohttp
import httpx
import pytest
from aiohttp import web

from placeos.ingress import caddy, configuration

CONTROL = "/api/engine/v2/systems/control"


@pytest.mark.parametrize(
    ("target", "service"),
    [
        ("/api/engine/v2/systems?q=a%2Fb&limit=1", "api"),
        ("/api/engine/v2/systems/sys-1/Display_1/power%3F", "api"),
        ("/api/engine/v2/systems/control/more", "api"),
        (f"{CONTROL}?bearer_token=x", "control"),
        ("/auth/authority", "auth"),
        ("/auth/oauth/token?grant_type=password", "auth"),
        ("/.well-known/openid-configuration", "auth"),
    ],
)
async def test_paths_go_to_their_service_unchanged(door: Any, target: str, service: str) -> None:
    answer = (await door.client.get(target, headers={"Host": "place.example.com:99"})).json()
    assert (answer["service"], answer["target"]) == (service, target)
    headers = answer["headers"]
    assert headers["host"] == "place.example.com:99"
    assert headers["x-forwarded-for"] == "127.0.0.1"
    assert headers["x-forwarded-proto"] == "http"


async def test_what_clients_claim_about_forwarding_is_not_believed(door: Any) -> None:
    answer = await door.client.get("/api/x", headers={"X-Forwarded-For": "1.2.3.4"})
    assert answer.json()["headers"]["x-forwarded-for"] == "127.0.0.1"


async def test_the_websocket_goes_to_the_control_listener(door: Any) -> None:
    async with (
        aiohttp.ClientSession() as session,
        session.ws_connect(f"{door.url}{CONTROL}?bearer_token=x") as socket,
    ):
        await socket.send_str("ping")
        assert await socket.receive_str() == "control: ping"


async def test_the_landing_page_is_served_with_its_parts(door: Any) -> None:
    page = await door.client.get("/")
    assert page.status_code == 200
    assert page.headers["content-type"].startswith("text/html")
    assert "/api/engine/v2/openapi.json" in page.text
    for part in ("/style.css", "/status.js"):
        assert part in page.text
        assert (await door.client.get(part)).status_code == 200
    assert (await door.client.post("/")).status_code == 405


@pytest.mark.parametrize("path", ["/nothing", "/../caddy.json", "/%2e%2e/caddy.json"])
async def test_unknown_files_are_a_404_in_json(door: Any, path: str) -> None:
    answer = await door.client.get(path)
    assert (answer.status_code, answer.json()) == (404, {"error": "Not Found"})


async def test_only_loopback_is_open_without_host_names(door: Any) -> None:
    for family, address in _other_addresses():
        with socket.socket(family) as probe:
            assert probe.connect_ex((address, door.port)) != 0


async def test_large_bodies_reach_the_service_which_answers_for_itself(door: Any) -> None:
    body = b"x" * 12_000_000
    assert (await door.client.post("/api/x", content=body)).json()["size"] == len(body)

    async def too_large(request: web.Request) -> web.StreamResponse:
        await request.read()
        return web.json_response({"error": "the body is too large"}, status=413)

    door.services["api"].answer = too_large
    answer = await door.client.post("/api/x", content=body)
    assert (answer.status_code, answer.json()) == (413, {"error": "the body is too large"})


async def test_a_body_beyond_any_limit_is_cut_off(door: Any) -> None:
    async def endless() -> Any:
        for _ in range(80):
            yield b"x" * 1_000_000

    try:
        answer = await door.client.post("/api/x", content=endless())
    except httpx.TransportError:
        return
    assert answer.status_code in (413, 502)


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "DELETE"])
async def test_requests_wait_for_a_service_that_is_restarted(door: Any, method: str) -> None:
    api = door.services["api"]
    assert (await door.client.get("/api/x")).status_code == 200
    await api.stop()
    api.requests.clear()
    waiting = asyncio.create_task(door.client.request(method, "/api/x"))
    await asyncio.sleep(0.7)
    assert not waiting.done()
    await api.start()
    assert (await waiting).status_code == 200
    assert len(api.requests) == 1


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE"])
async def test_what_may_have_run_is_never_sent_again(door: Any, method: str) -> None:
    async def die(request: web.Request) -> web.StreamResponse:
        await request.read()
        assert request.transport is not None
        request.transport.abort()
        return web.Response()

    door.services["api"].answer = die
    answer = await door.client.request(
        method, "/api/x", content=b"{}" if method != "DELETE" else b""
    )
    assert answer.status_code == 502
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["retry-after"] == "1"
    assert "does not answer" in answer.json()["error"]
    assert len(door.services["api"].requests) == 1


async def test_errors_of_a_service_pass_unchanged(door: Any) -> None:
    async def unavailable(_: web.Request) -> web.StreamResponse:
        return web.json_response({"error": "no database"}, status=503)

    door.services["api"].answer = unavailable
    answer = await door.client.get("/api/x")
    assert (answer.status_code, answer.json()) == (503, {"error": "no database"})


async def test_logs_show_neither_queries_nor_headers(door: Any, entries: Any) -> None:
    secret = "a5f0c1secret"
    await door.client.get(f"/api/x?bearer_token={secret}", headers={"X-API-Key": secret})
    await door.client.get(f"/nothing?token={secret}", headers={"Referer": f"http://x/?{secret}"})
    async with asyncio.timeout(20):
        while not any(entry["request"]["uri"] == "/nothing" for entry in entries()):
            await asyncio.sleep(0.02)
    assert {"/api/x", "/nothing"} <= {entry["request"]["uri"] for entry in entries()}
    assert secret not in door.access_log.read_text()
    assert secret not in door.log


# -- host names -------------------------------------------------------------------------------


def _other_addresses() -> list[tuple[int, str]]:
    """Addresses of this machine besides loopback."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))
        except OSError:
            return []
        return [(socket.AF_INET, probe.getsockname()[0])]


@pytest.mark.skipif(not _other_addresses(), reason="this machine has only loopback")
async def test_host_names_are_reached_by_tls_from_elsewhere_and_loopback_stays_plain(
    public_door: Any,
) -> None:
    address = _other_addresses()[0][1]
    async with public_door("place.test", address) as door:
        assert (await door.client.get("/auth/authority")).json()["service"] == "auth"
        trusting = await _trusting(door, address)
        await _get(address, door.port, "place.test", trusting)
        await _get(address, door.port, address, trusting)
        with pytest.raises(ssl.SSLError):
            await _get(address, door.port, "place.test", ssl.create_default_context())
        async with httpx.AsyncClient() as client:
            answer = await client.get(f"http://{address}:{door.port}/auth/authority?a=b")
        assert answer.status_code == 308
        assert answer.headers["location"] == f"https://{address}:{door.port}/auth/authority?a=b"


async def _trusting(door: Any, address: str) -> ssl.SSLContext:
    """Wait until the certificates are made, which Caddy does after it serves."""
    async with asyncio.timeout(30):
        while True:
            await asyncio.sleep(0.05)
            if door.root.exists():
                with contextlib.suppress(ssl.SSLError):  # also while the file is being written
                    context = ssl.create_default_context(cafile=str(door.root))
                    for name in ("place.test", address):
                        await _get(address, door.port, name, context)
                    return context


async def _get(address: str, port: int, name: str, context: ssl.SSLContext) -> None:
    async with asyncio.timeout(10):
        reader, writer = await asyncio.open_connection(
            address, port, ssl=context, server_hostname=name
        )
        writer.write(
            f"GET /api/x HTTP/1.1\r\nHost: {name}:{port}\r\nConnection: close\r\n\r\n".encode()
        )
        answer = await reader.read()
        writer.close()
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200"), answer
    assert json.loads(body)["headers"]["x-forwarded-proto"] == "https"


def test_nothing_reaches_outside_the_data_folder() -> None:
    config: Any = configuration(
        port=8080,
        hosts=["place.test"],
        api="127.0.0.1:1",
        control="127.0.0.1:2",
        auth="127.0.0.1:3",
        storage=Path("/data/ingress"),
        static=caddy.STATIC,
        access_log=None,
    )
    assert config["admin"] == {"disabled": True, "config": {"persist": False}}
    assert config["storage"] == {"module": "file_system", "root": "/data/ingress"}
    assert config["apps"]["pki"]["certificate_authorities"]["local"]["install_trust"] is False
    servers = config["apps"]["http"]["servers"]
    assert servers["local"]["listen"] == ["127.0.0.1:8080"]
    assert servers["public"]["listen"] == [":8080"]
    assert all(server["automatic_https"] == {"disable": True} for server in servers.values())


def test_without_host_names_nothing_but_loopback_is_configured() -> None:
    text = caddy.caddy_config(
        listen_port=8080, api="a:1", control="a:2", auth="a:3", storage=Path("/data")
    )
    config = json.loads(text)
    assert list(config["apps"]) == ["http"]
    assert list(config["apps"]["http"]["servers"]) == ["local"]
