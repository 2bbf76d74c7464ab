"""The played room of the harness answers as a real one does."""

from __future__ import annotations

import pytest

from placeos.driver import DriverError, Reply
from placeos.driver.testing import FakeModule, drive

ROOM = """
    from placeos.driver import Logic, RemoteError

    class Room(Logic):
        async def ask(self, function: str) -> object:
            try:
                return await self.system["Display_1"].call(function)
            except RemoteError as error:
                return [str(error), error.code, error.kind]

        async def tell(self) -> None:
            for channel, text in [("a", "1"), ("b", "2"), ("a", "3")]:
                self.publish(channel, text)
"""


class Display(FakeModule):
    def refuse(self) -> None:
        raise DriverError("not now", code=409)

    def begin(self) -> Reply[str]:
        return Reply("begun", code=202)

    def fail(self) -> None:
        raise KeyError("power")


@pytest.mark.parametrize(
    ("function", "answer"),
    [
        ("refuse", ["Display_1.refuse: not now", 409, "DriverError"]),
        ("begin", "begun"),
        ("fail", ["Display_1.fail: 'power'", 500, "KeyError"]),
    ],
)
async def test_answers_of_modules(function: str, answer: object, write_driver) -> None:
    async with drive(write_driver(ROOM), system={"Display": [Display()]}) as room:
        assert await room.exec("ask", function) == answer


async def test_each_channel_has_its_own_order(write_driver) -> None:
    async with drive(write_driver(ROOM)) as room:
        await room.exec("tell")
        await room.expect_published("b", "2")
        await room.expect_published("a", "1")
        await room.expect_published("a", "3")
