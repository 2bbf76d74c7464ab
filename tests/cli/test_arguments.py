"""What the command line makes of what is typed. Pure."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from placeos.cli.output import show
from placeos.cli.rooms import System, choose, parse_argument, slug

ROOMS = [
    System(id="sys-1", name="Room 1.01"),
    System(id="sys-2", name="Room 1.02", display_name="Boardroom"),
    System(id="sys-3", name="Room 1.01 (store)"),
]


@pytest.mark.parametrize(
    ("word", "value"),
    [
        ("true", True),
        ("null", None),
        ("5", 5),
        ("-5", -5),
        ("1.5", 1.5),
        ('"5"', "5"),
        ("[1, 2]", [1, 2]),
        ('{"a": 1}', {"a": 1}),
        ("hdmi", "hdmi"),
        ("HDMI 1", "HDMI 1"),
        ("True", "True"),
        ("", ""),
        ("{broken", "{broken"),
    ],
)
def test_arguments_are_json_or_else_text(word, value):
    assert parse_argument(word) == value


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_any_word_is_an_argument(word):
    value = parse_argument(word)
    assert value == word or msgspec.json.decode(word) == value


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Display", "Display_1"),
        ("Display_1", "Display_1"),
        ("Display_12", "Display_12"),
        ("Video_Wall", "Video_Wall_1"),
        ("_1", "_1_1"),
    ],
)
def test_a_module_without_number_is_the_first(text, expected):
    assert slug(text) == expected


@pytest.mark.parametrize(
    ("text", "ids"),
    [
        ("Room 1.01", ["sys-1"]),
        ("room 1.01", ["sys-1"]),
        ("boardroom", ["sys-2"]),
        ("1.02", ["sys-2"]),
        ("store", ["sys-3"]),
        ("Room", ["sys-1", "sys-2", "sys-3"]),
        ("Room 9", []),
    ],
)
def test_a_room_is_found_by_its_name_or_a_part_of_it(text, ids):
    assert [system.id for system in choose(ROOMS, text)] == ids


@pytest.mark.parametrize(
    ("value", "text"), [("on", "on"), (True, "true"), (None, "null"), ({"a": [1]}, '{"a":[1]}')]
)
def test_values_are_shown_as_one_reads_them(value, text):
    assert show(value) == text
