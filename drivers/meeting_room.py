"""A meeting room: one touch shows a source, one touch switches everything off.

The room has a display (`Display_1`) behind a switcher (`Switcher_1`).
"""

import asyncio
from collections.abc import Awaitable
from typing import Annotated

from msgspec import Meta

from placeos.driver import DriverError, Logic, Settings, on


class RoomSettings(Settings):
    display_input: Annotated[str, Meta(description="Input the switcher is wired to")] = "digital1"
    display_output: Annotated[int, Meta(description="Output the display is wired to")] = 1


class MeetingRoom(Logic[RoomSettings]):
    module_name = "System"

    async def started(self) -> None:
        self["active"] = self.get("active", False)
        self._judge()

    async def start(self, source: int = 1) -> None:
        """Show a source, an input of the switcher."""
        self["active"] = True
        self["source"] = source
        await self._present()

    async def shutdown(self) -> None:
        """Switch the room off."""
        self["active"] = False
        self["source"] = None
        await self._do(self.system["Display_1"].power(False))

    @on("Display_1", "power")
    async def _display_power(self, power: bool | None) -> None:
        self["display_power"] = power

    @on("Display_1", "warming")
    async def _display_warming(self, warming: bool | None) -> None:
        self["display_warming"] = warming

    @on("Display_1", "connected")
    async def _display_connected(self, connected: bool | None) -> None:
        was_away = self.get("display_connected") is False
        self["display_connected"] = connected
        self._judge()
        if connected and was_away:
            self.spawn(self._restore())

    async def _restore(self) -> None:
        """The display is back: it may have lost its power, or missed a command."""
        if self["active"]:
            await self._present()
        elif "problem" in self:
            await self.shutdown()

    async def _present(self) -> None:
        output = self.settings.display_output
        await self._do(
            self.system["Switcher_1"].switch({self["source"]: [output]}),
            self._light_up(),
        )

    async def _light_up(self) -> None:
        display = self.system["Display_1"]
        await display.power(True)
        await display.switch_to(self.settings.display_input)

    async def _do(self, *steps: Awaitable[object]) -> None:
        """Take all steps at once, each whether or not another fails, and say what failed."""
        results = await asyncio.gather(*steps, return_exceptions=True)
        problem = "; ".join(str(result) for result in results if isinstance(result, Exception))
        self["problem"] = problem or None
        self._judge()
        if problem:
            raise DriverError(problem)

    def _judge(self) -> None:
        degraded = self.get("display_connected") is False or "problem" in self
        self["status"] = "degraded" if degraded else "ready"
