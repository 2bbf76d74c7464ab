"""Live state: published when its JSON text changes, once per turn of the loop."""

from __future__ import annotations

import asyncio
import datetime
from dataclasses import dataclass
from enum import Enum, IntEnum, StrEnum

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from placeos.driver.errors import DriverError
from placeos.driver.schema import encode
from placeos.driver.state import MAX_STATE, MAX_VALUE, Held, State


class Power(Enum):
    """By member name, whatever the value is."""

    FullOff = 7


class Text(StrEnum):
    """A text that is a member first."""

    Hdmi = "31"


class Number(IntEnum):
    """Likewise for numbers."""

    One = 1


@dataclass
class Point:
    """A plain dataclass."""

    x: int
    power: Power


class Record(msgspec.Struct):
    """A struct with an enum in it."""

    power: Power = Power.FullOff
    name: str = "a"


@pytest.fixture
async def state():
    """A state and what it published."""
    published = []
    return State(published.append, {"old": b"1"}), published


async def turn():
    """Let the loop run what is due."""
    await asyncio.sleep(0)


async def test_published_together_and_only_when_changed(state):
    values, published = state
    values.set("a", 1)
    values.set("b", [1, 2])
    values.set("old", 1)
    assert published == []
    await turn()
    assert published == [[("a", b"1"), ("b", b"[1,2]")]]
    values.set("a", 1)
    await turn()
    assert len(published) == 1


async def test_newest_value_of_a_turn_wins(state):
    values, published = state
    for number in range(5):
        values.set("a", number)
    values.set("old", 2)
    values.set("old", 1)
    await turn()
    assert published == [[("a", b"4")]]


async def test_text_is_compared(state):
    values, published = state
    values.set("a", 1)
    await turn()
    values.set("a", 1.0)
    await turn()
    assert published == [[("a", b"1")], [("a", b"1.0")]]


async def test_none_removes(state):
    values, published = state
    values.set("old", None)
    values.set("never", None)
    await turn()
    assert published == [[("old", b"null")]]
    assert "old" not in values


async def test_flush_is_at_once_and_not_repeated(state):
    values, published = state
    values.set("a", 1)
    values.flush()
    assert published == [[("a", b"1")]]
    await turn()
    assert len(published) == 1


@pytest.mark.parametrize("value", [object(), {1, object()}, "x" * MAX_VALUE])
async def test_refused_values(state, value):
    values, published = state
    with pytest.raises(DriverError):
        values.set("a", value)
    await turn()
    assert published == []


@pytest.mark.parametrize("key", ["", "k" * 1025, "\udcff"])
async def test_refused_keys(state, key):
    values, published = state
    with pytest.raises(DriverError):
        values.set(key, 1)
    values.set("good", 1)
    await turn()
    assert published == [[("good", b"1")]]


async def test_the_state_of_a_module_has_an_end(state):
    values, _ = state
    most = "x" * (MAX_VALUE - 2)
    for number in range(7):
        values.set(f"k{number}", most)
    with pytest.raises(DriverError, match="no room for 'k7'"):
        values.set("k7", most)
    values.set("connected", True)
    values.set("k1", "less")
    values.set("k7", "fits now")
    values.set("k2", None)
    values.set("k8", most)
    assert values.get("k7") == "fits now"


def test_a_million_keys_have_an_end():
    held, count = Held(), 0
    while held.put(f"key {count}", b"0"):
        count += 1
    assert 50_000 < count < 200_000
    assert len(msgspec.json.encode(held)) < MAX_STATE
    assert held.put("key 7", b"null")
    assert held.put(f"key {count}", b"0")


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (Power.FullOff, b'"FullOff"'),
        (Text.Hdmi, b'"Hdmi"'),
        (Number.One, b'"One"'),
        ({"a": [Power.FullOff]}, b'{"a":["FullOff"]}'),
        ({Power.FullOff: 1}, b'{"FullOff":1}'),
        (Record(), b'{"power":"FullOff","name":"a"}'),
        (Point(1, Power.FullOff), b'{"x":1,"power":"FullOff"}'),
        (datetime.date(2026, 1, 2), b'"2026-01-02"'),
        ((1, None, True, "ü"), '[1,null,true,"ü"]'.encode()),
    ],
)
def test_json_of_values(value, text):
    assert encode(value) == text


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 3) | st.none()), max_size=30))
async def test_what_was_published_adds_up_to_the_state(changes):
    seen = {}

    def publish(batch):
        for key, text in batch:
            assert seen.get(key, b"null") != text, "published without a change"
            seen[key] = text

    values = State(publish, {})
    for number, (key, value) in enumerate(changes):
        values.set(key, value)
        if number % 3 == 0:
            values.flush()
    values.flush()
    assert {key: text for key, text in seen.items() if text != b"null"} == {
        key: values.text(key)
        for key in values.keys()  # noqa: SIM118 - no mapping
    }


async def test_what_another_version_set_is_confirmed_once_even_if_it_is_the_same():
    published: list[list[tuple[str, bytes]]] = []
    state = State(published.append, {"same": b"1", "other": b"1", "unset": b"1"}, confirm=True)
    state.set("same", 1)
    state.set("same", 1)
    state.set("other", 2)
    state.set("other", 1)  # within one turn: no change, yet it was set
    state.flush()
    assert sorted(key for changes in published for key, _ in changes) == ["other", "same"]
    before = len(published)
    state.set("other", 1)
    state.flush()
    assert len(published) == before
