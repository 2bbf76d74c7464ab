"""Drivers by REST: builds that are asked for, modules that are loaded again, what is told."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import msgspec
import pytest

from placeos.api import drivers as api
from placeos.model.driver import RECOMPILE, Driver, UpdateInfo
from placeos.store import records
from placeos.wire.errors import CallError, Failure
from placeos.wire.frame import Command, Header
from placeos.wire.repositories import RepositoryQuery

Admin = httpx.AsyncClient


@pytest.fixture
async def driver(admin: Admin) -> str:
    """The id of a logic driver."""
    record = {"name": "R", "folder_name": "r", "uri": "file:///srv/drivers"}
    repository = (await admin.post("/repositories", json=record)).json()["id"]
    made = await admin.post(
        "/drivers",
        json={
            "name": "Room", "role": "logic", "file_name": "a/room.py", "commit": "HEAD",
            "module_name": "Room", "repository_id": repository,
        },
    )  # fmt: skip
    assert made.status_code == 201, made.text
    return str(made.json()["id"])


@pytest.fixture
def change(platform: Any, driver: str):
    """`await change(field=value)`: as a core writes the driver's record."""

    async def write(**fields: object) -> None:
        async with platform.services.database.transaction() as session:
            before = await session.get(Driver, driver, lock=True)
            await records.update(session, before, msgspec.structs.replace(before, **fields))

    return write


@pytest.fixture
async def modules(admin: Admin, driver: str) -> list[str]:
    """Ids of two running modules, and of one that is stopped."""
    found = []
    for number, running in enumerate((True, True, False)):
        system = (await admin.post("/systems", json={"name": f"Room {number}"})).json()["id"]
        record = {"driver_id": driver, "control_system_id": system, "running": running}
        made = await admin.post("/modules", json=record)
        assert made.status_code == 201, made.text
        found.append(str(made.json()["id"]))
    return found


async def commit(platform: Any, driver: str) -> str:
    return str((await platform.services.database.get(Driver, driver)).commit)


async def test_a_recompile_without_modules_is_only_marked(
    platform: Any, admin: Admin, driver: str
) -> None:
    path = f"/drivers/{driver}"
    for _ in range(2):
        answer = await admin.post(f"{path}/recompile")
        assert (answer.status_code, answer.json()) == (200, "will be built when a module starts")
        assert await commit(platform, driver) == f"{RECOMPILE}HEAD"
    assert (await admin.get(f"{path}/compiled")).status_code == 404
    assert (await admin.post("/drivers/driver-x/recompile")).status_code == 404


@pytest.mark.parametrize("output", [None, "room.py:3: 'nosuch': not found"])
async def test_a_recompile_is_waited_for(
    platform: Any, admin: Admin, driver: str, modules: list[str], change: Any, output: str | None
) -> None:
    platform.cores.stats = {"core-1": b""}
    asking = asyncio.create_task(admin.post(f"/drivers/{driver}/recompile"))
    async with asyncio.timeout(20):
        while await commit(platform, driver) == "HEAD":
            await asyncio.sleep(0.01)
    assert not asking.done()
    await change(commit="HEAD", compilation_output=output)
    answer = await asking
    compiled = await admin.get(f"/drivers/{driver}/compiled")
    if output is None:
        assert (answer.status_code, answer.json()) == (200, "recompiled")
        assert (compiled.status_code, compiled.content) == (200, b"")
    else:
        assert (answer.status_code, answer.json()["error"]) == (422, output)
        assert (compiled.status_code, compiled.json()) == (503, {"compilation_output": output})


async def test_a_recompile_that_no_core_does(
    platform: Any, admin: Admin, driver: str, modules: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    platform.cores.stats = {"core-1": b""}
    monkeypatch.setattr(api, "RECOMPILE_TIMEOUT", 0.3)
    answer = await admin.post(f"/drivers/{driver}/recompile")
    assert answer.status_code == 408
    assert "no core built the driver" in answer.json()["error"]


@pytest.mark.parametrize(("failing", "status"), [(0, 200), (1, 417), (2, 422)])
async def test_a_reload_reaches_all_running_modules(
    platform: Any, admin: Admin, driver: str, modules: list[str], failing: int, status: int
) -> None:
    def answer(header: Header, _: bytes) -> tuple[int, bytes] | CallError:
        assert header.command == Command.LOAD
        if header.module in modules[:failing]:
            return CallError(Failure.NOT_RUN, "it cannot be loaded")
        return 200, b"true"

    platform.cores.answer = answer
    reply = await admin.post(f"/drivers/{driver}/reload")
    assert reply.status_code == status
    assert sorted(header.module for header, _ in platform.cores.asked) == sorted(modules[:2])
    if failing:
        assert reply.json()["error"] == "it cannot be loaded"


async def test_the_readme_comes_from_a_core(
    platform: Any, admin: Admin, driver: str, change: Any
) -> None:
    platform.cores.answer = lambda *_: (200, b'"# How to"')
    await change(commit=f"{RECOMPILE}abc123")
    answer = await admin.get(f"/drivers/{driver}/readme")
    assert answer.json() == "# How to"
    query = msgspec.json.decode(platform.cores.asked[-1][1], type=RepositoryQuery)
    assert (query.ask, query.file, query.commit) == ("readme", "a/room.py", "abc123")
    platform.cores.answer = lambda *_: CallError(Failure.BAD_REQUEST, "none", code=404)
    assert (await admin.get(f"/drivers/{driver}/readme")).status_code == 404


async def test_on_which_nodes_it_is_ready(
    platform: Any, admin: Admin, driver: str, change: Any
) -> None:
    platform.cores.stats = {"core-1": b"", "core-2": b""}

    async def status() -> object:
        return (await admin.get(f"/drivers/{driver}")).json()["compilation_status"]

    assert await status() == {"core-1": True, "core-2": True}
    await change(compilation_output="room.py:1: SyntaxError")
    assert await status() == {"core-1": False, "core-2": False}
    without = await admin.get(f"/drivers/{driver}?compilation_status=false")
    assert "compilation_status" not in without.json()


async def test_drivers_with_an_update(admin: Admin, driver: str, change: Any) -> None:
    async def found() -> list[str]:
        listed = await admin.get("/drivers", params={"update_available": "true"})
        return [one["id"] for one in listed.json()]

    assert await found() == []
    info = UpdateInfo("b" * 40, "Better", "Ann", "2026-01-01T00:00:00+00:00")
    await change(update_available=True, update_info=info, commit="a" * 40)
    assert await found() == [driver]
    shown = (await admin.get(f"/drivers/{driver}")).json()
    assert shown["update_info"]["message"] == "Better"
    taken = await admin.patch(f"/drivers/{driver}", json={"commit": "b" * 40})
    assert taken.json()["update_available"] is False
    assert await found() == []


async def test_who_may(platform: Any, admin: Admin, driver: str) -> None:
    support = platform.bearer(platform.first.user_id, 1)
    for method, what in (("POST", "recompile"), ("POST", "reload"), ("GET", "compiled")):
        assert (await support.request(method, f"/drivers/{driver}/{what}")).status_code == 403
    platform.cores.answer = lambda *_: (200, b'"x"')
    assert (await support.get(f"/drivers/{driver}/readme")).status_code == 200
    nobody = platform.bearer(platform.first.user_id, 0)
    assert (await nobody.get(f"/drivers/{driver}/readme")).status_code == 403
