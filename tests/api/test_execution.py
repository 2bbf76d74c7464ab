"""Calling functions and reading state, with cores that answer as the test says."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from placeos.wire.errors import CallError, Failure

Admin = httpx.AsyncClient


@pytest.fixture
async def room(platform: Any, admin: Admin) -> str:
    """A system whose live tables say that it has two displays."""
    made: str = (await admin.post("/systems", json={"name": "Room"})).json()["id"]
    redis = platform.services.redis
    await redis.hset(f"system/{made}", mapping={"Display/1": "mod-1", "My_Display/1": "mod-2"})
    await redis.publish("lookup-change", made)
    await redis.hset("status/mod-1", mapping={"power": "true", "a/b": '{"x":1}'})
    return made


async def test_a_call_goes_through(platform: Any, admin: Admin, room: str) -> None:
    platform.cores.answer = lambda header, payload: (201, b'{"raw": 1}')
    answer = await admin.post(f"/systems/{room}/Display_1/power%3F", json=[True, {"a": "\0"}])
    assert (answer.status_code, answer.content) == (201, b'{"raw": 1}')
    header, payload = platform.cores.asked[-1]
    assert (header.module, header.function, header.clearance) == ("mod-1", "power?", 2)
    assert header.user == platform.first.user_id
    assert payload == b'[true,{"a":"\\u0000"}]'
    await admin.post(f"/systems/{room}/My_Display/a%2Fb", json=[])
    assert platform.cores.asked[-1][0].function == "a/b"
    assert platform.cores.asked[-1][0].module == "mod-2"
    await admin.post("/modules/mod-9/exec/power", json=[])
    assert platform.cores.asked[-1][0].module == "mod-9"


@pytest.mark.parametrize("status", [204, 304, 42, 99999, 0])
async def test_odd_codes_of_drivers(platform: Any, admin: Admin, room: str, status: int) -> None:
    platform.cores.answer = lambda header, payload: (status, b"1")
    answer = await admin.post(f"/systems/{room}/Display/x", json=[])
    assert answer.status_code == (status if 200 <= status <= 599 else 200)
    assert answer.content == (b"" if status in (204, 304) else b"1")


FAILURES = [
    (CallError(Failure.MODULE_NOT_FOUND, "could not find module"), 404, "module not found"),
    (CallError(Failure.FUNCTION_NOT_FOUND, "could not find function X"), 400, "bad request"),
    (CallError(Failure.BAD_ARGUMENTS, "power: `state` is missing"), 400, "bad request"),
    (CallError(Failure.ACCESS_DENIED, "attempted to access"), 401, "access denied"),
    (CallError(Failure.RAISED, "boom", kind="E", backtrace=["l1"]), 500, "request failed"),
    (CallError(Failure.RAISED, "teapot", code=418), 418, "request failed"),
    (CallError(Failure.RAISED, "odd", code=200), 500, "request failed"),
    (CallError(Failure.TIMED_OUT, "no answer"), 408, "timed out"),
    (CallError(Failure.NOT_RUN, "no core"), 503, "not run"),
    (CallError(Failure.MAY_HAVE_RUN, "lost"), 502, "may have run"),
    (CallError(Failure.BUSY, "full"), 503, "busy"),
    (CallError("", "odd"), 500, "unexpected failure"),
]


@pytest.mark.parametrize(("error", "status", "name"), FAILURES)
async def test_failures(
    platform: Any, admin: Admin, room: str, error: CallError, status: int, name: str
) -> None:
    platform.cores.answer = lambda header, payload: error
    answer = await admin.post(f"/systems/{room}/Display_1/x", json=[])
    assert answer.status_code == status
    body = answer.json()
    assert body["error"] == name
    assert (body["sys_id"], body["module_name"], body["index"]) == (room, "Display", 1)
    raised = error.failure == Failure.RAISED
    assert body["message"] == (f"module raised: {error}" if raised else str(error))
    assert body["backtrace"] == (error.backtrace or None)


@pytest.mark.parametrize(
    ("content", "status", "part"),
    [
        (b'{"state":true}', 400, "expected a JSON array of arguments, got an object"),
        (b"", 422, "missing required parameter 'body'"),
        (b"[1", 400, "invalid JSON"),
        (b"[" * 100_000, 400, "nested too deeply"),
    ],
)
async def test_arguments(
    platform: Any, admin: Admin, room: str, content: bytes, status: int, part: str
) -> None:
    answer = await admin.post(f"/systems/{room}/Display/x", content=content)
    assert answer.status_code == status
    assert part in answer.text
    assert platform.cores.asked == []


async def test_places_that_are_not_there(admin: Admin, room: str) -> None:
    none = await admin.post(f"/systems/{room}/Display_2/x", json=[])
    assert none.status_code == 404
    assert none.json() == {
        "error": "module not found",
        "sys_id": room,
        "module_name": "Display",
        "index": 2,
        "message": "could not find module",
        "backtrace": None,
    }
    assert (await admin.post("/systems/sys-x/Display/x", json=[])).status_code == 404


@pytest.mark.parametrize(("given", "status"), [("2.5", 200), ("x", 400), ("-1", 400), ("nan", 400)])
async def test_the_callers_time(
    platform: Any, admin: Admin, room: str, given: str, status: int
) -> None:
    answer = await admin.post(f"/systems/{room}/Display/x", json=[], headers={"x-timeout": given})
    assert answer.status_code == status


async def test_the_caller_is_told_of_a_wait(platform: Any, admin: Admin, room: str) -> None:
    prompt = await admin.post(f"/systems/{room}/Display/x", json=[])
    assert "x-waited" not in prompt.headers
    platform.cores.waited = 1234
    late = await admin.post(f"/systems/{room}/Display/x", json=[])
    assert (late.status_code, late.headers["x-waited"]) == (200, "1234")
    error = CallError(Failure.NOT_RUN, "no core")
    error.waited = 8000
    platform.cores.answer = lambda header, payload: error
    never = await admin.post(f"/systems/{room}/Display/x", json=[])
    assert (never.status_code, never.headers["x-waited"]) == (503, "8000")


async def test_state(admin: Admin, room: str) -> None:
    assert (await admin.get(f"/systems/{room}/Display")).json() == {
        "power": "true",
        "a/b": '{"x":1}',
    }
    one = await admin.get(f"/systems/{room}/Display_1/a%2Fb")
    assert (one.json(), one.headers["content-type"]) == ({"x": 1}, "application/json")
    assert (await admin.get(f"/systems/{room}/Display_1/nope")).json() is None
    assert (await admin.get(f"/systems/{room}/Display_7")).json() == {}
    assert (await admin.get(f"/systems/{room}/Display_7/power")).json() is None
    assert (await admin.get("/systems/sys-x/Display")).status_code == 404


async def test_literal_segments_win(platform: Any, admin: Admin, room: str) -> None:
    await platform.services.redis.hset(f"system/{room}", "types/1", "mod-1")
    assert (await admin.get(f"/systems/{room}/types")).json() == {}
    assert (await admin.get(f"/systems/{room}/zones")).json() == []


async def test_functions_by_clearance(platform: Any, admin: Admin, room: str) -> None:
    await platform.services.redis.set(
        "interface/mod-1",
        '{"interface":{"power":{"state":{"type":"boolean"}},"wipe":{},"tune":{}},'
        '"security":{"administrator":["wipe"],"support":["tune"]}}',
    )
    path = f"/systems/{room}/functions/Display_1"
    assert (await admin.get(path)).json()["power"] == {
        "arity": 1,
        "params": {"state": {"type": "boolean"}},
        "order": ["state"],
    }
    support = platform.bearer(platform.first.user_id, 1)
    assert list((await support.get(path)).json()) == ["power", "tune"]
    assert (await admin.get(f"/systems/{room}/functions/My_Display")).status_code == 404


async def test_a_zone_is_called(platform: Any, admin: Admin) -> None:
    zone = (await admin.post("/zones", json={"name": "Z"})).json()["id"]
    ids = [
        (await admin.post("/systems", json={"name": f"S{n}", "zones": [zone]})).json()["id"]
        for n in range(3)
    ]
    redis = platform.services.redis
    for n, id in enumerate(ids[:2]):
        await redis.hset(f"system/{id}", "Display/1", f"mod-{n}")
    platform.cores.answer = lambda header, payload: (
        (200, b"1") if header.module == "mod-0" else CallError(Failure.RAISED, "x")
    )
    answer = await admin.post(f"/zones/{zone}/exec/Display/power", json=[False])
    assert answer.json() == {"success": [ids[0]], "failure": [ids[1]], "module_missing": [ids[2]]}


async def test_the_cluster(platform: Any, admin: Admin) -> None:
    platform.cores.stats = {
        "core-1": b'{"hostname":"h","cpu_count":2,"processes":'
        b'[{"driver":"d.py","modules":["mod-1"],"running":true,"launch_count":1}]}'
    }
    [node] = (await admin.get("/cluster?include_status=true")).json()
    assert node["id"] == "core-1"
    assert node["load"] == {"local": {"hostname": "h", "cpu_count": 2}, "edge": {}}
    assert node["status"]["run_count"]["local"] == {"modules": 1, "drivers": 1}
    [driver] = (await admin.get("/cluster/core-1?include_status=true")).json()
    assert driver["driver"] == "d.py"
    assert driver["local"]["status"]["launch_count"] == 1


async def test_errors_of_a_module(platform: Any, admin: Admin) -> None:
    repository = {"name": "R", "folder_name": "r", "uri": "file:///srv/drivers"}
    driver = {
        "name": "D", "role": "device", "file_name": "d.py", "commit": "HEAD", "module_name": "D",
        "repository_id": (await admin.post("/repositories", json=repository)).json()["id"],
    }  # fmt: skip
    driver_id = (await admin.post("/drivers", json=driver)).json()["id"]
    made = await admin.post("/modules", json={"driver_id": driver_id, "ip": "a", "port": 1})
    path = f"/modules/{made.json()['id']}/error"
    assert (await admin.get(path)).status_code == 404
    said = f'{{"errors":{{"{made.json()["id"]}":["d.py:3: boom"]}}}}'
    platform.cores.stats = {"core-1": said.encode(), "core-2": b"{}"}
    assert (await admin.get(path)).json() == ["d.py:3: boom"]
