"""Jobs of all cores by REST, and on the command line."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest

from placeos.cli import jobs as cli
from placeos.cli.output import CliError
from placeos.wire.errors import CallError, Failure
from placeos.wire.frame import Command

Admin = httpx.AsyncClient


def job(id: str, state: str, started: float, kind: str = "build") -> dict[str, object]:
    return {
        "id": id, "kind": kind, "subject": f"{id}.py", "title": f"Environment of {id}",
        "branch": "", "commit": "", "state": state, "started": started, "finished": None,
        "lines": ["Resolving", "Resolved"],
    }  # fmt: skip


@pytest.fixture
def cores(platform: Any, monkeypatch: pytest.MonkeyPatch):
    """Three cores; the last does not answer."""
    answers = {
        "core-1": [job("a", "done", 10.0), job("b", "running", 30.0)],
        "core-2": [job("c", "pending", 20.0, "pull")],
        "core-3": None,
    }
    platform.cores.stats = dict.fromkeys(answers, b"")
    asked: list[tuple[str, int, str]] = []

    async def ask(identity: str, header: Any, payload: bytes = b"", *, timeout: float) -> Any:
        asked.append((identity, header.command, header.function))
        if answers[identity] is None:
            raise CallError(Failure.NOT_RUN, "not connected")
        if header.command == Command.JOBS:
            return header, json.dumps(answers[identity]).encode()
        return header, json.dumps(header.function in str(answers[identity])).encode()

    monkeypatch.setattr(platform.cores, "ask", ask)
    return asked


async def test_jobs_of_all_cores(cores: Any, admin: Admin) -> None:
    answer = await admin.get("/build/monitor")
    assert answer.status_code == 200
    found = answer.json()
    assert [(one["id"], one["state"], one["node"]) for one in found] == [
        ("b", "running", "core-1"),
        ("c", "pending", "core-2"),
        ("a", "done", "core-1"),
    ]
    first, second, _ = found
    assert first["message"] == "Resolved"
    assert (first["driver"], first["repo"]) == ("b.py", "")
    assert (second["driver"], second["repo"]) == ("", "c.py")
    assert first["timestamp"] == "1970-01-01T00:00:30Z"
    only = (await admin.get("/build/monitor?state=pending")).json()
    assert [one["id"] for one in only] == ["c"]
    refused = await admin.get("/build/monitor?state=broken")
    assert refused.status_code == 400
    assert "pending | running" in refused.text


async def test_cancelling_asks_all_cores(cores: Any, admin: Admin) -> None:
    answer = await admin.delete("/build/cancel/c")
    assert answer.status_code == 200
    assert answer.json()["status"] == "cancelled"
    assert {identity for identity, command, job in cores if job == "c"} == {
        "core-1", "core-2", "core-3",
    }  # fmt: skip
    answer = await admin.delete("/build/cancel/zzz")
    assert answer.status_code == 404
    assert "zzz" in answer.json()["error"]


async def test_who_may(cores: Any, platform: Any) -> None:
    user = platform.first.user_id
    assert (await platform.bearer(user, 0).get("/build/monitor")).status_code == 200
    assert (await platform.bearer(user, 1).delete("/build/cancel/c")).status_code == 403
    narrow = platform.bearer(user, 3, "build_monitor.read")
    assert (await narrow.get("/build/monitor")).status_code == 200
    assert (await narrow.delete("/build/cancel/c")).status_code == 403
    other = platform.bearer(user, 3, "systems")
    assert (await other.get("/build/monitor")).status_code == 403


def test_new_lines_of_a_job_are_found_when_the_oldest_are_gone() -> None:
    assert cli.new_lines([], ["a"]) == ["a"]
    assert cli.new_lines(["a", "b"], ["a", "b"]) == []
    assert cli.new_lines(["a", "b"], ["a", "b", "c"]) == ["c"]
    assert cli.new_lines(["a", "b", "c"], ["c", "d", "e"]) == ["d", "e"]
    assert cli.new_lines(["a"], ["x", "y"]) == ["x", "y"]


class FakeClient:
    """Stands for the platform."""

    def __init__(self, *answers: list[cli.Job]) -> None:
        self.answers = list(answers)
        self.deleted: list[str] = []

    def __enter__(self) -> FakeClient:
        return self

    def __exit__(self, *_: object) -> None: ...

    def get(self, path: str, type: object, **query: object) -> Any:
        assert path == "/build/monitor"
        if len(self.answers) == 1:
            raise KeyboardInterrupt
        return self.answers.pop(0)

    def delete(self, path: str) -> None:
        self.deleted.append(path)
        if path.endswith("nope"):
            raise CliError("no job 'nope'", status=404)


def test_following_prints_each_line_once(capsys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    old = cli.Job("1", "done", "Old", lines=["long ago"])
    begun = cli.Job("2", "running", "New", node="core-1", lines=["one"])
    ended = cli.Job("2", "done", "New", node="core-1", lines=["one", "two"])
    client = FakeClient([old], [old], [begun, old], [begun, old], [ended, old], [])
    monkeypatch.setattr(cli, "connect", lambda *_: client)
    monkeypatch.setattr(cli, "_LOOK_AGAIN", 0)
    cli.jobs(type("Context", (), {"invoked_subcommand": None})(), watch=True)  # type: ignore[arg-type]
    assert capsys.readouterr().out.splitlines() == [
        "core-1  New: one",
        "core-1  New: [running]",
        "core-1  New: two",
        "core-1  New: [done]",
    ]


def test_cancelling_what_is_not_there(capsys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    client = FakeClient([cli.Job("2", "running", "New"), cli.Job("1", "done", "Old")], [])
    monkeypatch.setattr(cli, "connect", lambda *_: client)
    cli.cancel("2")
    assert client.deleted == ["/build/cancel/2"]
    assert "2 is being ended" in capsys.readouterr().out
    with pytest.raises(CliError) as caught:
        cli.cancel("nope")
    assert "2  New" in caught.value.hint
    assert "Old" not in caught.value.hint
