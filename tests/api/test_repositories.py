"""Repositories by REST: what is asked of a core, how its answers come back, what stays secret."""

from __future__ import annotations

import json
import logging
from typing import Any

import httpx
import msgspec
import pytest

from placeos.model.repository import Repository
from placeos.store import records
from placeos.wire.errors import CallError, Failure
from placeos.wire.frame import Command, Header
from placeos.wire.repositories import RepositoryQuery

Admin = httpx.AsyncClient
SECRET = "correct horse"


async def make(admin: Admin, name: str = "git", **fields: object) -> str:
    record = {"name": name, "folder_name": name, "uri": "https://git.example/d.git"}
    answer = await admin.post("/repositories", json=record | fields)
    assert answer.status_code == 201, answer.text
    return str(answer.json()["id"])


@pytest.fixture
def asked(platform: Any):
    """Queries that reached a core; all of them are answered with `["an answer"]`."""
    queries: list[RepositoryQuery] = []

    def answer(header: Header, payload: bytes) -> tuple[int, bytes]:
        assert header.command == Command.REPOSITORY
        queries.append(msgspec.json.decode(payload, type=RepositoryQuery))
        return 200, b'["an answer"]'

    platform.cores.answer = answer
    return queries


@pytest.mark.parametrize(
    ("route", "query"),
    [
        ("GET drivers", {"ask": "drivers"}),
        ("GET folders", {"ask": "folders"}),
        ("GET folders?include_dots=true", {"ask": "folders", "dots": True}),
        ("GET commits", {"ask": "commits"}),
        (
            "GET commits?driver=a/b.py&branch=side&limit=7",
            {"ask": "commits", "file": "a/b.py", "branch": "side", "limit": 7},
        ),
        ("GET commits?limit=99999", {"ask": "commits", "limit": 500}),
        ("GET branches", {"ask": "branches"}),
        ("GET tags", {"ask": "tags"}),
        ("GET releases", {"ask": "releases"}),
        ("GET default_branch", {"ask": "default_branch"}),
        (
            "GET details?driver=a.py&commit=HEAD",
            {"ask": "details", "file": "a.py", "commit": "HEAD"},
        ),
        ("POST pull", {"ask": "pull"}),
    ],
)
async def test_a_core_is_asked(admin: Admin, asked: Any, route: str, query: dict[str, Any]) -> None:
    id = await make(admin)
    method, _, what = route.partition(" ")
    answer = await admin.request(method, f"/repositories/{id}/{what}")
    assert (answer.status_code, answer.json()) == (200, ["an answer"])
    assert [msgspec.to_builtins(one) for one in asked] == [query | {"repository": id}]
    nowhere = await admin.request(method, f"/repositories/repo-nowhere/{what}")
    assert nowhere.status_code == 404


async def test_what_is_needed_is_named(admin: Admin, asked: Any) -> None:
    id = await make(admin)
    for path, name in (
        (f"{id}/details?commit=HEAD", "driver"),
        (f"{id}/details?driver=a.py", "commit"),
        ("remote_branches", "repository_url"),
    ):
        answer = await admin.get(f"/repositories/{path}")
        assert answer.status_code in (400, 422)
        assert name in answer.text
    assert asked == []


async def test_repositories_that_are_not_stored(
    admin: Admin, asked: Any, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    query = {"repository_url": "https://x.org/r.git", "username": "ann", "password": SECRET}
    for what in ("branches", "tags", "default_branch"):
        answer = await admin.get(f"/repositories/remote_{what}", params=query)
        assert answer.status_code == 200
        assert asked[-1] == RepositoryQuery(
            what, uri="https://x.org/r.git", username="ann", password=SECRET
        )
    more = query | {"branch": "side", "depth": "3"}
    assert (await admin.get("/repositories/remote_commits", params=more)).status_code == 200
    assert (asked[-1].branch, asked[-1].limit) == ("side", 3)
    own = [record for record in caplog.records if record.name.startswith("placeos")]
    assert SECRET not in str([vars(record) for record in own])


async def test_a_repository_of_an_interface(admin: Admin, asked: Any) -> None:
    id = await make(
        admin, "ui", repo_type="interface", username="ann", password=SECRET, branch="build"
    )
    for route in ("GET drivers", "GET details?driver=a.py&commit=HEAD", "POST pull", "GET folders"):
        method, _, what = route.partition(" ")
        answer = await admin.request(method, f"/repositories/{id}/{what}")
        assert (answer.status_code, answer.json()["message"]) == (400, "not a driver repository")
    assert asked == []
    assert (await admin.get(f"/repositories/{id}/branches")).status_code == 200
    assert asked.pop() == RepositoryQuery(
        "branches",
        uri="https://git.example/d.git",
        username="ann",
        password=SECRET,
        branch="build",
    )
    assert (await admin.get(f"/repositories/{id}/commits?limit=2")).status_code == 200
    assert (asked[-1].branch, asked[-1].limit, asked[-1].repository) == ("build", 2, "")
    assert (await admin.get("/repositories/interfaces")).json() == {"ui": ""}


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (CallError(Failure.BAD_REQUEST, "the server does not answer"), 400),
        (CallError(Failure.BAD_REQUEST, "no such file", code=404), 404),
        (CallError(Failure.BAD_REQUEST, "a.py:1: SyntaxError", code=422), 422),
        (CallError(Failure.TIMED_OUT, "no answer within 60 s"), 408),
        (CallError(Failure.NOT_RUN, "no core is running"), 503),
    ],
)
async def test_what_went_wrong_is_told(
    platform: Any, admin: Admin, error: CallError, status: int
) -> None:
    id = await make(admin)
    platform.cores.answer = lambda *_: error
    for route in ("GET drivers", "POST pull", "GET details?driver=a.py&commit=x"):
        method, _, what = route.partition(" ")
        answer = await admin.request(method, f"/repositories/{id}/{what}")
        assert (answer.status_code, answer.json()["error"]) == (status, error.message)


async def test_a_password_is_stored_encrypted_and_never_shown(platform: Any, admin: Admin) -> None:
    id = await make(admin, password=SECRET)
    path = f"/repositories/{id}"
    stored = (await platform.services.database.get(Repository, id)).password
    assert stored.startswith("\x1b")
    for answer in (
        await admin.get(path),
        await admin.get("/repositories"),
        await admin.patch(path, json={"name": "B", "password": stored}),
        await admin.patch(path, json={"description": "x"}),
        await admin.put(path, json={"name": "C", "folder_name": "c", "uri": "https://b.org/r"}),
    ):
        assert answer.status_code == 200, answer.text
        assert SECRET not in answer.text
    forged = await admin.patch(path, json={"password": "\x1b0|x|y"})
    assert forged.status_code == 422
    assert forged.json()["failures"][0]["field"] == "password"
    in_uri = await admin.patch(path, json={"uri": f"https://ann:{SECRET}@x.org/r.git"})
    assert in_uri.status_code == 422
    assert SECRET not in in_uri.text


async def test_another_place_is_pulled_from(platform: Any, admin: Admin) -> None:
    id = await make(admin)
    path = f"/repositories/{id}"
    database = platform.services.database

    async def deploy() -> None:
        async with database.transaction() as session:
            before = await session.get(Repository, id, lock=True)
            after = msgspec.structs.replace(before, deployed_commit_hash="a" * 40)
            await records.update(session, before, after)

    for change in (
        {"uri": "https://other.example/r.git"}, {"branch": "side"}, {"commit_hash": "b" * 40},
        {"root_path": "drivers"}, {"release": True},
    ):  # fmt: skip
        await deploy()
        assert (await admin.patch(path, json={"description": json.dumps(change)})).json()[
            "deployed_commit_hash"
        ] == "a" * 40
        assert (await admin.patch(path, json=change)).status_code == 200
        assert (await database.get(Repository, id)).deployed_commit_hash is None, change
    for field in ("branch", "commit_hash"):
        refused = await admin.patch(path, json={field: "--upload-pack=x"})
        assert refused.json()["failures"][0]["field"] == field


async def test_who_may(platform: Any, admin: Admin, asked: Any) -> None:
    id = await make(admin)
    user = platform.first.user_id
    support = platform.bearer(user, 1)
    for what in (
        "drivers", "folders", "commits", "branches", "tags", "releases", "default_branch",
        "details?driver=a&commit=b",
    ):  # fmt: skip
        assert (await support.get(f"/repositories/{id}/{what}")).status_code == 403, what
    assert (await support.post(f"/repositories/{id}/pull")).status_code == 403
    assert (await support.get("/repositories/interfaces")).status_code == 403
    remote = "/repositories/remote_tags?repository_url=https://x.org/r"
    assert (await support.get(remote)).status_code == 403
    assert asked == []
    narrow = platform.bearer(user, 3, "repositories.read")
    assert (await narrow.get(f"/repositories/{id}/commits")).status_code == 200
    assert (await narrow.get(f"/repositories/{id}/branches")).status_code == 200
    other = platform.bearer(user, 3, "systems")
    assert (await other.get(f"/repositories/{id}/branches")).status_code == 403
