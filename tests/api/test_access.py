"""Credentials, scopes and roles."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import httpx
import pytest

from placeos.api.app import all_routes
from placeos.api.routes import Role, Route
from placeos.model.user import User
from placeos.store.tables import TABLES

Admin = httpx.AsyncClient


async def new_user(admin: Admin, email: str, **values: object) -> str:
    answer = await admin.post(
        "/users",
        json={"email": email, "name": "User", "authority_id": await authority(admin), **values},
    )
    assert answer.status_code == 201, answer.text
    user_id: str = answer.json()["id"]
    return user_id


async def authority(admin: Admin) -> str:
    found: str = (await admin.get("/domains")).json()[0]["id"]
    return found


async def status_of(client: Admin, path: str = "/users/current", **kwargs: Any) -> tuple[int, str]:
    answer = await client.get(path, **kwargs)
    return answer.status_code, answer.text


async def test_where_credentials_are_looked_for(platform: Any) -> None:
    key, user = platform.first.api_key, platform.first.user_id
    token = platform.token(user, 2)
    good: list[tuple[dict[str, str], dict[str, str]]] = [
        ({"x-api-key": key}, {}),
        ({}, {"api-key": key}),
        ({"cookie": f"other=1; api-key={key}"}, {}),
        ({"authorization": f"Bearer {token}"}, {}),
        ({"authorization": f"Token {token} "}, {}),
        ({"authorization": token}, {}),
        ({}, {"bearer_token": token}),
        ({"cookie": f"bearer_token={token}"}, {}),
    ]
    client = platform.client()
    for headers, query in good:
        assert (await status_of(client, headers=headers, params=query))[0] == 200, headers
    assert await status_of(client) == (401, '{"error":""}')
    empty = {"authorization": "Bearer "}
    assert await status_of(client, headers=empty, params={"bearer_token": token}) == (
        401,
        '{"error":""}',
    )


@pytest.mark.parametrize("key", ["nope", "nope.nope", "", "é", "." * 5000])
async def test_bad_api_keys(platform: Any, key: str) -> None:
    client = platform.client()
    status, body = await status_of(client, params={"api-key": key})
    assert status == 401
    assert body in ('{"error":"unknown X-API-Key"}', '{"error":""}')
    right = platform.first.api_key.partition(".")[0]
    assert (await status_of(client, headers={"x-api-key": f"{right}.wrong"}))[0] == 401


async def test_bad_tokens(platform: Any) -> None:
    user = platform.first.user_id
    cases = {
        "other domain": platform.token(user, 2, aud="elsewhere.example"),
        "nobody": platform.token("user-gone", 2),
        "unsigned": platform.token(user, 2).rpartition(".")[0] + ".",
        "garbage": "a.b.c",
        "long": "x" * 100_000,
    }
    for name, token in cases.items():
        client = platform.client(authorization=f"Bearer {token}")
        status, body = await status_of(client)
        assert status == 401, name
        assert '"error":"' in body


async def test_signing_out_ends_tokens(platform: Any) -> None:
    user = platform.first.user_id
    now = int(time.time())
    old, new = platform.bearer(user, 2, iat=now - 10), platform.bearer(user, 2, iat=now + 10)
    assert (await status_of(old))[0] == 200
    table = TABLES[User]
    await platform.services.database.execute(
        table.update().where(table.c.id == user).values(logged_out_at=now)
    )
    await eventually(lambda: status_of(old), (401, '{"error":"logged out"}'))
    assert (await status_of(new))[0] == 200


async def test_rights_end_with_the_record(platform: Any, admin: Admin) -> None:
    user = await new_user(admin, "helper@example.com", support=True)
    client = platform.bearer(user, 1)
    await eventually(lambda: status_code(client, "/drivers"), 200)
    await admin.patch(f"/users/{user}", json={"support": False})
    assert await status_code(client, "/drivers") == 403
    assert (await admin.delete(f"/users/{user}")).status_code == 202
    assert await status_of(client) == (401, '{"error":"the user no longer exists"}')


async def test_a_key_lives(platform: Any, admin: Admin) -> None:
    made = await admin.post(
        "/api_keys",
        json={
            "name": "Panel", "user_id": platform.first.user_id, "permissions": "support",
            "scopes": ["systems.read", "systems.read"], "ttl": 60,
        },
    )  # fmt: skip
    assert made.status_code == 201, made.text
    body = made.json()
    assert body["permissions"] == "support"
    assert body["scopes"] == ["systems.Read"]
    assert time.time() < body["expires_at"] <= time.time() + 60
    assert "secret" not in body
    assert body["user"]["id"] == platform.first.user_id
    client = platform.client(x_api_key=body["x_api_key"])
    assert await status_code(client, "/systems") == 200
    assert await status_code(client, "/drivers") == 403
    refused = await client.post("/systems", json={"name": "x"})
    assert (refused.status_code, refused.content) == (403, b"")
    claims = (await client.get("/api_keys/inspect")).json()
    assert claims["exp"] == body["expires_at"]
    assert (claims["u"]["p"], claims["scope"], claims["aud"]) == (1, ["systems.Read"], "localhost")
    shown = (await admin.get(f"/api_keys/{body['id']}")).json()
    assert "x_api_key" not in shown
    assert (await admin.delete(f"/api_keys/{body['id']}")).status_code == 202
    assert await status_code(client, "/systems") == 401


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"ttl": 0}, "ttl"),
        ({"ttl": "x"}, "ttl"),
        ({"expires_at": 5}, "expires_at"),
        ({"scopes": []}, "scopes"),
        ({"scopes": ["a.b.c"]}, "scopes"),
        ({"user_id": "user-x"}, "user_id"),
        ({"name": ""}, "name"),
    ],
)
async def test_what_a_key_needs(
    platform: Any, admin: Admin, body: dict[str, object], field: str
) -> None:
    answer = await admin.post(
        "/api_keys", json={"name": "k", "user_id": platform.first.user_id, **body}
    )
    assert answer.status_code == 422, answer.text
    assert answer.json()["failures"][0]["field"] == field


async def test_expired_keys(platform: Any, admin: Admin) -> None:
    made = (
        await admin.post("/api_keys", json={"name": "k", "user_id": platform.first.user_id})
    ).json()
    client = platform.client(x_api_key=made["x_api_key"])
    assert await status_code(client, "/systems") == 200
    await platform.services.database.execute(
        "UPDATE api_key SET expires_at = 5 WHERE id = $1", made["id"]
    )
    await eventually(lambda: status_of(client), (401, '{"error":"API key has expired"}'))


async def test_unknown_hosts(platform: Any, admin: Admin) -> None:
    alone = await admin.get("/systems", headers={"host": "other.example:99"})
    assert alone.status_code == 200
    await admin.post("/domains", json={"name": "Second", "domain": "second.example"})
    ours = await admin.get("/systems", headers={"host": "LOCALHOST:8080"})
    assert ours.status_code == 200
    unknown = await admin.get("/systems", headers={"host": "other.example"})
    assert (unknown.status_code, unknown.json()) == (401, {"error": "authority not found"})
    second = await admin.get("/systems", headers={"host": "second.example"})
    assert second.status_code == 401


def _path(route: Route) -> str:
    return route.path.replace("{", "x-").replace("}", "")


@pytest.mark.parametrize("route", all_routes(), ids=lambda route: f"{route.method} {route.path}")
async def test_every_route_has_its_gates(platform: Any, admin: Admin, route: Route) -> None:
    """Without a credential 401, with another scope or a lower role 403, public ones open."""
    anonymous = await platform.client().request(route.method, _path(route))
    if route.role == Role.PUBLIC:
        assert anonymous.status_code != 401
        return
    assert anonymous.status_code == 401
    user = platform.first.user_id
    if route.scopes:
        other = platform.bearer(user, 3, "mqtt")
        refused = await other.request(route.method, _path(route))
        assert (refused.status_code, refused.content) == (403, b"")
        access = "write" if route.method == "GET" else "read"
        wrong = platform.bearer(user, 3, f"{route.scopes[0]}.{access}")
        assert (await wrong.request(route.method, _path(route))).status_code == 403
    if route.role > Role.USER:
        lower = platform.bearer(user, int(route.role) - 1)
        refused = await lower.request(route.method, _path(route))
        assert (refused.status_code, refused.content) == (403, b"")
    guest = platform.bearer("guest-1", 0, "guest")
    if "guest" not in route.scopes:
        assert (await guest.request(route.method, _path(route))).status_code == 403


# What an ordinary user, support and an administrator get, where the handler decides.
RIGHTS = [
    ("GET", "/systems", None, 200, 200, 200),
    ("POST", "/systems", {"name": "new"}, 403, 201, 201),
    ("GET", "/systems/{system}", None, 200, 200, 200),
    ("PATCH", "/systems/{system}?version=0", {"capacity": 1}, 403, 200, 200),
    ("DELETE", "/systems/{system}", None, 403, 403, 202),
    ("GET", "/systems/{system}/types", None, 200, 200, 200),
    ("GET", "/systems/{system}/zones", None, 403, 403, 200),
    ("GET", "/systems/{system}/Display_1", None, 403, 200, 200),
    ("POST", "/systems/{system}/Display_1/power", [], 403, 404, 404),
    ("POST", "/systems/{system}/start", None, 403, 200, 200),
    ("PUT", "/systems/{system}/module/mod-x", None, 403, 403, 404),
    ("GET", "/modules", None, 403, 200, 200),
    ("GET", "/zones", None, 403, 200, 200),
    ("GET", "/zones?parent_id=root", None, 200, 200, 200),
    ("GET", "/zones/{zone}", None, 200, 200, 200),
    ("POST", "/zones", {"name": "new"}, 403, 201, 201),
    ("DELETE", "/zones/{zone}", None, 403, 202, 202),
    ("GET", "/settings", None, 403, 200, 200),
    ("POST", "/settings", {"parent_id": "{zone}", "settings_string": "a: 1"}, 403, 403, 201),
    ("GET", "/drivers", None, 403, 200, 200),
    ("GET", "/repositories", None, 403, 200, 200),
    ("GET", "/users", None, 200, 200, 200),
    ("GET", "/api_keys", None, 403, 403, 200),
    ("GET", "/cluster", None, 403, 403, 200),
]  # fmt: skip


@pytest.mark.parametrize(
    ("method", "path", "body", "expected"),
    [(row[0], row[1], row[2], row[3:]) for row in RIGHTS],
    ids=[f"{row[0]} {row[1]}" for row in RIGHTS],
)
async def test_rights(
    platform: Any, admin: Admin, method: str, path: str, body: Any, expected: tuple[int, ...]
) -> None:
    user = await new_user(admin, "user@example.com")
    support = await new_user(admin, "support@example.com", support=True)
    callers = [(user, 0), (support, 1), (platform.first.user_id, 2)]
    for (caller, permissions), status in zip(callers, expected, strict=True):
        names = {
            "{system}": (await admin.post("/systems", json={"name": f"S{permissions}"})).json()[
                "id"
            ],
            "{zone}": (await admin.post("/zones", json={"name": f"Z{permissions}"})).json()["id"],
        }
        wanted, content = path, body
        for name, id in names.items():
            wanted = wanted.replace(name, id)
            if isinstance(content, dict):
                content = {key: id if value == name else value for key, value in content.items()}
        if isinstance(content, dict) and content.get("name") == "new":
            content = {"name": f"new {permissions}"}
        answer = await platform.bearer(caller, permissions).request(method, wanted, json=content)
        assert answer.status_code == status, (permissions, answer.text)


async def test_a_guest_sees_only_their_system(platform: Any, admin: Admin) -> None:
    made = (await admin.post("/systems", json={"name": "Room"})).json()["id"]
    guest = platform.bearer("guest-1", 0, "guest", roles=[made])
    assert await status_code(guest, f"/systems/{made}") == 200
    other = (await admin.post("/systems", json={"name": "Other"})).json()["id"]
    assert await status_code(guest, f"/systems/{other}") == 403
    assert await status_code(guest, "/systems") == 403


async def status_code(client: Admin, path: str) -> int:
    return (await client.get(path)).status_code


async def eventually(ask: Any, expected: object) -> None:
    """Ask until the answer is as expected; the change feed takes a moment."""
    async with asyncio.timeout(20):
        while await ask() != expected:
            await asyncio.sleep(0.01)
