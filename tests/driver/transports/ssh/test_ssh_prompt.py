"""Replies that end with a prompt. Pure."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from placeos.driver.framing import MAX_MESSAGE, FramingError
from placeos.driver.transports.ssh import SSH
from placeos.driver.transports.ssh_prompt import PromptFramer

PROMPT = rb"[\w-]+[>#] ?"


def test_a_message_is_all_up_to_the_prompt():
    framer = PromptFramer(PROMPT)
    assert framer.feed(b"Welcome!\r\n\r\nswitch> ") == [b"Welcome!"]
    assert framer.feed(b"\r\nport 1 up\r\nport 2 do") == []
    assert framer.feed(b"wn\r\nswitch#") == [b"port 1 up\r\nport 2 down"]
    assert framer.feed(b"switch# ") == [b""]


def test_what_looks_like_a_prompt_within_a_line_is_none():
    framer = PromptFramer(PROMPT)
    assert framer.feed(b"a# b\r\nswitch# on port 1\r\n") == []
    assert framer.last_line == b""
    assert framer.feed(b"switch") == []
    assert framer.last_line == b"switch"
    assert framer.feed(b"#") == [b"a# b\r\nswitch# on port 1"]


@pytest.mark.parametrize(
    "erase", [b"\r        \r", b"\x08" * 8 + b" " * 8 + b"\x08" * 8, b"\x1b[2K\r", b""]
)
def test_pagers(erase):
    framer = PromptFramer(PROMPT, rb"--More-- ?")
    assert framer.feed(b"one\r\n--More-- ") == []
    assert framer.paged == 1
    assert framer.feed(erase + b"two\r\nswitch#") == [b"one\r\ntwo"]


@given(st.lists(st.sampled_from([b"a", b"line ", b"\r\n", b"x> y"]), max_size=30), st.data())
def test_cutting_makes_no_difference_while_no_cut_ends_like_a_prompt(pieces, data):
    stream = b"".join(pieces) + b"\r\nsw# "
    framer = PromptFramer(rb"^sw# ")
    cut = data.draw(st.integers(0, len(stream)))
    messages = framer.feed(stream[:cut]) + framer.feed(stream[cut:])
    assert messages == [b"".join(pieces).strip(b"\r\n")]


def test_bounds():
    framer = PromptFramer(PROMPT)
    assert framer.feed(b"x" * MAX_MESSAGE) == []
    with pytest.raises(FramingError, match="without a prompt"):
        framer.feed(b"x")


def test_declarations_that_do_not_go_together():
    for options, words in [
        ({"prompt": b"#", "ends_with": b"\n"}, "no other framing"),
        ({"pager": b"--More--"}, "where there is a prompt"),
        ({"prompt": b"["}, "regular expressions"),
    ]:
        with pytest.raises(ValueError, match=words):
            SSH(**options)


def test_what_is_typed():
    assert SSH(prompt=b"#").encode("show") == b"show\n"
    assert SSH(prompt=b"#", appends=b"\r").encode("show") == b"show\r"
    assert SSH(ends_with=b"\r\n").encode("show") == b"show\r\n"
    assert SSH(prompt=b"#").encode(b"\x03") == b"\x03"
