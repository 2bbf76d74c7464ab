"""Types as arguments, settings and values: what goes in as its schema says, comes out the same."""

from __future__ import annotations

import json
from dataclasses import dataclass
from enum import Enum
from typing import Literal, NamedTuple, TypedDict

import msgspec
import pytest

from placeos.driver import Settings
from placeos.driver.schema import Converter, describe, encode
from placeos.driver.settings import SettingsReader


class Side(Enum):
    FarLeft = 1
    Right = 2


class Named(NamedTuple):
    side: Side
    count: int = 0


class Typed(TypedDict):
    side: Side


@dataclass
class Node:
    side: Side
    inner: list[Node]


class Circle(msgspec.Struct, tag="circle"):
    radius: int


class Line(msgspec.Struct, tag="line"):
    side: Side


class Listed(msgspec.Struct, array_like=True, tag="listed"):
    side: Side
    count: int = 1


class Partly(msgspec.Struct):
    given: int | msgspec.UnsetType = msgspec.UNSET


LEFT = Side.FarLeft


@pytest.mark.parametrize(
    ("kind", "given", "value"),
    [
        (tuple[Side, int], ["far_left", 1], (LEFT, 1)),
        (tuple[Side, ...], ["far_left", "right"], (LEFT, Side.Right)),
        (dict[Side, Side], {"far_left": "right"}, {LEFT: Side.Right}),
        (Named, ["FAR_LEFT"], Named(LEFT)),
        (Typed, {"side": "farleft"}, {"side": LEFT}),
        (Node, {"side": "right", "inner": [{"side": "far_left", "inner": []}]}, None),
        (Circle | Line, {"type": "line", "side": "far_left"}, Line(LEFT)),
        (Listed, ["listed", "far_left", 2], Listed(LEFT, 2)),
        (list[Partly], [{}, {"given": 1}], [Partly(), Partly(1)]),
        (list[int] | str, "all", "all"),
        (Literal["a", 1, None], None, None),
    ],
)
def test_what_is_written_is_understood_again(kind: object, given: object, value: object) -> None:
    read = Converter(kind)(given)
    if value is not None:
        assert read == value
    assert Converter(kind)(json.loads(encode(read))) == read


@pytest.mark.parametrize(
    ("kind", "place", "count"),
    [
        (tuple[Side, int], "$[0]", ["up", 1]),
        (Node, "$.inner[0].inner", {"side": "right", "inner": [{"side": "right", "inner": 1}]}),
        (tuple[Side, int], "length 2", ["right", 1, 2]),
    ],
)
def test_what_is_wrong_is_said(kind: object, place: str, count: object) -> None:
    with pytest.raises(msgspec.ValidationError) as caught:
        Converter(kind)(count)
    assert place in str(caught.value) or "none of far_left, right" in str(caught.value)


def test_schemas() -> None:
    assert describe(Circle | Line)[0]["anyOf"] == [
        {
            "type": "object",
            "properties": {
                "type": {"type": "string", "enum": ["circle"]},
                "radius": {"type": "integer", "format": "Int64"},
            },
            "required": ["type", "radius"],
        },
        {
            "type": "object",
            "properties": {
                "type": {"type": "string", "enum": ["line"]},
                "side": {"type": "string", "enum": ["far_left", "right"]},
            },
            "required": ["type", "side"],
        },
    ]
    schema = describe(Named)[0]
    assert (schema["type"], len(schema["items"])) == ("array", 2)
    assert len(describe(Listed)[0]["items"]) == 3
    assert describe(Literal["a", 1]) == ({"enum": [1, "a"]}, "(Int64 | String)")
    assert describe(Literal[True]) == ({"type": "boolean", "enum": [True]}, "Bool")


def test_defaults_are_spelled_as_the_form_spells_them() -> None:
    class Door(Settings):
        side: Side = LEFT
        sides: list[Side] = msgspec.field(default_factory=lambda: [LEFT])

    reader = SettingsReader(Door)
    properties = reader.json_schema["properties"]
    assert properties["side"]["default"] in properties["side"]["enum"]
    assert properties["sides"]["default"] == ["far_left"]
    assert json.loads(reader.defaults()) == {"side": "far_left", "sides": ["far_left"]}
