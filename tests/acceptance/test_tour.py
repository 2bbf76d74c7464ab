"""The tour of the README: what a newcomer does in the first minutes, with what they see."""

import json

ROOM = "Room 1.01"


async def test_tour(site):
    signed_in = site.cli(
        "login", site.url, "--email", site.facts["email"], "--password", site.facts["password"]
    )
    assert "error" not in signed_in.lower()
    rooms = json.loads(site.cli("systems", "--json"))
    assert [room["name"] for room in rooms] == [
        "Room 1.01",
        "Room 1.02",
        "Room 1.03",
        "Room 2.01",
        "Room 2.02",
    ]
    site.cli("exec", ROOM, "Display_1", "power", "true")
    await site.becomes(ROOM, "Display_1", "warming", True)
    await site.becomes(ROOM, "Display_1", "warming", False)
    assert await site.value(ROOM, "Display_1", "power") is True


async def test_every_room_starts_and_shuts_down(site):
    for room in ("Room 1.02", "Room 2.02"):
        assert (await site.call(room, "System_1", "start")).status_code == 200
    for room in ("Room 1.02", "Room 2.02"):
        await site.becomes(room, "Display_1", "power_state", "on")
        assert await site.value(room, "System_1", "active") is True
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
        site.harm(ROOM, "Display_1", "freeze 12")
        await site.becomes(ROOM, "Display_1", "connected", False, within=12)
        await site.becomes(ROOM, "Display_1", "connected", True, within=20)


async def test_ties_at_the_front_panel_arrive(site):
    """Nobody asked for them, and the next poll is seconds away."""
    system = await site.system(ROOM)
    async with site.control() as control:
        await control.ask("bind", system, "Switcher_1", "video2")
        for source in (3, 5):
            site.harm(ROOM, "Switcher_1", f"tie {source} 2")
            await control.becomes(system, "Switcher_1", "video2", source, within=2)
