"""Errors and values that cannot be shown, sent or written: a call is answered all the same."""

from __future__ import annotations

import pytest

from placeos.driver.testing import CallError, TestedModule, drive

SPEECHLESS = "Speechless (its text cannot be had: ValueError)"

ODD = """
    import asyncio
    import msgspec
    from placeos.driver import Logic

    class Speechless(Exception):
        def __str__(self):
            raise ValueError("not even this")

    class Unwritable(msgspec.Struct):
        def __json__(self):
            raise KeyError("gone")

    class Even(msgspec.Struct):
        number: int

        def __post_init__(self):
            {0: "even"}[self.number % 2]

    HALF = "half \\udc80"

    class Odd(Logic):
        async def speechless(self) -> None:
            raise Speechless

        def speechless_plainly(self) -> None:
            raise Speechless

        async def half(self) -> None:
            raise RuntimeError(HALF)

        async def endless(self) -> None:
            raise RuntimeError("x" * 20_000_000)

        def cancelled(self) -> None:
            raise asyncio.CancelledError

        async def unwritable(self) -> object:
            return Unwritable()

        def unwritable_plainly(self) -> object:
            return Unwritable()

        async def halve(self, even: Even) -> int:
            return even.number // 2

        async def publish_under(self, key: object) -> None:
            self["before"] = 1
            self[HALF if key == "half" else key] = 1

        async def tell(self) -> None:
            self.log.warning(HALF)
            self.log.warning("%s", Speechless())
            self.log.warning("x" * 20_000_000)

        async def fail_later(self) -> None:
            self.schedule.in_(0, self._fail)
            self.spawn(self._speechless())

        async def _fail(self) -> None:
            raise RuntimeError(HALF)

        async def _speechless(self) -> None:
            raise Speechless

        async def send_too_much(self) -> None:
            await self.system["Display_1"].show("x" * 20_000_000)

        def well(self) -> str:
            return "well"
"""


async def refusal(odd: TestedModule, function: str, *args: object) -> CallError:
    """Why a call is refused; the module goes on."""
    with pytest.raises(CallError) as caught:
        await odd.exec(function, *args)
    assert await odd.exec("well") == "well"
    return caught.value


async def test_errors(write_driver) -> None:
    async with drive(write_driver(ODD)) as odd:
        for function in ("speechless", "speechless_plainly"):
            error = await refusal(odd, function)
            assert (error.message, error.kind) == (SPEECHLESS, "Speechless")
        assert (await refusal(odd, "half")).message == r"half \udc80"
        message = (await refusal(odd, "endless")).message
        assert "xx … (19992064 characters were left out) … xx" in message
        assert (await refusal(odd, "cancelled")).kind == "CancelledError"


async def test_values(write_driver) -> None:
    async with drive(write_driver(ODD)) as odd:
        assert await odd.exec("unwritable") is None
        assert await odd.exec("unwritable_plainly") is None
        await odd.expect_log("a result was replaced by null: a Unwritable cannot be written")
        assert await odd.exec("halve", {"number": 4}) == 2
        error = await refusal(odd, "halve", {"number": 5})
        assert (error.message, error.code) == ("argument 'even' of 'halve': KeyError: 1", 400)


async def test_more_than_fits_into_a_call(write_driver) -> None:
    async with drive(write_driver(ODD)) as odd:
        error = await refusal(odd, "send_too_much")
        assert (error.kind, error.code) == ("RemoteError", 413)
        assert error.message.startswith("Display_1.show: frame of 200000")


@pytest.mark.parametrize("key", ["half", "", "x" * 2000, 5, None])
async def test_keys_of_the_state(key: object, write_driver) -> None:
    async with drive(write_driver(ODD)) as odd:
        error = await refusal(odd, "publish_under", key)
        assert error.message.startswith("a state key is a text of 1 to 1024 characters, not ")
        await odd.status("before", 1)


async def test_what_is_logged_and_shown(write_driver) -> None:
    async with drive(write_driver(ODD)) as odd:
        await odd.exec("tell")
        await odd.expect_log(r"half \udc80")
        await odd.expect_log("(not formatted: not even this)")
        await odd.expect_log("(19992064 characters were left out)")
        await odd.exec("fail_later")
        await odd.fault(r"_fail: RuntimeError: half \udc80")
        await odd.fault(f"_speechless: Speechless: {SPEECHLESS}")
