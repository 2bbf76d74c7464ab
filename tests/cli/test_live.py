"""The command line against a running platform with the demo building."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import msgspec
import pytest

from placeos.cli.session import Session

ROOM = "Room 1.01"  # one whose devices never drop the connection by themselves


class Shell:
    """Runs commands as one user."""

    def __init__(self, home: Path, ready: dict[str, object]) -> None:
        self.ready = ready
        self.session_file = home / "placeos" / "session.json"
        own = {"XDG_CONFIG_HOME": str(home), "HOME": str(home), "COLUMNS": "200"}
        self.environment = {k: v for k, v in os.environ.items() if "PLACEOS" not in k} | own

    def try_(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Run, whatever comes of it."""
        return subprocess.run(
            [sys.executable, "-m", "placeos.cli", *words],
            env=self.environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
            stdin=subprocess.DEVNULL,
        )

    def run(self, *words: str) -> str:
        """Run and succeed."""
        outcome = self.try_(*words)
        assert outcome.returncode == 0, outcome.stderr
        return outcome.stdout

    def login(self) -> str:
        """As the administrator."""
        email, password = str(self.ready["email"]), str(self.ready["password"])
        return self.run("login", str(self.ready["url"]), "--email", email, "--password", password)

    async def watch(self, *words: str) -> asyncio.subprocess.Process:
        """Start watching."""
        return await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "placeos.cli", "watch", *words),
            env=self.environment,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )


@pytest.fixture(scope="module")
async def platform(platform_type, tmp_path_factory) -> AsyncIterator[object]:
    """A platform with the demo building."""
    running = platform_type(tmp_path_factory.mktemp("cli") / "data")
    try:
        yield await running.start()
    finally:
        await running.interrupt()


@pytest.fixture(scope="module")
def shell(platform, tmp_path_factory) -> Shell:
    """A shell that is logged in."""
    logged_in = Shell(tmp_path_factory.mktemp("home"), platform.read())
    assert "Logged in" in logged_in.login()
    return logged_in


async def next_line(process: asyncio.subprocess.Process, containing: str) -> str:
    assert process.stdout is not None
    async with asyncio.timeout(20):
        while True:
            line = (await process.stdout.readline()).decode()
            assert line, "it ended"
            if containing in line:
                return line


def test_a_wrong_password_is_said(shell):
    outcome = shell.try_("login", str(shell.ready["url"]), "--email", "x@y.z", "--password", "no")
    assert outcome.returncode == 2
    assert "e-mail or password is wrong" in outcome.stderr


def test_rooms_are_listed(shell):
    table = shell.run("systems")
    assert "Room 1.01" in table
    assert table.count("sys-") == 5
    assert len(json.loads(shell.run("systems", "--json"))) == 5
    assert "Room 2.01" in shell.run("systems", "2.01")


def test_modules_and_drivers_are_listed(shell):
    assert shell.run("modules").count("mod-") == 15
    assert "pjlink.py" in shell.run("drivers")


def test_status_shows_the_core(shell):
    overview = json.loads(shell.try_("status", "--json").stdout)
    assert overview["running"] == 15
    assert [node["id"] for node in overview["nodes"]] == ["core-1"]


async def test_a_function_is_called_and_its_effect_is_watched(shell):
    watching = await shell.watch(ROOM, "Display_1", "power")
    try:
        if "true" in await next_line(watching, "Display_1.power = "):  # of another test
            shell.run("exec", ROOM, "Display", "power", "false")
            await next_line(watching, "Display_1.power = false")
        assert shell.run("exec", ROOM, "Display_1", "power", "true").strip() == "true"
        await next_line(watching, "Display_1.power = true")
        shell.run("exec", ROOM, "Display", "power", "false")
        await next_line(watching, "Display_1.power = false")
    finally:
        watching.kill()
        await watching.wait()


def test_watching_ends_quietly_when_nobody_reads_any_more(shell):
    with subprocess.Popen(
        [sys.executable, "-m", "placeos.cli", "watch", ROOM],
        env=shell.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as watching:
        try:
            assert watching.stdout.readline()
            watching.stdout.close()
            # It may have printed all there was before that: only the next change tells it.
            for source in ("1", "2"):
                shell.run("exec", ROOM, "Switcher_1", "switch_to", source)
            watching.wait(30)
            assert watching.stderr.read() == ""
        finally:
            watching.kill()


async def test_status_says_what_is_wrong(shell, tmp_path, platform):
    """A broken driver is named, and so is each module that cannot run for it."""
    (tmp_path / "odd.py").write_text("def (:\n")
    url, key = str(shell.ready["url"]), str(shell.ready["api_key"])
    async with httpx.AsyncClient(
        base_url=f"{url}/api/engine/v2", headers={"X-API-Key": key}, timeout=30
    ) as client:

        async def create(path: str, **record: object) -> str:
            answer = await client.post(path, json=record)
            assert answer.status_code == 201, answer.text
            return str(answer.json()["id"])

        repository = await create(
            "/repositories",
            name="Odd",
            folder_name="odd",
            uri=tmp_path.as_uri(),
            repo_type="driver",
        )
        driver = await create(
            "/drivers",
            name="Odd driver",
            file_name="odd.py",
            commit="HEAD",
            repository_id=repository,
            role=1,
            module_name="Odd",
        )
        module = await create("/modules", driver_id=driver, ip="127.0.0.1", port=9)
        await client.post(f"/modules/{module}/start")

        async def known() -> bool:
            """Each of the three is told by its own way, in any order."""
            errors = await client.get(f"/modules/{module}/error")
            record = (await client.get(f"/modules/{module}")).json()
            broken = (await client.get(f"/drivers/{driver}")).json().get("compilation_output")
            told = record["has_runtime_error"] and not record["connected"]
            return bool(errors.status_code == 200 and told and broken)

        async with asyncio.timeout(30):
            while not await known():
                await asyncio.sleep(0.1)
        try:
            outcome = shell.try_("status")
            assert outcome.returncode == 1
            reason = "odd.py:1: SyntaxError: invalid syntax"
            (about_module,) = (line for line in outcome.stdout.splitlines() if module in line)
            assert f"its driver cannot be used: {reason}" in about_module
            assert "disconnected" in about_module
            (about_driver,) = (
                line for line in outcome.stdout.splitlines() if line.rstrip().endswith(driver)
            )
            assert reason in about_driver
        finally:
            await client.delete(f"/repositories/{repository}")


async def test_watching_goes_on_after_the_api_was_killed(shell, platform):
    watching = await shell.watch(ROOM, "Display_1", "--json")
    try:
        first = msgspec.json.decode(await next_line(watching, '"connected"'))
        assert first["module"] == "Display_1"
        os.kill(platform.read()["pids"]["api"], 9)
        assert watching.stderr is not None
        async with asyncio.timeout(30):
            while b"Connected again" not in await watching.stderr.readline():
                pass
        shell.run("exec", ROOM, "Display_1", "power", "true")
        await next_line(watching, '"power","value":true')
    finally:
        watching.kill()
        await watching.wait()


def test_what_is_not_there_is_said_with_what_is(shell):
    outcome = shell.try_("exec", "Room 9", "Display_1", "power", "true")
    assert outcome.returncode == 2
    assert "Room 1.01" in outcome.stderr
    outcome = shell.try_("exec", "Room", "Display_1", "power", "true")
    assert outcome.returncode == 2
    assert outcome.stderr.count("sys-") == 5
    outcome = shell.try_("watch", ROOM, "Blinds")
    assert outcome.returncode == 2
    assert "Display_1, Switcher_1, System_1" in outcome.stderr


@pytest.mark.parametrize(
    ("words", "part", "status"),
    [
        (("Blinds_1", "open"), "Display_1, Switcher_1, System_1", 2),
        (("Display_1", "explode"), "explode", 1),
        (("Display_1", "power"), "state", 1),
        (("Display_1", "power", "maybe"), "state", 1),
    ],
)
def test_a_call_that_fails_says_why(shell, words, part, status):
    outcome = shell.try_("exec", ROOM, *words)
    assert outcome.returncode == status
    assert part in outcome.stderr


def test_tokens_are_renewed_as_long_as_they_can_be(shell):
    kept = msgspec.json.decode(shell.session_file.read_bytes(), type=Session)
    ended = msgspec.structs.replace(kept, expires_at=0)
    shell.session_file.write_bytes(msgspec.json.encode(ended))
    assert "Room 1.01" in shell.run("systems")
    renewed = msgspec.json.decode(shell.session_file.read_bytes(), type=Session)
    assert renewed.refresh_token != kept.refresh_token
    unknown = msgspec.structs.replace(ended, refresh_token="unknown")
    shell.session_file.write_bytes(msgspec.json.encode(unknown))
    outcome = shell.try_("systems")
    assert outcome.returncode == 2
    assert "placeos login" in outcome.stderr
    shell.login()


def test_an_api_key_does_as_well(shell):
    url, key = str(shell.ready["url"]), str(shell.ready["api_key"])
    assert "Room 1.01" in shell.run("systems", "--url", url, "--api-key", key)
    outcome = shell.try_("systems", "--url", url, "--api-key", "wrong.key")
    assert outcome.returncode == 2


def test_a_plug_is_pulled(shell, platform):
    data = str(platform.data)
    assert "Room 2.02" in shell.run("demo", "unplug", "Room 2.02", "--for", "0.2", "--data", data)
    outcome = shell.try_("demo", "unplug", "Room 9", "--data", data)
    assert outcome.returncode == 2
