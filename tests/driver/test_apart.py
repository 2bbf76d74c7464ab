"""What a call causes is no part of it: timers, handlers and background jobs have their own time."""

from __future__ import annotations

import asyncio

import pytest

from placeos.driver.testing import FakeClock, FakeModule, drive

ROOM = """
    import asyncio
    from placeos.driver import Logic

    class Room(Logic):
        async def later(self) -> None:
            self.schedule.in_(10, self._switch)

        async def in_background(self) -> None:
            self.spawn(self._slowly())

        async def by_state(self) -> None:
            self.subscribe("wanted", self._wanted)
            self["wanted"] = True

        async def _slowly(self) -> None:
            await asyncio.sleep(10)
            await self._switch()

        async def _wanted(self, wanted: bool | None) -> None:
            await self._slowly()

        async def _switch(self) -> None:
            display = self.system["Display_1"]
            self["switched"] = [await display.power(True), self.user]
"""


class Display(FakeModule):
    async def power(self, state: bool) -> bool:
        await asyncio.sleep(0.2)  # of real time
        return state


@pytest.mark.parametrize(
    ("function", "user"), [("later", None), ("in_background", "user-1"), ("by_state", None)]
)
async def test_their_calls_have_time_after_that_of_the_call_which_caused_them(
    function: str, user: str | None, write_driver
) -> None:
    system = {"Display": [Display()]}
    async with drive(write_driver(ROOM), system=system, clock=FakeClock()) as room:
        await room.exec(function, user="user-1", timeout=5)
        await room.clock.advance(20)
        await room.status("switched", [True, user])


async def test_one_lambda_is_not_taken_for_another(write_driver) -> None:
    file = write_driver("""
        import functools
        from placeos.driver import Logic

        class House(Logic):
            async def started(self) -> None:
                self.schedule.every(10, lambda: 1 / 0)
                self.schedule.every(10, lambda: None)
                self.schedule.every(10, functools.partial(self._divide, 0))

            def _divide(self, by: int) -> float:
                return 1 / by
    """)
    async with drive(file, clock=FakeClock()) as house:
        await house.clock.advance(60)
        faults = [
            "_divide: ZeroDivisionError: division by zero",
            "lambda at tried.py:7: ZeroDivisionError: division by zero",
        ]
        assert sorted(house.core.faults) == faults  # each told once
