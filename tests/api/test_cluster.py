"""The processes of drivers by REST, and on the command line."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest

from placeos.cli.processes import Process
from placeos.wire.frame import Command, Header

Admin = httpx.AsyncClient

STATS = {
    "memory_total": 4096,
    "errors": {"mod-1": ["d.py: boom\nd.py:3 in f"], "mod-9": ["of another driver"]},
    "processes": [
        {
            "driver": "driver-1",
            "file": "d.py",
            "modules": ["mod-1", "mod-2"],
            "running": True,
            "last_end": "ended with status 7",
            "troubles": {"cpu": "keeps a processor busy"},
            "isolation": {"landlock": "ABI 7: files and signals"},
        },
        {"driver": "driver-2", "file": "e.py", "problem": "e.py:1: SyntaxError"},
    ],
}


@pytest.fixture
def core(platform: Any) -> None:
    platform.cores.stats = {"core-1": json.dumps(STATS).encode()}


@pytest.mark.usefixtures("core")
async def test_a_process_is_shown_with_all_that_is_wrong(admin: Admin) -> None:
    query = {"include_status": "true"}
    first, second = (await admin.get("/cluster/core-1", params=query)).json()
    status = first["local"]["status"]
    assert status["errors"] == {"mod-1": ["d.py: boom\nd.py:3 in f"]}
    assert status["isolation"] == {"landlock": "ABI 7: files and signals"}
    assert (status["module_instances"], status["memory_total"]) == (2, 4096)
    assert second["local"]["status"]["problem"] == "e.py:1: SyntaxError"
    plain, _ = (await admin.get("/cluster/core-1")).json()
    assert plain == {"driver": "driver-1", "local": {"modules": ["mod-1", "mod-2"]}, "edge": {}}
    (node,) = (await admin.get("/cluster", params=query)).json()
    assert node["status"]["compiled_drivers"] == ["driver-1"]
    unavailable = [{"name": "e.py", "reason": "e.py:1: SyntaxError"}]
    assert node["status"]["unavailable_drivers"] == unavailable


def test_reasons_are_short_and_said_once() -> None:
    process = Process(
        troubles={"cpu": "keeps a processor busy"},
        last_end="ended with status 7\nits last words",
        errors={"a": ["its driver process ended with status 7"], "b": ["boom\nat", "boom"]},
    )
    assert process.reasons() == ["keeps a processor busy", "ended with status 7", "boom"]
    assert Process().reasons() == []


@pytest.mark.usefixtures("core")
async def test_a_process_is_ended(
    platform: Any, admin: Admin, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    async def ask(identity: str, header: Header, payload: bytes = b"", *, timeout: float) -> Any:
        asked.append((identity, header.command, header.function))
        return header, b"1" if header.function == "driver-1" else b"0"

    monkeypatch.setattr(platform.cores, "ask", ask)
    answer = await admin.delete("/cluster/core-1", params={"driver": "driver-1"})
    assert answer.status_code == 202
    assert asked == [("core-1", Command.TERMINATE, "driver-1")]
    missing = await admin.delete("/cluster/core-1", params={"driver": "driver-9"})
    assert missing.status_code == 404
    assert "driver-9" in missing.json()["error"]
    assert (await admin.delete("/cluster/core-2?driver=driver-1")).status_code == 404
    assert (await admin.delete("/cluster/core-1")).status_code == 422
    assert len(asked) == 2


async def test_only_administrators_end_processes(platform: Any) -> None:
    support = platform.bearer(platform.first.user_id, 1)
    assert (await support.delete("/cluster/core-1?driver=driver-1")).status_code == 403
