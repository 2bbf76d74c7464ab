"""The room's logic, with a display and a switcher that are played."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from placeos.driver.testing import CallError, FakeModule, TestedModule, drive

FILE = Path(__file__).with_name("meeting_room.py")


class Display(FakeModule):
    """A display that is away while `connected` is false."""

    async def power(self, state: bool) -> bool:
        """Switch it."""
        if not self["connected"]:
            raise RuntimeError("the device is not connected")
        self["power"] = state
        return state

    async def switch_to(self, input: str) -> str:
        """Show an input."""
        self["input"] = input
        return input


class Switcher(FakeModule):
    """A switcher that knows no failure."""

    async def switch(self, map: dict[str, list[int]]) -> None:
        """Connect."""
        for input, outputs in map.items():
            for output in outputs:
                self[f"video{output}"] = int(input)


@asynccontextmanager
async def room(**settings: object) -> AsyncIterator[tuple[TestedModule, Display, Switcher]]:
    """A room at rest, with all devices in reach."""
    display = Display(connected=True, power=False)
    switcher = Switcher()
    system: dict[str, list[FakeModule]] = {"Display": [display], "Switcher": [switcher]}
    async with drive(FILE, system=system, settings=settings) as module:
        await module.status("display_connected", True)
        yield module, display, switcher


async def test_start_and_shutdown() -> None:
    async with room(display_input="digital2", display_output=4) as (logic, display, switcher):
        assert logic.state["active"] is False
        assert logic.state["status"] == "ready"
        await logic.exec("start", 3)
        assert logic.state["active"] is True
        assert logic.state["source"] == 3
        assert display.state == {"connected": True, "power": True, "input": "digital2"}
        assert switcher.state == {"video4": 3}
        await logic.status("display_power", True)
        await logic.exec("shutdown")
        assert logic.state["active"] is False
        await logic.status("display_power", False)


async def test_follows_the_display() -> None:
    async with room() as (logic, display, _):
        display["warming"] = True
        await logic.status("display_warming", True)
        display["connected"] = False
        await logic.status("status", "degraded")
        display["connected"] = True
        await logic.status("status", "ready")


async def test_display_that_lost_its_power_is_lit_again() -> None:
    async with room() as (logic, display, _):
        await logic.exec("start")
        await logic.status("display_power", True)
        display["connected"] = False
        await logic.status("status", "degraded")
        display["power"] = False
        display["connected"] = True
        await logic.status("status", "ready")
        await logic.status("display_power", False)
        await logic.status("display_power", True)


async def test_one_failure_does_not_stop_the_rest() -> None:
    async with room() as (logic, display, switcher):
        display["connected"] = False
        with pytest.raises(CallError, match=r"Display_1.power: the device is not connected"):
            await logic.exec("start", 2)
        assert switcher.state == {"video1": 2}
        assert logic.state["status"] == "degraded"
        assert "not connected" in logic.state["problem"]
        display["connected"] = True
        await logic.status("problem", None)
        await logic.status("status", "ready")
        assert display["power"] is True


async def test_shutdown_that_was_missed_is_done_later() -> None:
    async with room() as (logic, display, _):
        await logic.exec("start")
        await logic.status("display_power", True)
        display["connected"] = False
        with pytest.raises(CallError, match="not connected"):
            await logic.exec("shutdown")
        display["connected"] = True
        await logic.status("display_power", False)


async def test_room_without_devices() -> None:
    async with drive(FILE) as logic:
        await logic.status("status", "ready")
        with pytest.raises(CallError, match="could not find module"):
            await logic.exec("start")
