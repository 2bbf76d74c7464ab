"""What is typed at the prompt of `placeos driver run`, and what blocks: pure parts."""

from __future__ import annotations

import textwrap

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from placeos.cli.driver.blocking import blocking_calls
from placeos.cli.driver.words import WrongWords, arguments, is_secret, shown, typed, words

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)


@given(st.lists(JSON, max_size=4))
def test_json_is_read_back_as_it_was(values):
    line = "call " + " ".join(msgspec.json.encode(value).decode() for value in values)
    first, *rest = words(line)
    assert first == "call"
    assert arguments(rest, []) == values


@given(st.dictionaries(st.sampled_from(["state", "index", "map"]), JSON))
def test_named_arguments(values):
    line = " ".join(f"{name}={msgspec.json.encode(v).decode()}" for name, v in values.items())
    assert arguments(words(line), ["state", "index", "map"]) == (values or [])


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("power true", ["power", True]),
        ("switch hdmi1", ["switch", "hdmi1"]),
        ('switch { "1": [2, 3] } all', ["switch", {"1": [2, 3]}, "all"]),
        ('say "two words"', ["say", "two words"]),
        ("set a=b", ["set", "a=b"]),
        ("  ", []),
    ],
)
def test_words(line, expected):
    assert [arguments([word], [])[0] for word in words(line)] == expected


def test_positional_and_named_together():
    assert arguments(["true", "index=2"], ["state", "index"]) == {"state": True, "index": 2}
    with pytest.raises(WrongWords, match="come first"):
        arguments(["index=2", "true"], ["state", "index"])


@pytest.mark.parametrize("line", ['say "no end', "map {1", "list [1, 2"])
def test_what_is_not_closed(line):
    with pytest.raises(WrongWords, match="there is no closing"):
        words(line)


def test_settings_that_are_texts_stay_texts():
    assert typed("0123", {"type": "string"}) == "0123"
    assert typed("0.5", {"type": "number"}) == 0.5
    assert typed('"5"', {"type": "string"}) == "5"
    assert typed("anything", {}) == "anything"


def test_secrets_are_not_shown():
    schema = {"properties": {"pin": {"format": "password"}, "poll": {}}}
    assert is_secret("pin", schema)
    assert is_secret("admin_password", schema)
    assert not is_secret("poll", schema)
    given = {"pin": "1234", "poll": 5, "ssh": {"username": "u", "password": "p"}, "token": ""}
    assert shown(given, schema) == {
        "pin": "•••",
        "poll": 5,
        "ssh": {"username": "u", "password": "•••"},
        "token": "",
    }


FILE = """
import asyncio
import time as t
import subprocess
from pathlib import Path
from requests import get

t.sleep(1)  # at import, once

class Lamp:
    async def a(self):
        t.sleep(1)
        await asyncio.to_thread(t.sleep, 1)
        await asyncio.to_thread(lambda: t.sleep(1))
        open("x")
        self.open("x")
        Path("x").read_text()

    def b(self):
        subprocess.run(["ls"])
        get("http://x")
        open("x")

        def in_a_thread():
            t.sleep(1)

        async def inside():
            t.sleep(1)
"""


def test_blocking_calls():
    found = [(one.line, one.call, one.advice.severe) for one in blocking_calls(FILE)]
    assert found == [
        (12, "time.sleep", True),
        (15, "open", False),
        (17, "….read_text", False),
        (20, "subprocess.run", True),
        (21, "requests.get", True),
        (28, "time.sleep", True),
    ]


def test_names_of_its_own_are_no_blocking_calls():
    text = textwrap.dedent("""
        from mine import sleep, run
        async def f(socket, requests):
            sleep(1)
            run()
            self.input()
    """)
    assert blocking_calls(text) == []
