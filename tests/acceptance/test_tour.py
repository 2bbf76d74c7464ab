"""The tour of the README: what a newcomer does in the first minutes, with what they see."""

import asyncio
import json
from collections import defaultdict, deque
from contextlib import asynccontextmanager, suppress

import pytest

ROOM = "Room 1.01"
ROOMS = ["Room 1.01", "Room 1.02", "Room 1.03", "Room 2.01", "Room 2.02"]


class Watched:
    """The lines of `placeos watch --json`."""

    def __init__(self, process):
        self._process = process
        self._unread = defaultdict(deque)

    async def until(self, module, key, wanted, *, within=20):
        """Read on until a value is the wanted one; gives all values of it on the way there.

        Each value has its own course: which of two is printed first does not matter.
        """
        seen = []
        unread = self._unread[module, key]
        async with asyncio.timeout(within):
            while not seen or seen[-1] != wanted:
                if not unread:
                    line = await self._process.stdout.readline()
                    assert line, f"`placeos watch` ended; {module}.{key} was {seen}"
                    change = json.loads(line)
                    self._unread[change["module"], change["key"]].append(change["value"])
                else:
                    seen.append(unread.popleft())
        return seen


@asynccontextmanager
async def watch(site, *arguments):
    """`placeos watch` in a terminal of its own."""
    process = await site.cli_process("watch", *arguments, "--json")
    try:
        yield Watched(process)
    finally:
        process.terminate()
        await process.wait()


async def test_tour(site):
    facts = site.facts
    said = site.cli("login", site.url, "--email", facts["email"], "--password", facts["password"])
    assert "Logged in" in said
    assert [room["name"] for room in json.loads(site.cli("systems", "--json"))] == ROOMS
    for room in ROOMS:
        assert room in site.cli("systems")

    async def well():
        with suppress(pytest.fail.Exception):  # some rooms lose a device for a moment
            return site.cli("status")

    assert "15" in await site.eventually(well, what="`placeos status` to find nothing wrong")
    async with watch(site, ROOM, "Display_1") as watched:
        await watched.until("Display_1", "power_state", "off")
        site.cli("exec", ROOM, "Display_1", "power", "true")
        assert await watched.until("Display_1", "power_state", "on") == ["warming", "on"]
    site.cli("exec", ROOM, "System", "start", "2")
    await site.becomes(ROOM, "Switcher_1", "video1", 2)
    async with watch(site, ROOM) as watched:
        await watched.until("System_1", "status", "ready")
        site.cli("demo", "unplug", ROOM, "--for", "2", "--data", str(site.data))
        await watched.until("Display_1", "connected", False, within=5)
        await watched.until("System_1", "status", "degraded", within=5)
        await watched.until("Display_1", "connected", True, within=10)
        await watched.until("System_1", "status", "ready", within=10)
    site.cli("exec", ROOM, "System_1", "shutdown")
    await site.becomes(ROOM, "System_1", "active", False)


def test_mistakes_at_the_command_line_are_explained(site):
    facts = site.facts
    site.cli("login", site.url, "--email", facts["email"], "--password", facts["password"])
    for arguments, word in (
        (("exec", "Room 9.99", "Display_1", "power", "true"), "Room 9.99"),
        (("exec", ROOM, "Display_7", "power", "true"), "Display_7"),
        (("exec", ROOM, "Display_1", "levitate"), "levitate"),
        (("exec", ROOM, "Display_1", "power"), "state"),
        (("exec", ROOM, "Display_1", "power", "perhaps"), "state"),
        (("login", site.url, "--email", facts["email"], "--password", "wrong"), "password"),
        (("systems", "--url", "http://127.0.0.1:9"), "127.0.0.1:9"),
        (("demo", "unplug", "Room 9.99", "--data", str(site.data)), "Room 9.99"),
    ):
        said = site.cli(*arguments, fails=True)
        assert word in said, (arguments, said)
        assert "Traceback" not in said


async def test_every_room_starts_and_shuts_down(site):
    for room in ("Room 1.02", "Room 2.02"):
        assert (await site.call(room, "System_1", "start")).status_code == 200
    for room in ("Room 1.02", "Room 2.02"):
        await site.becomes(room, "Display_1", "power_state", "on")
        await site.becomes(room, "System_1", "active", True)
        assert (await site.call(room, "System_1", "shutdown")).status_code == 200
        await site.becomes(room, "System_1", "active", False)
        await site.becomes(room, "Display_1", "power", False)


async def test_pulled_plug_is_seen_by_the_room_and_heals(site):
    await site.becomes(ROOM, "System_1", "status", "ready")
    system = await site.system(ROOM)
    async with site.control() as control, site.unbroken(but=ROOM):
        for module, key in (("Display_1", "connected"), ("System_1", "status")):
            assert (await control.ask("bind", system, module, key))["type"] == "success"
        site.harm(ROOM, "Display_1", "unplug 3")
        await control.becomes(system, "Display_1", "connected", False, within=5)
        await control.becomes(system, "System_1", "status", "degraded", within=5)
        await control.becomes(system, "Display_1", "connected", True, within=10)
        await control.becomes(system, "System_1", "status", "ready", within=10)


async def test_frozen_device_is_noticed(site):
    """It still accepts and reads, so only silence tells."""
    async with site.unbroken(but=ROOM):
        site.harm(ROOM, "Display_1", "freeze 8")
        await site.becomes(ROOM, "Display_1", "connected", False, within=8)
        await site.becomes(ROOM, "Display_1", "connected", True, within=20)


async def test_ties_at_the_front_panel_arrive(site):
    """Nobody asked for them, and the next poll is seconds away."""
    system = await site.system(ROOM)
    async with site.control() as control:
        await control.ask("bind", system, "Switcher_1", "video2")
        for source in (3, 5):
            site.harm(ROOM, "Switcher_1", f"tie {source} 2")
            await control.becomes(system, "Switcher_1", "video2", source, within=2)
