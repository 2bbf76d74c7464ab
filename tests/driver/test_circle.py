"""Modules that call each other in a circle are stopped before they fill the memory."""

from __future__ import annotations

import pytest

from placeos.driver.testing import CallError, FakeModule, TestedModule, drive
from placeos.wire.frame import Command, Header

ROOM = """
    from placeos.driver import Logic

    class Room(Logic):
        async def shutdown(self) -> str:
            return await self.system["Display_1"].shutdown()

        async def shut_down_later(self) -> None:
            self.schedule.in_(0, self._later)

        async def _later(self) -> None:
            self["later"] = await self.shutdown()
"""


class Display(FakeModule):
    """Half of a circle."""

    room: TestedModule
    depth = 0

    async def shutdown(self) -> str:
        self.depth += 2  # as core would find it in the header of the call
        return await self.room.core.ask(within("shutdown", self.depth), b"", 5)


def within(function: str, depth: int) -> Header:
    return Header(Command.EXECUTE, module="mod-tested", function=function, depth=depth)


async def test_a_circle_is_refused(write_driver) -> None:
    display = Display()
    async with drive(write_driver(ROOM), system={"Display": [display]}) as room:
        display.room = room
        with pytest.raises(CallError, match="modules call each other in a circle") as caught:
            await room.exec("shutdown")
        assert (display.depth, caught.value.code) == (100, 508)


async def test_what_a_call_causes_is_no_part_of_the_circle(write_driver) -> None:
    class Lamp(FakeModule):
        async def shutdown(self) -> str:
            return "off"

    async with drive(write_driver(ROOM), system={"Display": [Lamp()]}) as room:
        assert await room.core.ask(within("shutdown", 99), b"", 5) == "off"
        await room.core.ask(within("shut_down_later", 100), b"", 5)
        await room.status("later", "off")
