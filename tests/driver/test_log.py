"""A module's log: what is kept, what is shown live, and that neither can be flooded."""

from __future__ import annotations

import asyncio
import json
import logging
import threading

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from placeos.driver.errors import InvalidSettings
from placeos.driver.flood import Allowance
from placeos.driver.log import (
    BURST,
    CALM,
    LEVELS,
    RATE,
    SHOWN,
    ModuleLogger,
    describe_bytes,
    log_level,
    wire_level,
)
from placeos.driver.testing import CallError, drive
from placeos.wire.frame import Command, Header


def kept(capfd):
    """The lines on standard error: level and text."""
    lines = [json.loads(line) for line in capfd.readouterr().err.splitlines()]
    return [(line["level"], line["event"]) for line in lines]


@given(st.floats(0.5, 100), st.integers(1, 50), st.lists(st.floats(0, 3), max_size=200))
def test_no_more_pass_than_the_burst_and_the_rate(rate, burst, pauses):
    allowance = Allowance(rate, burst)
    now, passed, dropped = 0.0, [], 0
    for pause in pauses:
        now += pause
        if allowance.allows(now):
            passed.append(now)
        else:
            dropped += 1
    for first, since in enumerate(passed):
        for count, until in enumerate(passed[first:], 1):
            assert count <= burst + (until - since) * rate + 1e-6
    assert allowance.take_dropped() == dropped
    assert allowance.take_dropped() == 0


def test_a_clock_that_stands_still_or_goes_back():
    allowance = Allowance(1, 2)
    assert [allowance.allows(now) for now in (5, 5, 5, 4, 6)] == [True, True, False, False, True]


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"%1POWR 1\r", '9 bytes  "%1POWR 1\\r"  25 31 50 4f 57 52 20 31 0d'),
        (b"\x00", '1 byte  "\\x00"  00'),
        (b'"\\\t\n\xff', '5 bytes  "\\"\\\\\\t\\n\\xff"  22 5c 09 0a ff'),
        (b"", '0 bytes  ""  '),
    ],
)
def test_what_is_shown_of_the_wire(data, text):
    assert describe_bytes(data) == text


def test_little_is_shown_of_much():
    text = describe_bytes(b"x" * 100_000)
    assert text.startswith('100000 bytes  "xxx')
    assert text.endswith(f" … and {100_000 - SHOWN} bytes more")
    assert len(text) < 5 * SHOWN


def test_levels():
    assert [wire_level(LEVELS[name]) for name in list(LEVELS) if name != "none"] == [
        0, 1, 2, 3, 4, 4, 5, 6,
    ]  # fmt: skip
    assert log_level({}) == logging.WARNING
    assert log_level({"persistent_log_level": msgspec.Raw(b'"DEBUG"')}) == logging.DEBUG
    for wrong in (b'"loud"', b"3", b"null"):
        with pytest.raises(InvalidSettings, match="'persistent_log_level': expected one of trace"):
            log_level({"persistent_log_level": msgspec.Raw(wrong)})


LOGGING = """
    from placeos.driver import Logic

    class Logging(Logic):
        async def kept(self) -> list[bool]:
            return [self.log.isEnabledFor(level) for level in (10, 20, 30, 40)]
"""


async def test_what_is_kept_is_set_by_a_setting(write_driver):
    async with drive(write_driver(LOGGING), debug=False) as module:
        assert await module.exec("kept") == [False, False, True, True]
        await module.update(persistent_log_level="info")
        assert await module.exec("kept") == [False, True, True, True]
        await module.update(persistent_log_level="none")
        assert await module.exec("kept") == [False, False, False, False]
        with pytest.raises(CallError, match="'persistent_log_level': expected one of trace"):
            await module.update(persistent_log_level="loud")
        await module.fault("persistent_log_level")
        assert await module.exec("kept") == [False, False, False, False]  # as before


async def test_what_is_kept_and_what_is_shown(capfd):
    shown = []
    log = ModuleLogger("mod-1")
    log.set_persistent(logging.INFO)
    log.debug("nobody hears it")
    log.set_debug(lambda level, text: shown.append((level, text)))
    for level in ("debug", "info", "error"):
        getattr(log, level)("a line")
    log.set_debug(None)
    log.info("only kept")
    log.close()
    assert shown == [(1, "a line"), (2, "a line"), (5, "a line")]
    assert kept(capfd) == [("info", "a line"), ("error", "a line"), ("info", "only kept")]


def test_a_flood(fake_time, capfd):
    told, live = [], []

    async def flood() -> None:
        log = ModuleLogger("mod-1", told.append)
        log.set_debug(lambda level, text: live.append(text))
        for number in range(10_000):
            log.warning("line %d", number)
            log.wire("sent", b"x")
        assert told == [True]
        await asyncio.sleep(CALM / 2)
        log.warning("one more is no flood")
        await asyncio.sleep(CALM * 2)
        assert told == [True, False]
        log.close()

    fake_time.run_until_complete(flood())
    lines = [text for _, text in kept(capfd)]
    assert lines[:BURST] == [f"line {number}" for number in range(BURST)]
    assert lines[BURST:] == [
        f"({10_000 - BURST} lines were dropped: more than {RATE:g} a second)",
        "one more is no flood",
    ]
    assert len(live) == BURST + 2
    assert f"({20_000 - BURST} lines were dropped: more than {RATE:g} a second)" in live


def test_what_was_dropped_is_told_at_the_end(fake_time, capfd):
    async def end() -> None:
        log = ModuleLogger("mod-1")
        for _ in range(BURST + 5):
            log.error("line")
        log.close()

    fake_time.run_until_complete(end())
    assert kept(capfd)[-1] == ("warning", "(5 lines were dropped)")


async def test_lines_of_other_threads(capfd):
    seen = asyncio.Event()
    threads = []

    def forward(_level: int, _text: str) -> None:
        threads.append(threading.get_ident())
        seen.set()

    log = ModuleLogger("mod-1")
    log.set_debug(forward)
    await asyncio.to_thread(log.warning, "from %s", "afar")
    async with asyncio.timeout(20):
        await seen.wait()
    assert threads == [threading.get_ident()]
    log.close()
    assert kept(capfd) == [("warning", "from afar")]


async def test_a_line_that_cannot_be_formatted(capfd):
    log = ModuleLogger("mod-1")
    log.warning("%d %s", "x")
    log.close()
    ((level, text),) = kept(capfd)
    assert level == "warning"
    assert text.startswith("%d %s ('x',) (not formatted:")


async def test_debugging_is_switched_on_and_off(write_driver):
    driver = """
        from placeos.driver import Logic

        class Logging(Logic):
            async def say(self, text: str) -> None:
                self.log.debug("said %s", text)
                self.log.warning("loudly %s", text)
    """
    async with drive(write_driver(driver), debug=False) as module:
        await module.exec("say", "one")
        await module.core.ask(Header(Command.DEBUG, module="mod-tested"), b"", 5.0)
        await module.exec("say", "two")
        await module.core.until(lambda: len(module.core.logs) == 2, 5.0)
        lines = [(line.level, line.message) for line in module.core.logs]
        assert lines == [(1, "said two"), (4, "loudly two")]
        await module.core.ask(Header(Command.IGNORE, module="mod-tested"), b"", 5.0)
        await module.exec("say", "three")
        assert len(module.core.logs) == 2
