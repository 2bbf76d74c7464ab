"""Records through the API: the standard routes, effects, and what each resource does apart."""

from __future__ import annotations

import time
from typing import Any

import httpx
import pytest

Admin = httpx.AsyncClient


async def make(client: Admin, path: str, **body: object) -> dict[str, Any]:
    response = await client.post(path, json=body)
    assert response.status_code == 201, response.text
    return response.json()


async def make_driver(client: Admin, role: str = "device", **body: object) -> dict[str, Any]:
    number = (await client.get("/drivers")).headers["x-total-count"]
    repository = await make(
        client, "/repositories", name="R", folder_name=f"r{number}", uri="file:///srv/drivers"
    )
    values = {
        "name": "Driver", "role": role, "file_name": "d.py", "commit": "HEAD",
        "module_name": "Display", "repository_id": repository["id"],
    }  # fmt: skip
    return await make(client, "/drivers", **(values | body))


async def make_device(client: Admin, driver: dict[str, Any], **body: object) -> dict[str, Any]:
    values = {"driver_id": driver["id"], "ip": "10.0.0.1", "port": 4352}
    return await make(client, "/modules", **(values | body))


async def test_a_record_lives(admin: Admin) -> None:
    made = await make(admin, "/systems", name=" Room 1 ", features=["a", "a"], code=None)
    assert made["id"].startswith("sys-")
    assert (made["name"], made["features"], made["version"]) == ("Room 1", ["a"], 0)
    assert "code" not in made
    assert made["created_at"] == made["updated_at"] > 1_700_000_000
    path = f"/systems/{made['id']}"
    assert (await admin.get(path)).json() == made
    changed = await admin.patch(path, params={"version": 0}, json={"capacity": 4, "id": "x"})
    assert changed.status_code == 200
    assert (changed.json()["capacity"], changed.json()["version"]) == (4, 1)
    old = await admin.put(path, params={"version": 0}, json={"capacity": 5})
    assert old.status_code == 409
    assert old.json() == {"error": "Attempting to edit an old System version"}
    gone = await admin.delete(path)
    assert (gone.status_code, gone.content) == (202, b"")
    assert (await admin.get(path)).status_code == 404


async def test_update_needs_a_version(admin: Admin) -> None:
    made = await make(admin, "/systems", name="Room")
    assert time.time() - 5 * 3600 - made["signage_last_seen"] < 60
    missing = await admin.patch(f"/systems/{made['id']}", json={"capacity": 4})
    assert missing.status_code == 422
    assert missing.json() == {
        "error": "missing required parameter 'version'",
        "parameter": "version",
        "restriction": "Int32",
    }
    wrong = await admin.patch(f"/systems/{made['id']}", params={"version": "x"}, json={})
    assert (wrong.status_code, wrong.json()["parameter"]) == (400, "version")


async def test_names_are_unique_even_in_a_race(admin: Admin) -> None:
    import asyncio

    answers = await asyncio.gather(
        *(admin.post("/systems", json={"name": "Room"}) for _ in range(8))
    )
    assert sorted(answer.status_code for answer in answers) == [201, *[422] * 7]
    refused = next(answer for answer in answers if answer.status_code == 422)
    assert refused.json() == {
        "error": "validation failed",
        "failures": [{"field": "name", "reason": "should be unique"}],
    }


async def test_paging(admin: Admin) -> None:
    for number in range(5):
        await make(admin, "/zones", name=f"Zone {number}")
    first = await admin.get("/zones", params={"limit": 2, "q": "zone"})
    assert [zone["name"] for zone in first.json()] == ["Zone 0", "Zone 1"]
    assert first.headers["x-total-count"] == "5"
    assert first.headers["content-range"] == "zone 0-2/5"
    link = first.headers["link"]
    assert link == '</api/engine/v2/zones?offset=2&limit=2&q=zone>; rel="next"'
    assert link.count(";") == 1
    following = await admin.get(f"http://localhost{link[1 : link.index('>')]}")
    assert [zone["name"] for zone in following.json()] == ["Zone 2", "Zone 3"]
    last = await admin.get("/zones", params={"offset": 4})
    assert last.headers["content-range"] == "zone 4-5/5"
    assert "link" not in last.headers
    beyond = await admin.get("/zones", params={"offset": 40})
    assert (beyond.json(), beyond.headers["x-total-count"]) == ([], "5")
    none = await admin.get("/zones", params={"limit": 0})
    assert (none.json(), none.headers["x-total-count"]) == ([], "5")
    assert "link" not in none.headers


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("", {"Big Room", "Small Room", "Café"}),
        ("*", {"Big Room", "Small Room", "Café"}),
        ("big", {"Big Room"}),
        ("BIG small", {"Big Room", "Small Room"}),
        ("sma", {"Small Room"}),
        ("sma room", {"Big Room", "Small Room"}),
        ("bi small", {"Small Room"}),
        ("oom", set()),
        ("cafÉ", {"Café"}),
        ("big@example.com", {"Big Room"}),
        ("example", {"Big Room"}),
        ("name:big", {"Big Room"}),
        ("and", {"Big Room", "Small Room", "Café"}),
        ("'\\ | & ! ( :*", {"Big Room", "Small Room", "Café"}),
        ("\\'big", {"Big Room"}),
    ],
)
async def test_search(admin: Admin, query: str, found: set[str]) -> None:
    await make(admin, "/systems", name="Big Room", email="big@example.com")
    await make(admin, "/systems", name="Small Room")
    await make(admin, "/systems", name="Café")
    answer = await admin.get("/systems", params={"q": query})
    assert {system["name"] for system in answer.json()} == found


async def test_a_record_is_found_by_its_id(admin: Admin) -> None:
    made = await make(admin, "/systems", name="One")
    await make(admin, "/systems", name="Two")
    answer = await admin.get("/systems", params={"q": made["id"]})
    assert [system["name"] for system in answer.json()] == ["One"]


async def test_filters_of_systems(admin: Admin) -> None:
    building = await make(admin, "/zones", name="Building")
    level = await make(admin, "/zones", name="Level", parent_id=building["id"])
    await make(
        admin, "/systems", name="A", capacity=10, bookable=True, email="A@x.org",
        features=["vc", "tv"], zones=[building["id"], level["id"]], public=True,
    )  # fmt: skip
    await make(admin, "/systems", name="B", capacity=2, zones=[building["id"]])

    async def names(**params: object) -> str:
        answer = await admin.get("/systems", params=params)  # type: ignore[arg-type]
        assert answer.status_code == 200, answer.text
        return "".join(system["name"] for system in answer.json())

    assert await names(bookable="TRUE") == "A"
    assert await names(bookable="no") == "B"
    assert await names(capacity=5) == "A"
    assert await names(capacity="abc") == "AB"
    assert await names(email="a@X.org, nobody@x.org") == "A"
    assert await names(features="tv,vc") == "A"
    assert await names(features="tv,xx") == ""
    assert await names(zone_id=building["id"]) == "AB"
    assert await names(zone_id=f"{building['id']},{level['id']}") == "A"
    assert await names(public="true") == "A"
    assert await names(public="false") == "AB"
    assert await names(unknown="x") == "AB"
    emails = await admin.get("/systems/with_emails", params={"in": "a@x.org"})
    assert (emails.json()[0]["name"], emails.headers["content-range"]) == ("A", "sys 0-0/1")
    assert (await admin.get("/systems/a@x.org")).json()["name"] == "A"


async def test_modules_follow_driver_and_system(admin: Admin) -> None:
    driver = await make_driver(admin)
    logic = await make_driver(admin, "logic", module_name="Room", alert_level="high")
    device = await make_device(admin, driver)
    assert (device["name"], device["role"], device["connected"]) == ("Display", 1, True)
    system = await make(admin, "/systems", name="Room", features=["Display", "x"])
    room = await make(admin, "/modules", driver_id=logic["id"], control_system_id=system["id"])
    assert (room["role"], room["alert_level"]) == (99, "high")
    added = await admin.put(f"/systems/{system['id']}/module/{device['id']}")
    assert added.status_code == 200
    assert (added.json()["modules"], added.json()["version"]) == ([room["id"], device["id"]], 2)
    again = await admin.put(f"/systems/{system['id']}/module/{device['id']}")
    assert again.json()["version"] == 2
    types = await admin.get(f"/systems/{system['id']}/types")
    assert types.json() == {"Room": 1, "Display": 1}
    listed = await admin.get("/modules", params={"control_system_id": system["id"]})
    assert [module["id"] for module in listed.json()] == [room["id"], device["id"]]
    by_driver = await admin.get("/modules", params={"driver_id": driver["id"]})
    assert [module["id"] for module in by_driver.json()] == [device["id"]]
    assert (await admin.get("/modules", params={"q": "d.py"})).headers["x-total-count"] == "2"
    complete = await admin.get(f"/systems/{system['id']}", params={"complete": "true"})
    assert complete.json()["module_data"][0]["driver"]["module_name"] == "Room"
    removed = await admin.delete(f"/systems/{system['id']}/module/{device['id']}")
    assert removed.status_code == 202
    assert (removed.json()["modules"], removed.json()["features"]) == ([room["id"]], ["x"])
    assert (await admin.get(f"/modules/{device['id']}")).status_code == 404
    assert (await admin.delete(f"/systems/{system['id']}")).status_code == 202
    assert (await admin.get(f"/modules/{room['id']}")).status_code == 404


async def test_a_module_that_was_not_in_the_system_survives(admin: Admin) -> None:
    device = await make_device(
        admin, await make_driver(admin, alert_level="high"), alert_level=None
    )
    assert device["alert_level"] == "high"
    system = await make(admin, "/systems", name="Room")
    removed = await admin.delete(f"/systems/{system['id']}/module/{device['id']}")
    assert (removed.status_code, removed.json()["version"]) == (202, 0)
    assert (await admin.get(f"/modules/{device['id']}")).status_code == 200


async def test_connected_is_live(admin: Admin, platform: Any) -> None:
    device = await make_device(admin, await make_driver(admin))
    redis, path = platform.services.redis, f"/modules/{device['id']}"

    async def connected() -> bool:
        listed = (await admin.get("/modules")).json()[0]["connected"]
        shown: bool = (await admin.get(path)).json()["connected"]
        assert shown == listed
        return shown

    await redis.hset(f"status/{device['id']}", "connected", "false")
    assert await connected()  # it does not run
    await admin.post(f"{path}/start")
    assert not await connected()
    assert (await admin.get(f"{path}/state")).json() == {"connected": "false"}
    assert (await admin.get(f"{path}/state/connected")).json() == "false"
    assert (await admin.get(f"{path}/state/nope")).status_code == 404
    await redis.hset(f"status/{device['id']}", "connected", "true")
    assert await connected()


async def test_a_module_without_its_driver(admin: Admin) -> None:
    answer = await admin.post("/modules", json={"driver_id": "driver-x", "ip": "a", "port": 1})
    assert answer.status_code == 422
    assert answer.json()["failures"] == [{"field": "driver_id", "reason": "does not exist"}]


async def test_start_and_stop(admin: Admin) -> None:
    driver = await make_driver(admin)
    first, shared, ignored = [
        await make_device(admin, driver, ignore_startstop=ignore) for ignore in (False, False, True)
    ]
    ids = [first["id"], shared["id"], ignored["id"]]
    system = await make(admin, "/systems", name="A", modules=[*ids, "mod-unknown"])
    assert system["modules"] == ids
    await make(admin, "/systems", name="B", modules=[shared["id"]])

    async def running() -> list[bool]:
        return [(await admin.get(f"/modules/{id}")).json()["running"] for id in ids]

    started = await admin.post(f"/systems/{system['id']}/start")
    assert (started.status_code, started.content) == (200, b"")
    assert started.headers["content-type"] == "application/json"
    assert await running() == [True, False, False]
    await admin.post(f"/systems/{system['id']}/start?single_occurrence=false")
    assert await running() == [True, True, False]
    await admin.post(f"/systems/{system['id']}/stop?single_occurrence=false")
    assert await running() == [False, False, False]
    headers = {"content-type": "application/json"}
    assert (await admin.post(f"/modules/{ids[2]}/start", headers=headers)).status_code == 200
    assert await running() == [False, False, True]


async def test_destroying_goes_down(admin: Admin) -> None:
    driver = await make_driver(admin)
    device = await make_device(admin, driver)
    system = await make(admin, "/systems", name="A", modules=[device["id"]])
    for parent in (driver, device):
        await make(admin, "/settings", parent_id=parent["id"], settings_string="a: 1")
    gone = await admin.delete(f"/repositories/{driver['repository_id']}")
    assert gone.status_code == 202
    assert (await admin.get(f"/drivers/{driver['id']}")).status_code == 404
    assert (await admin.get(f"/modules/{device['id']}")).status_code == 404
    assert (await admin.get("/settings")).json() == []
    after = (await admin.get(f"/systems/{system['id']}")).json()
    assert (after["modules"], after["version"]) == ([], 1)


async def test_zones_are_a_tree(admin: Admin) -> None:
    top = await make(admin, "/zones", name="Top", tags=["org", " building "])
    middle = await make(admin, "/zones", name="Middle", parent_id=top["id"])
    low = await make(admin, "/zones", name="Low", parent_id=middle["id"], tags=["level"])
    system = await make(admin, "/systems", name="A", zones=[low["id"], top["id"]])
    assert (await admin.get("/zones/tags")).json() == ["building", "level", "org"]
    loop = await admin.patch(f"/zones/{top['id']}", json={"parent_id": low["id"]})
    assert (loop.status_code, loop.json()["failures"][0]["field"]) == (422, "parent_id")
    lost = await admin.post("/zones", json={"name": "x", "parent_id": "zone-x"})
    assert lost.json()["failures"] == [{"field": "parent_id", "reason": "does not exist"}]
    roots = await admin.get(
        "/zones", params={"parent_id": "root", "include_children_count": "true"}
    )
    assert [(zone["name"], zone["children_count"]) for zone in roots.json()] == [("Top", 1)]
    ordered = await admin.get(f"/systems/{system['id']}/zones")
    assert [zone["name"] for zone in ordered.json()] == ["Low", "Top"]
    assert (await admin.delete(f"/zones/{middle['id']}")).status_code == 202
    assert (await admin.get(f"/zones/{low['id']}")).status_code == 404
    assert (await admin.get(f"/systems/{system['id']}")).json()["zones"] == [top["id"]]


async def test_drivers_keep_their_role(admin: Admin) -> None:
    driver = await make_driver(admin)
    module = await make_device(admin, driver)
    path = f"/drivers/{driver['id']}"
    refused = await admin.patch(path, json={"role": "service"})
    assert refused.json()["failures"][0]["field"] == "role"
    renamed = await admin.patch(path, json={"module_name": "Projector", "json_schema": {"a": 1}})
    assert renamed.json()["json_schema"] == '{"a":1}'
    assert (await admin.get(f"/modules/{module['id']}")).json()["name"] == "Projector"
    assert (await admin.post(f"{path}/recompile")).status_code == 200
    assert (await admin.get(f"{path}/compiled")).status_code == 404
    assert (await admin.get("/drivers", params={"role": "DEVICE"})).json()[0]["id"] == driver["id"]


async def test_repositories_hide_passwords(admin: Admin) -> None:
    made = await make(
        admin, "/repositories", name="R", folder_name="Drivers", uri="https://x.org/r.git",
        password="hunter2",
    )  # fmt: skip
    assert made["folder_name"] == "drivers"
    assert made["password"].startswith("\x1b")
    kept = await admin.patch(
        f"/repositories/{made['id']}", json={"name": "S", "password": made["password"]}
    )
    assert kept.json()["password"] == made["password"]


async def test_domains(admin: Admin) -> None:
    made = await make(
        admin, "/domains", name="D", domain="https://Example.COM:443/x", email_domains=["x.org"]
    )
    assert made["domain"] == "example.com"
    assert made["config"] == {"default_app": "/backoffice/"}
    assert (await admin.get("/domains/lookup/me@X.org")).json() == "example.com"
    assert (await admin.get("/domains/lookup/me@y.org")).status_code == 404
    again = await admin.post("/domains", json={"name": "D", "domain": "EXAMPLE.com"})
    assert again.json()["failures"] == [{"field": "domain", "reason": "should be unique"}]
