"""What the contract says about HTTP, where Litestar by itself does something else."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import quote

import httpx
import msgspec
import pytest

from placeos.api.http import MAX_BODY, routing_path

JSON = {"content-type": "application/json"}


def deep(levels: int) -> bytes:
    return b'{"name":"x","space_config":' + b'{"a":' * levels + b"1" + b"}" * (levels + 1)


# Each row: what is sent to POST /systems, and the status and part of the body that come back.
BODIES: list[tuple[str, bytes, dict[str, str], int, str]] = [
    ("an object", b'{"name":"x"}', JSON, 201, '"name":"x"'),
    ("no content type", b'{"name":"x"}', {}, 201, '"name":"x"'),
    ("a charset", b'{"name":"x"}', {"content-type": "application/json; charset=utf-8"}, 201, ""),
    ("a form", b"name=x", {"content-type": "application/x-www-form-urlencoded"}, 415,
     "no parser available for application/x-www-form-urlencoded"),
    ("XML", b"<x/>", {"content-type": "text/xml"}, 415, '"accepts":["application/json"]'),
    ("nothing", b"", JSON, 422, "missing required parameter 'body'"),
    ("blanks", b" \n", JSON, 422, "missing required parameter 'body'"),
    ("broken JSON", b'{"name":', JSON, 400, "invalid JSON"),
    ("trailing characters", b'{"name":"x"} x', JSON, 400, "invalid JSON"),
    ("an array", b"[]", JSON, 400, "expected a JSON object (System), got an array"),
    ("a string", b'"x"', JSON, 400, "expected a JSON object (System), got a string"),
    ("null", b"null", JSON, 400, "expected a JSON object (System), got null"),
    ("a name given twice", b'{"name":"a","name":"b"}', JSON, 201, '"name":"b"'),
    ("deep JSON", deep(100_000), JSON, 400, "nested too deeply"),
    ("deep but possible", deep(200), JSON, 201, ""),
    ("invalid UTF-8", b'{"name":"\xff"}', JSON, 400, "invalid JSON"),
    ("half a surrogate pair", b'{"name":"\\ud800"}', JSON, 400, "invalid JSON"),
    ("NUL in a text", b'{"name":"a\\u0000b"}', JSON, 422, '"field":"name"'),
    ("NUL in an object", b'{"name":"x","space_config":{"a\\u0000":1}}', JSON, 422,
     '"field":"space_config"'),
    ("a wrong type", b'{"name":["x"]}', JSON, 400, '"field":"name"'),
    ("a number too large", b'{"name":"x","capacity":1e400}', JSON, 400, ""),
    ("an integer too large", b'{"name":"x","capacity":' + b"9" * 40 + b"}", JSON, 400, "capacity"),
    ("a missing name", b"{}", JSON, 422, '{"field":"name","reason":"should not be nil"}'),
    ("a null name", b'{"name":null}', JSON, 422, '{"field":"name","reason":"should not be nil"}'),
    ("an empty name", b'{"name":""}', JSON, 422, '{"field":"name","reason":"is required"}'),
    ("an endless name", b'{"name":"' + b"x" * 1_000_000 + b'"}', JSON, 422, '"field":"name"'),
    ("unknown members", b'{"name":"x","nope":1}', JSON, 201, ""),
    ("just below the limit", b'{"name":"x","description":"' + b"x" * (MAX_BODY - 30) + b'"}',
     JSON, 422, '"field":"description"'),
    ("at the limit", b'"' + b"x" * (MAX_BODY - 2) + b'"', JSON, 413, "should be smaller than"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("body", "headers", "status", "part"),
    [row[1:] for row in BODIES],
    ids=[row[0] for row in BODIES],
)
async def test_bodies(
    admin: httpx.AsyncClient, body: bytes, headers: dict[str, str], status: int, part: str
) -> None:
    answer = await admin.post("/systems", content=body, headers=headers)
    assert answer.status_code == status, answer.text[:300]
    assert part in answer.text
    assert answer.headers["content-type"] == "application/json"


async def test_a_large_body_without_a_length(admin: httpx.AsyncClient) -> None:
    sent = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal sent
        for _ in range(400):
            sent += 65536
            yield b"x" * 65536

    answer = await admin.post("/systems", content=endless(), headers=JSON)
    assert answer.status_code == 413
    assert sent > MAX_BODY


# Each row: method, path, headers, status, part of the body.
REQUESTS: list[tuple[str, str, dict[str, str], int, str]] = [
    ("GET", "/nope", {}, 404, "no such route"),
    ("GET", "/systems/sys-x", {}, 404, "could not find system 'sys-x'"),
    ("DELETE", "/systems", {}, 405, "method not allowed"),
    ("GET", "/systems?limit=-1", {}, 400,
     """{"error":"invalid parameter value for 'limit'","parameter":"limit","""
     '"restriction":"UInt32"}'),
    ("GET", "/systems?limit=abc", {}, 400, '"parameter":"limit"'),
    ("GET", "/systems?limit=99999999999", {}, 400, '"parameter":"limit"'),
    ("GET", "/systems?limit=1000000", {}, 200, "[]"),
    ("GET", "/systems?offset=%00", {}, 400, '"parameter":"offset"'),
    ("GET", "/systems?q=%00", {}, 400, '"parameter":"q"'),
    ("GET", "/systems?q=%ff", {}, 200, "[]"),
    ("GET", "/systems?nope=1&&&=", {}, 200, "[]"),
    ("GET", "/systems?" + "a=1&" * 5000, {}, 400, "too many parameters"),
    ("GET", "/systems/%00", {}, 404, "error"),
    ("GET", "/systems/%ff", {}, 404, "error"),
    ("GET", "/systems/a%2Fb", {}, 404, "could not find system 'a/b'"),
    ("GET", "/systems/", {}, 200, "[]"),
    ("GET", "/systems", {"accept": "text/html"}, 406, '"accepts":["application/json"]'),
    ("GET", "/systems", {"accept": "text/html, */*;q=0.1"}, 200, "[]"),
    ("GET", "/systems", {"accept": "application/json"}, 200, "[]"),
    ("GET", "/systems", {"accept": "application/*"}, 200, "[]"),
    ("GET", "/docs", {"accept": "text/html"}, 200, "<!doctype html>"),
    ("GET", "/openapi.json", {}, 200, '"openapi":"3.1.0"'),
    ("GET", "", {}, 200, ""),
    ("GET", "/version", {}, 200, '"service":"api"'),
    ("GET", "/platform", {}, 200, '"version":"v'),
    ("GET", "/scopes", {}, 200, '"systems"'),
    ("GET", "/cluster", {}, 200, "[]"),
    ("GET", "/cluster/nope", {}, 404, "core not registered: nope"),
]  # fmt: skip


@pytest.mark.parametrize(("method", "path", "headers", "status", "part"), REQUESTS)
async def test_requests(
    admin: httpx.AsyncClient,
    method: str,
    path: str,
    headers: dict[str, str],
    status: int,
    part: str,
) -> None:
    answer = await admin.request(method, path, headers=headers)
    assert answer.status_code == status, answer.text[:300]
    assert part in answer.text
    assert answer.headers["x-request-id"]


async def test_head_is_get_without_the_body(admin: httpx.AsyncClient) -> None:
    await admin.post("/zones", json={"name": "Zone"})
    got, head = await admin.get("/zones"), await admin.head("/zones")
    assert (head.status_code, head.content) == (200, b"")
    for name in ("x-total-count", "content-length", "content-type", "content-range"):
        assert head.headers[name] == got.headers[name]


async def test_the_request_id_is_the_callers(admin: httpx.AsyncClient) -> None:
    given = await admin.get("/systems", headers={"x-request-id": "abc-1"})
    assert given.headers.get_list("x-request-id") == ["abc-1"]
    made = await admin.get("/systems", headers={"x-request-id": "bad id"})
    assert len(made.headers["x-request-id"]) == 36
    refused = await admin.get("/systems", headers={"x-api-key": "nope", "x-request-id": "abc-2"})
    assert (refused.status_code, refused.headers["x-request-id"]) == (401, "abc-2")


async def test_a_hole_in_a_handler_is_a_bare_500(
    admin: httpx.AsyncClient, platform: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError("secret detail")

    monkeypatch.setattr(type(platform.services.database), "get", broken)
    bare = await admin.get("/systems/sys-1", headers={"accept": "*/*"})
    assert (bare.status_code, bare.content) == (500, b"")
    asked = await admin.get("/systems/sys-1", headers={"accept": "application/json"})
    assert (asked.status_code, asked.json()) == (500, {})


@pytest.mark.parametrize("segment", ["power?", "a/b", "ä", "a b", "%2F", "a;b=c"])
def test_a_segment_stays_one_segment(segment: str) -> None:
    path = routing_path(f"/systems/x/{quote(segment, safe='')}".encode())
    assert path.count("/") == 3


async def test_every_route_is_described(admin: httpx.AsyncClient, platform: Any) -> None:
    described = (await admin.get("/openapi.json")).json()
    from placeos.api.app import all_routes

    for route in all_routes():
        path = f"/api/engine/v2{route.path}".rstrip("/")
        operation = described["paths"][path][route.method.lower()]
        assert operation["summary"]
        assert str(route.status) in operation["responses"]
    ids = [
        operation["operationId"]
        for methods in described["paths"].values()
        for operation in methods.values()
    ]
    assert len(ids) == len(set(ids))
    text = msgspec.json.encode(described).decode()
    for secret in ("password_digest", "refresh_token"):
        assert secret not in text
