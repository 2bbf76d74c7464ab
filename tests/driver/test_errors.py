"""Errors that are themselves at fault: whoever raises them is answered and named all the same."""

from __future__ import annotations

import pytest

from placeos.driver.errors import LONGEST, text_of
from placeos.driver.log import ModuleLogger
from placeos.driver.testing import CallError, drive

ERRORS = """
    import asyncio
    from placeos.driver import Logic

    class Mute(Exception):
        def __str__(self):
            raise ValueError("it cannot be written")
        __repr__ = __str__

    class Codeless(Exception):
        @property
        def code(self):
            raise ValueError("it has none")

    class Bare(BaseException): ...

    class Errors(Logic):
        kind = ""
        ran = 0

        def fails(self):
            match self.kind:
                case "mute":
                    raise Mute
                case "codeless":
                    raise Codeless("no code")
                case "undecodable":
                    raise ValueError(b"\\xff: a reply".decode("utf-8", "surrogateescape"))
                case "endless":
                    raise ValueError("x" * (20 << 20))
                case "bare":
                    raise Bare("no Exception")
                case "cancelled":
                    raise asyncio.CancelledError
                case "interrupt":
                    raise KeyboardInterrupt

        async def call(self, kind: str) -> None:
            self.kind = kind
            self.fails()

        def call_plainly(self, kind: str) -> None:
            self.kind = kind
            self.fails()

        async def begin(self, kind: str) -> None:
            self.kind = kind
            self.schedule.every(0.05, self._poll)
            self.subscribe("news", self._heard)
            self["news"] = 1

        async def mend(self) -> None:
            self.kind = ""
            self["news"] = 2

        async def _poll(self):
            self.fails()
            self["polls"] = self.get("polls", 0) + 1

        async def _heard(self, news):
            self.fails()
            self["heard"] = news

        async def hello(self) -> str:
            return "hello"
"""
KINDS = {
    "mute": "Mute (its text cannot be had: ValueError)",
    "codeless": "no code",
    "undecodable": r"\udcff: a reply",
    "endless": "xxx",
    "bare": "no Exception",
}


@pytest.fixture
async def errors(write_driver):
    async with drive(write_driver(ERRORS)) as module:
        yield module


@pytest.mark.parametrize("function", ["call", "call_plainly"])
@pytest.mark.parametrize("kind", KINDS)
async def test_a_caller_is_answered_whatever_is_raised(errors, kind, function):
    with pytest.raises(CallError) as caught:
        await errors.exec(function, kind)
    assert caught.value.failure == "raised"
    assert KINDS[kind] in caught.value.message
    assert len(caught.value.message) < LONGEST + 100
    assert await errors.exec("hello") == "hello"


@pytest.mark.parametrize("function", ["call", "call_plainly"])
@pytest.mark.parametrize("kind", ["cancelled", "interrupt"])
async def test_what_ends_a_task_or_process_ends_the_call_alone(errors, kind, function):
    with pytest.raises(CallError):
        await errors.exec(function, kind)
    assert await errors.exec("hello") == "hello"


@pytest.mark.parametrize("kind", [*KINDS, "cancelled"])
async def test_what_runs_again_and_again_is_named_and_goes_on(errors, kind):
    """Such as a poll that awaits something which somebody else has cancelled."""
    await errors.exec("begin", kind)
    for part in ("_poll", "subscription to news"):
        told = await errors.fault(f"{part}: ")
        assert KINDS.get(kind, "was cancelled") in told
    await errors.exec("mend")
    await errors.status("heard", 2)
    await errors.status("polls", 2)


def test_the_text_of_an_error_is_bounded_and_can_be_sent():
    assert text_of(ValueError("no luck")) == "no luck"
    assert text_of(TimeoutError()) == "TimeoutError"
    assert text_of(ValueError("\udcff")) == r"\udcff"
    text = text_of(ValueError("begin" + "x" * 100_000 + "end"))
    assert text.startswith("begin")
    assert text.endswith("end")
    assert "characters were left out" in text
    assert len(text) < LONGEST + 100


class Unwritable:
    def __repr__(self):
        raise ValueError("it cannot be written")


async def test_no_line_of_the_log_harms_its_driver():
    log, told = ModuleLogger("mod-tested"), []
    log.set_debug(lambda level, text: told.append(text))
    log.warning("%s", "x" * (20 << 20))
    log.warning("%s", Unwritable())
    log.warning(Unwritable())
    log.warning("\udcff")
    log.close()
    assert len(told) == 4
    assert max(map(len, told)) < LONGEST + 100
