"""`placeos driver add`: a file of this machine becomes a module in a room."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

LOGIC = '''\
"""Counts."""

from placeos.driver import Logic, Settings


class CounterSettings(Settings):
    first: int = 0


class Counter(Logic[CounterSettings]):
    module_name = "Counter"

    async def count(self) -> int:
        """One more."""
        self["count"] = self.get("count", self.settings.first) + 1
        return self["count"]
'''

DEVICE = '''\
"""Speaks to nobody."""

from placeos.driver import TCP, Driver, Settings


class MuteSettings(Settings):
    pin: int = 0
    sign: str = ""


class Mute(Driver[MuteSettings]):
    module_name = "Mute"
    transport = TCP(port=9, ends_with=b"\\n")

    async def where(self) -> list[object]:
        """What it was given."""
        return [self.config.port, self.settings.pin, self.settings.sign]
'''


@pytest.fixture
async def folder(site, tmp_path):
    """One with a space; what came from it is removed from the platform in the end."""
    folder = tmp_path / "My Drivers"
    folder.mkdir()
    site.cli("login", site.url, "--api-key", site.api_key)
    yield folder
    for repository in (await site.client.get("/repositories")).json():
        if repository["uri"] != folder.as_uri():
            continue
        for driver in (await site.client.get("/drivers")).json():
            if driver["repository_id"] == repository["id"]:
                await site.client.delete(f"/drivers/{driver['id']}")
        await site.client.delete(f"/repositories/{repository['id']}")


async def records(site, resource):
    answer = await site.client.get(f"/{resource}", params={"limit": 1000})
    return {record["id"] for record in answer.json()}


async def test_logic_with_settings_and_a_second_time(site, folder):
    file = folder / "counter.py"
    file.write_text(LOGIC)
    said = site.cli("driver", "add", str(file), "room 2.01", "--set", "first=41")
    assert f"{folder} is a repository now" in said
    assert "placeos exec 'room 2.01' Counter_1" in said
    assert site.cli("exec", "Room 2.01", "Counter", "count").strip() == "42"
    before = [await records(site, name) for name in ("repositories", "drivers", "modules")]
    assert "has a module of it already" in site.cli("driver", "add", str(file), "Room 2.01")
    assert before == [await records(site, name) for name in ("repositories", "drivers", "modules")]
    site.cli("driver", "add", str(file), "Room 2.02")  # of the same driver
    assert await records(site, "drivers") == before[1]
    assert site.cli("exec", "Room 2.02", "Counter", "count").strip() == "1"


async def test_a_device_that_does_not_answer(site, folder):
    file = folder / "mute.py"
    file.write_text(DEVICE)
    said = site.cli("driver", "add", str(file), "Room 2.01", "--host", "127.0.0.1")
    assert "its device does not answer (yet): cannot connect: 127.0.0.1:9" in said


async def test_a_second_time_changes_what_is_given(site, folder):
    file = str(folder / "mute.py")
    Path(file).write_text(DEVICE)

    def where():
        return json.loads(site.cli("exec", "Room 1.03", "Mute", "where"))

    given = ("--host", "127.0.0.1", "--set", "pin=1", "--set", "sign=5")
    site.cli("driver", "add", file, "Room 1.03", *given)
    assert where() == [9, 1, "5"]
    said = site.cli("driver", "add", file, "Room 1.03", "--port", "10", "--set", "sign=6")
    assert "changed: port, sign" in said
    assert where() == [10, 1, "6"]
    assert "changed" not in site.cli("driver", "add", file, "Room 1.03")
    assert where() == [10, 1, "6"]


async def test_settings_that_cannot_be_used(site, folder):
    """Told at once and by the exit status; giving them again mends it."""
    file = folder / "counter.py"
    file.write_text(LOGIC.replace("first: int = 0", "first: int"))
    add = ("driver", "add", str(file), "Room 2.02")
    assert "it does not start: setting 'first' is missing" in site.cli(*add, fails=True)
    assert "setting 'first'" in site.cli(*add, "--set", "first=x", fails=True)
    site.cli(*add, "--set", "first=1")
    assert site.cli("exec", "Room 2.02", "Counter", "count").strip() == "2"
    said = site.cli(*add, "--set", "first=often", fails=True)
    assert "it runs, and something is wrong: setting 'first': expected int" in said


async def test_nothing_is_made_of_what_cannot_be(site, folder):
    good, bad = folder / "mute.py", folder / "bad.py"
    good.write_text(DEVICE)
    bad.write_text("x = (\n")
    before = [await records(site, name) for name in ("repositories", "drivers", "modules")]
    for arguments, words in (
        ((str(bad), "Room 2.01"), "bad.py:1: SyntaxError"),
        ((str(good), "Room 2.01"), "the device's address is missing: give --host"),
        ((str(good), "Room 2.01", "--host", "h", "--role", "ssh"), "no transport for the role ssh"),
        ((str(good), "No Such Room", "--host", "127.0.0.1"), "there is no room named"),
        ((str(folder / "none.py"), "Room 2.01"), "there is no file"),
    ):
        said = site.cli("driver", "add", *arguments, fails=True)
        assert words in said
        assert "Traceback" not in said
    assert before == [await records(site, name) for name in ("repositories", "drivers", "modules")]
