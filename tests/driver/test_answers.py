"""What a function answers with: status codes, errors, what `@rescues` makes of errors."""

from __future__ import annotations

import msgspec
import pytest

from placeos.driver import Driver, Reply, Settings, rescues
from placeos.driver.errors import InvalidDriver
from placeos.driver.loader import blueprint
from placeos.driver.testing import CallError, drive
from placeos.wire.frame import Command, Header

ANSWERS = """
    import asyncio
    from placeos.driver import DriverError, Logic, Reply, rescues

    class Missing(DriverError):
        code = 404

    class Lost(Exception): ...
    class LostAgain(Lost): ...

    class Answers(Logic):
        async def queued(self) -> Reply[dict[str, int]]:
            return Reply({"job": 7}, code=202)

        def made(self) -> Reply[str]:
            return Reply("made", code=201)

        async def plain(self) -> int:
            return 1

        async def odd(self) -> Reply[object]:
            return Reply(object(), code=202)

        async def refused(self, code: int) -> None:
            raise DriverError("no", code=code)

        async def missing(self) -> None:
            raise Missing("not here")

        async def lose(self, again: bool = False) -> str:
            await asyncio.sleep(0)
            raise LostAgain("twice") if again else Lost("once")

        def lose_plainly(self) -> str:
            raise Lost("plain")

        def lose_later(self):
            return self._later()

        async def _later(self):
            await asyncio.sleep(0)
            raise Lost(f"later for {self.user}")

        async def inside(self) -> str:
            try:
                return await self.lose()
            except Lost:
                return "caught inside"

        async def divide(self) -> float:
            return 1 / 0

        def divide_plainly(self) -> float:
            return 1 / 0

        async def overflow(self) -> float:
            raise OverflowError("more than one knows of")

        async def look(self) -> None:
            {}["key"]

        @rescues(LostAgain)
        async def _found(self, error):
            return f"found after {error}"

        @rescues(Lost)
        def _found_too(self, error):
            return f"found too after {error}"

        @rescues(ZeroDivisionError, ArithmeticError)
        async def infinity(self, error: Exception):
            self["seen"] = str(error)
            await asyncio.sleep(0)
            return "infinity"

        @rescues(KeyError)
        async def _worse(self, error):
            raise DriverError("worse", code=410)
"""


@pytest.fixture
async def answers(write_driver):
    async with drive(write_driver(ANSWERS)) as module:
        yield module


async def ask(module, function, *args):
    header = Header(Command.EXECUTE, module="mod-tested", function=function)
    answer, payload = await module.core._link.request(header, msgspec.json.encode(args), timeout=20)
    return answer.code, msgspec.json.decode(payload)


async def test_codes_of_success(answers):
    assert await ask(answers, "queued") == (202, {"job": 7})
    assert await ask(answers, "made") == (201, "made")
    assert await ask(answers, "plain") == (200, 1)
    assert await ask(answers, "odd") == (202, None)


@pytest.mark.parametrize("code", [199, 300, 404, 500])
def test_a_code_that_is_no_success(code):
    with pytest.raises(ValueError, match=f"code {code} is no success"):
        Reply(None, code=code)


async def test_codes_of_errors(answers):
    for function, args, code in (
        ("refused", [409], 409),
        ("missing", [], 404),
        ("refused", [200], 500),  # no code of an error
    ):
        with pytest.raises(CallError) as caught:
            await answers.exec(function, *args)
        assert caught.value.code == code


async def test_an_error_gives_way_to_what_a_rescue_returns(answers):
    assert await answers.exec("lose") == "found too after once"
    assert await answers.exec("lose", True) == "found after twice"
    assert await answers.exec("lose_plainly") == "found too after plain"
    assert await answers.exec("lose_later", user="user-1") == "found too after later for user-1"
    assert await answers.exec("divide") == "infinity"
    assert await answers.exec("divide_plainly") == "infinity"
    assert answers.state["seen"] == "division by zero"
    assert await answers.exec("overflow") == "infinity"  # it is an ArithmeticError


async def test_a_rescue_may_raise(answers):
    with pytest.raises(CallError, match="worse") as caught:
        await answers.exec("look")
    assert caught.value.code == 410


async def test_within_the_driver_errors_travel_as_ever(answers):
    assert await answers.exec("inside") == "caught inside"


async def test_errors_of_others_are_not_rescued(answers):
    with pytest.raises(CallError, match="not here"):
        await answers.exec("missing")


async def test_a_rescue_is_no_function(answers):
    with pytest.raises(CallError, match="could not find function infinity"):
        await answers.exec("infinity", "x")


def test_a_rescue_takes_the_error():
    class Wrong(Driver[Settings]):
        @rescues(KeyError)
        async def _rescue(self):
            """It takes nothing."""

    with pytest.raises(InvalidDriver, match=r"test_answers.py:\d+: @rescues calls _rescue with"):
        blueprint(Wrong, "")


@pytest.mark.parametrize("wrong", [(), ("KeyError",), (KeyboardInterrupt,), (KeyError("x"),)])
def test_what_can_be_rescued_from(wrong):
    with pytest.raises(TypeError, match="@rescues"):
        rescues(*wrong)
