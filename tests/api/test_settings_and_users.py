"""Settings by level and viewer; users by view and right."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

Admin = httpx.AsyncClient


@pytest.fixture
async def zone(admin: Admin) -> str:
    found: str = (await admin.post("/zones", json={"name": "Zone"})).json()["id"]
    return found


async def put(admin: Admin, parent: str, text: str, level: object = "none") -> dict[str, Any]:
    answer = await admin.post(
        "/settings",
        json={"parent_id": parent, "settings_string": text, "encryption_level": level},
    )
    assert answer.status_code == 201, answer.text
    found: dict[str, Any] = answer.json()
    return found


async def test_who_reads_what(platform: Any, admin: Admin, zone: str) -> None:
    for level in ("none", "support", "admin", "never_display"):
        await put(admin, zone, f"{level}: secret-{level}", level)
    user = (await admin.get("/users/current")).json()["id"]

    async def readable(permissions: int) -> list[str]:
        client = platform.bearer(user, permissions)
        answer = await client.get("/settings", params={"parent_id": zone})
        assert answer.status_code == 200
        assert [record["encryption_level"] for record in answer.json()] == [3, 2, 1, 0]
        assert answer.json()[0]["keys"] == ["never_display"]
        texts = [record["settings_string"] for record in answer.json()]
        hidden = [text for text in texts if text.startswith("\x1b")]
        assert not any("secret" in text for text in hidden)
        return [text.partition(":")[0] for text in texts if not text.startswith("\x1b")]

    assert await readable(2) == ["admin", "support", "none"]
    assert await readable(1) == ["support", "none"]
    unpaged = await platform.bearer(user, 0).get("/settings", params={"parent_id": zone})
    assert unpaged.status_code == 403
    stored = await admin.get("/settings")
    assert not any("secret-admin" in record["settings_string"] for record in stored.json())


async def test_ciphertext_can_be_saved_back(platform: Any, admin: Admin, zone: str) -> None:
    made = await put(admin, zone, "a: 1", "never_display")
    path = f"/settings/{made['id']}"
    assert made["settings_string"].startswith("\x1b")
    kept = await admin.put(path, json={"settings_string": made["settings_string"]})
    assert kept.json()["settings_string"] == made["settings_string"]
    changed = await admin.put(
        path, json={"settings_string": "b: 2\nc: 3", "encryption_level": "admin"}
    )
    assert (changed.json()["keys"], changed.json()["encryption_level"]) == (["b", "c"], 2)
    lowered = await admin.put(path, json={"encryption_level": "support"})
    assert (lowered.status_code, lowered.json()["settings_string"]) == (200, "b: 2\nc: 3")
    forged = await admin.put(path, json={"settings_string": "\x1bsalt|iv|text"})
    assert forged.json()["failures"][0]["field"] == "settings_string"


async def test_what_nobody_may_read_does_not_become_readable(admin: Admin, zone: str) -> None:
    made = await put(admin, zone, "a: 1", "never_display")
    path = f"/settings/{made['id']}"
    for body in (
        {"encryption_level": "none"},
        {"encryption_level": "admin", "settings_string": made["settings_string"]},
    ):
        refused = await admin.put(path, json=body)
        assert refused.status_code == 422, refused.text
        assert refused.json()["failures"][0]["field"] == "encryption_level"
    assert (await admin.get(path)).json() == made


async def test_history_is_kept(admin: Admin, zone: str) -> None:
    made = await put(admin, zone, "n: 0", "admin")
    for number in range(1, 25):
        await admin.put(f"/settings/{made['id']}", json={"settings_string": f"n: {number}"})
    history = await admin.get(f"/settings/{made['id']}/history")
    assert len(history.json()) == 15
    assert history.headers["x-total-count"] == "20"
    assert all(one["settings_id"] == made["id"] for one in history.json())
    refused = await admin.put(
        f"/settings/{history.json()[0]['id']}", json={"settings_string": "n: 99"}
    )
    assert refused.status_code == 422
    assert f"change {made['id']}" in refused.json()["failures"][0]["reason"]
    assert (await admin.get("/settings", params={"parent_id": zone})).json()[0]["id"] == made["id"]
    await admin.delete(f"/settings/{made['id']}")
    assert (await admin.get("/settings")).json() == []


@pytest.mark.parametrize(
    ("body", "field", "reason"),
    [
        ({"settings_string": "[1]"}, "settings_string", "should be a mapping"),
        ({"settings_string": "a: ["}, "settings_string", "(line 2, column 1)"),
        ({"settings_string": "a: 1\n b: 2"}, "settings_string", "is not a valid JSON or YAML"),
        ({"settings_string": "x" * 1_000_001}, "settings_string", "is too long"),
        ({"parent_id": "user-1"}, "parent_id", "should be the id of"),
        ({"parent_id": "zone-unknown"}, "parent_id", "does not exist"),
    ],
)
async def test_what_settings_need(
    admin: Admin, zone: str, body: dict[str, str], field: str, reason: str
) -> None:
    answer = await admin.post("/settings", json={"parent_id": zone, **body})
    assert answer.status_code == 422, answer.text
    [failure] = answer.json()["failures"]
    assert failure["field"] == field
    assert reason in failure["reason"]


async def test_settings_collate_from_low_to_high(admin: Admin) -> None:
    first = (await admin.post("/zones", json={"name": "First"})).json()["id"]
    second = (await admin.post("/zones", json={"name": "Second"})).json()["id"]
    system = (await admin.post("/systems", json={"name": "S", "zones": [second, first]})).json()[
        "id"
    ]
    repository = (
        await admin.post(
            "/repositories", json={"name": "R", "folder_name": "r", "uri": "file:///srv/r"}
        )
    ).json()["id"]
    driver = (
        await admin.post(
            "/drivers",
            json={
                "name": "D", "role": "logic", "file_name": "d.py", "commit": "HEAD",
                "module_name": "Room", "repository_id": repository,
            },
        )
    ).json()["id"]  # fmt: skip
    module = (
        await admin.post("/modules", json={"driver_id": driver, "control_system_id": system})
    ).json()["id"]
    for parent in (module, system, first, second, driver):
        await put(admin, parent, f"of: {parent}", "support")
    await put(admin, system, "more: 1")
    found = (await admin.get(f"/modules/{module}/settings")).json()
    assert [record["parent_id"] for record in found] == [
        driver, second, first, system, system, module,
    ]  # fmt: skip
    assert [record["encryption_level"] for record in found] == [1, 1, 1, 0, 1, 1]
    assert found[-1]["settings_string"] == f"of: {module}"
    of_system = (await admin.get(f"/systems/{system}/settings")).json()
    assert [record["parent_id"] for record in of_system] == [second, first, system, system]


SECRETS = {"password", "password_digest", "access_token", "refresh_token", "expires_at", "secret"}


async def test_users_have_views(platform: Any, admin: Admin) -> None:
    domain = (await admin.get("/domains")).json()[0]["id"]
    made = await admin.post(
        "/users",
        json={
            "name": "Ann", "email": "Ann@example.com", "authority_id": domain, "password": "pw",
            "login_name": "ann", "groups": ["a"], "staff_id": "s1",
        },
    )  # fmt: skip
    assert made.status_code == 201
    ann = made.json()
    assert ann["login_name"] == "ann"
    assert not SECRETS & set(ann)
    own = platform.bearer(ann["id"], 0)
    current = (await own.get("/users/current")).json()
    assert (current["login_name"], current["subsystem_access"]) == ("ann", [])
    assert not SECRETS & set(current)
    others = (await own.get("/users")).json()
    assert {user["name"] for user in others} == {"Ann", "Administrator"}
    assert all("login_name" not in user for user in others)
    for id in ("ann@example.com", "ann", "s1", ann["id"], ann["id"].removeprefix("user-")):
        assert (await own.get(f"/users/{id}")).json()["id"] == ann["id"]
    changed = await own.patch(
        f"/users/{ann['id']}",
        json={"name": "Anna", "email": "x@x.org", "sys_admin": True, "groups": ["admins"],
              "authority_id": "authority-x", "password": "new"},
    )  # fmt: skip
    assert changed.status_code == 200
    after = changed.json()
    assert (after["name"], after["email"], after["groups"]) == ("Anna", "Ann@example.com", ["a"])
    assert not SECRETS & set(after)
    assert (await admin.get(f"/users/{ann['id']}")).json()["sys_admin"] is False
    forbidden = await own.patch(f"/users/{platform.first.user_id}", json={"name": "x"})
    assert forbidden.status_code == 403
    groups = await own.get("/users/groups", params={"emails": "ann@EXAMPLE.com"})
    assert groups.json() == [{"id": ann["id"], "groups": ["a"]}]
    double = await admin.post(
        "/users", json={"name": "A", "email": "ANN@example.com", "authority_id": domain}
    )
    assert double.json()["failures"] == [{"field": "email", "reason": "should be unique"}]


async def test_support_cannot_rise(platform: Any, admin: Admin) -> None:
    domain = (await admin.get("/domains")).json()[0]["id"]
    helper = (
        await admin.post(
            "/users",
            json={"name": "H", "email": "h@x.org", "authority_id": domain, "support": True},
        )
    ).json()["id"]
    client = platform.bearer(helper, 1)
    made = await client.post(
        "/users",
        json={"name": "N", "email": "n@x.org", "authority_id": domain, "sys_admin": True},
    )
    assert made.status_code == 201
    assert (await admin.get(f"/users/{made.json()['id']}")).json()["sys_admin"] is False
    admin_id = platform.first.user_id
    taken = await client.patch(f"/users/{admin_id}", json={"password": "mine"})
    assert taken.status_code == 403
    assert (await client.delete(f"/users/{admin_id}")).status_code == 403


async def test_an_admin_remains(platform: Any, admin: Admin) -> None:
    path = f"/users/{platform.first.user_id}"
    assert (await admin.delete(path)).status_code == 422
    lowered = await admin.patch(path, json={"sys_admin": False})
    assert lowered.json()["failures"][0]["field"] == "sys_admin"


async def test_soft_deletion(platform: Any, admin: Admin) -> None:
    domain = (await admin.get("/domains")).json()[0]["id"]
    await admin.patch(f"/domains/{domain}", json={"internals": {"soft_delete": True}})
    made = await admin.post(
        "/users", json={"name": "A", "email": "a@x.org", "authority_id": domain}
    )
    path = f"/users/{made.json()['id']}"
    assert (await admin.delete(path)).status_code == 202
    assert (await admin.get(path)).json()["deleted"] is True
    assert "A" not in [user["name"] for user in (await admin.get("/users")).json()]
    assert (await admin.post(f"{path}/revive")).status_code == 200
    assert (await admin.get(path)).json()["deleted"] is False
    assert (await admin.delete(f"{path}?force_removal=true")).status_code == 202
    assert (await admin.get(path)).status_code == 404
