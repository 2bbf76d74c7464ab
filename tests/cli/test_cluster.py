"""`placeos cluster` and `placeos status` against a platform with three cores."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable

import pytest

Run = Callable[..., subprocess.CompletedProcess[str]]
CORES = ["core-1", "core-2", "core-3"]


@pytest.fixture(scope="module")
async def platform(platform_type, tmp_path_factory) -> AsyncIterator[object]:
    """The demo building on three cores."""
    running = platform_type(tmp_path_factory.mktemp("cluster") / "data", "--cores", "3")
    try:
        yield await running.start()
    finally:
        await running.interrupt()


@pytest.fixture(scope="module")
def try_(platform) -> Run:
    """`try_("cluster", "view")`, whatever comes of it."""
    ready = platform.read()
    own = {
        "PLACEOS_URL": str(ready["url"]),
        "PLACEOS_API_KEY": str(ready["api_key"]),
        "COLUMNS": "200",
    }
    environment = {k: v for k, v in os.environ.items() if "PLACEOS" not in k} | own

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "placeos.cli", *words],
            env=environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
            stdin=subprocess.DEVNULL,
        )

    return run


@pytest.fixture(scope="module")
def say(try_) -> Callable[..., str]:
    """The same, but it has to succeed; what it printed."""

    def run(*words: str) -> str:
        outcome = try_(*words)
        assert outcome.returncode == 0, outcome.stderr
        return outcome.stdout

    return run


@pytest.fixture
def view(say) -> Callable[[], dict]:
    """The view as JSON."""
    return lambda: json.loads(say("cluster", "view", "--json"))


@pytest.fixture(autouse=True)
def balanced(try_, view) -> None:
    """All three cores take modules, before each test."""
    for core in view()["drained"]:
        try_("cluster", "undrain", core)
    wait(lambda: takers(view()) == CORES)


def takers(found: dict) -> list[str]:
    """Those that own modules, once that is carried out."""
    return [one["identity"] for one in found["members"] if one["eligible"] and found["completed"]]


def wait(condition: Callable[[], object], seconds: float = 40) -> object:
    until = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < until, "it did not happen"
        time.sleep(0.2)
    return found


def row(table: str, first: str) -> str:
    """The line of a table that begins so."""
    (line,) = (line for line in table.splitlines() if line.startswith(first))
    return line


def test_status_and_list_show_who_owns_how_much(say, try_, view):
    status = try_("status").stdout
    assert f"View: {view()['number']}, completed" in status
    listed = say("cluster", "list")
    for core in CORES:
        assert " ready " in row(status, core)
        assert " yes " in row(listed, core)
        assert " ago " in row(listed, core)
    overview = json.loads(try_("status", "--json").stdout)
    assert sum(one["modules_owned"] for one in overview["nodes"]) == 15
    assert overview["view"]["completed"] is True
    assert say("cluster", "modules").count("mod-") == 15
    assert [one["id"] for one in json.loads(say("cluster", "list", "--json"))] == CORES


def test_a_drain_is_followed_and_the_module_is_explained(say, try_):
    module = json.loads(say("cluster", "modules", "core-2", "--json"))[0]["id"]
    explained = say("cluster", "explain", module)
    assert "Runs on: core-2" in explained
    assert "Why: of the 3 cores that take modules it weighs most on core-2" in explained

    followed = say("cluster", "drain", "core-2").splitlines()
    assert followed[-1] == "core-2: nothing runs there any more"
    assert say("cluster", "modules", "core-2").strip() == "core-2 owns no module."
    assert "draining (by an administrator)" in row(try_("status").stdout, "core-2")

    explained = say("cluster", "explain", module)
    assert "Why: it weighs more on core-2, which takes no modules: it is draining" in explained

    def runs_elsewhere() -> bool:
        found = json.loads(say("cluster", "explain", module, "--json"))
        return found["runs_on"] == [found["module"]["node"]] and not found["waiting_for"]

    wait(runs_elsewhere)
    assert "may take modules again" in say("cluster", "undrain", "core-2")
    wait(lambda: "Owner: core-2" in say("cluster", "explain", module))


@pytest.mark.long
def test_the_last_core_is_drained_only_by_force(say, try_):
    assert json.loads(say("cluster", "drain", "core-1", "--json"))["drained"] == ["core-1"]
    say("cluster", "drain", "core-3", "--no-wait")
    refused = try_("cluster", "drain", "core-2")
    assert refused.returncode == 1
    assert "no other core would take the modules of core-2" in refused.stderr


def test_balancing_is_told_with_both_versions(say, view):
    before = view()
    words = say("cluster", "rebalance").split()
    assert before["version"] in words
    after = wait(lambda: (found := view())["completed"] and found)
    assert after["number"] == before["number"] + 1
    assert f"{after['version']}." in words


def test_a_core_that_runs_is_not_dead(try_):
    unsure = try_("cluster", "assert-dead", "core-1")
    assert unsure.returncode == 2
    assert "--yes" in unsure.stderr
    refused = try_("cluster", "assert-dead", "core-1", "--yes")
    assert refused.returncode == 1
    assert "is registered: it runs" in refused.stderr


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (("drain", "core-9"), "Cores are: core-1, core-2, core-3"),
        (("undrain", "core-9"), "Cores are: core-1, core-2, core-3"),
        (("modules", "core-9"), "Cores are: core-1, core-2, core-3"),
        (("assert-dead", "core-9", "--yes"), "Cores are: core-1, core-2, core-3"),
        (("explain", "Display"), "Room 1.01"),
        (("explain", "Fountain"), "placeos modules"),
        (("explain", "mod-none"), "placeos modules"),
    ],
)
def test_what_is_not_there_is_said_with_what_is(try_, words, hint):
    outcome = try_("cluster", *words)
    assert outcome.returncode == 2
    assert hint in outcome.stderr


@pytest.mark.long
def test_a_killed_core_is_told_of_and_comes_back(try_, view, platform):
    os.kill(platform.read()["pids"]["core-3"], 9)
    seen = wait(lambda: takers(view()) == ["core-1", "core-2"])
    assert seen
    status = try_("status").stdout
    assert "core-1" in status
    wait(lambda: takers(view()) == CORES)  # after it was held back
