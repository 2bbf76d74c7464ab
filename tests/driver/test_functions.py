"""From a method's signature to its schema, and from a call's JSON to its arguments."""

from __future__ import annotations

from enum import Enum
from typing import Annotated, Literal

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from placeos.driver import Driver, Settings, administrator, function, on, support, timeout
from placeos.driver.base import HIDDEN
from placeos.driver.errors import BadArguments, InvalidDriver
from placeos.driver.functions import functions_of, metadata, old_metadata, security
from placeos.driver.interfaces import Muteable, MuteLayer, Powerable
from placeos.wire.frame import Clearance


class Input(Enum):
    """Inputs by the device's own codes."""

    HDMI1 = "31"
    DisplayPort = "41"
    VGA_IN = "11"


class Preset(msgspec.Struct):
    """A camera position."""

    name: str
    zoom: float = 1
    input: Input | None = None


class Tried(Driver[Settings], Powerable, Muteable):
    """A driver with one of everything."""

    async def power(self, state: bool) -> bool:
        """Switch it."""
        return state

    async def mute(
        self, state: bool = True, index: int | str = 0, layer: MuteLayer = MuteLayer.AudioVideo
    ) -> None: ...

    @function(name="power?")
    async def power_query(self) -> bool:
        return True

    @support
    async def reset(self, hard: bool = False) -> None: ...

    @administrator
    @timeout(60)
    async def upgrade(self, url: str) -> None: ...

    async def show(self, input: Input, *, output: int = 1) -> None: ...

    async def volume(self, level: Annotated[int, msgspec.Meta(ge=0, le=100)]) -> None: ...

    async def store(self, preset: Preset, tags: list[str] | None = None) -> None: ...

    async def switch(self, map: dict[int, list[int]]) -> None: ...

    async def pick(self, side: Literal["left", "right"], anything: object = None) -> None: ...

    async def variadic(self, first: int, *rest: int, **options: int) -> None: ...

    @on("power")
    async def power_changed(self, value: bool) -> None: ...

    def _hidden(self, untyped) -> None: ...

    async def connected(self) -> None: ...


functions = functions_of(Tried, HIDDEN)


def arguments(name: str, payload: str):
    """What the method would be called with."""
    positional, keywords = functions[name].arguments(payload.encode())
    return (*positional, *keywords.values())


def test_public_methods_are_functions():
    own = list(functions)[:10]
    assert own == [
        "power",
        "mute",
        "power?",
        "reset",
        "upgrade",
        "show",
        "volume",
        "store",
        "switch",
        "pick",
    ]
    inherited = {"power_state", "unmute", "mute_audio", "mute_video", "unmute_audio"}
    assert inherited <= set(functions)
    for hidden in ("power_changed", "_hidden", "connected", "send", "power_query"):
        assert hidden not in functions


def test_schema():
    interface = metadata(functions.values())
    assert interface["power"] == {"state": {"type": "boolean", "title": "Bool"}}
    assert interface["power?"] == {}
    assert interface["mute"] == {
        "state": {"type": "boolean", "title": "Bool", "default": True},
        "index": {
            "anyOf": [{"type": "integer", "format": "Int64"}, {"type": "string"}],
            "title": "(Int64 | String)",
            "default": 0,
        },
        "layer": {
            "type": "string",
            "enum": ["audio", "video", "audio_video"],
            "title": "PlaceOS::Driver::Interface::Muteable::MuteLayer",
            "default": "audio_video",
        },
    }
    assert interface["show"]["input"] == {
        "type": "string",
        "enum": ["hdmi1", "display_port", "vga_in"],
        "title": "Input",
    }
    assert interface["volume"]["level"] == {
        "type": "integer",
        "format": "Int64",
        "minimum": 0,
        "maximum": 100,
        "title": "Int64",
    }
    assert interface["store"]["preset"]["required"] == ["name"]
    assert interface["store"]["preset"]["properties"]["zoom"]["default"] == 1
    assert interface["switch"]["map"] == {
        "type": "object",
        "additionalProperties": {"type": "array", "items": {"type": "integer", "format": "Int64"}},
        "title": "Hash(Int64, Array(Int64))",
    }
    assert interface["pick"]["side"]["enum"] == ["left", "right"]
    assert interface["pick"]["anything"] == {
        "type": "object",
        "title": "JSON::Any",
        "default": None,
    }
    assert list(interface["variadic"]) == ["first"]


def test_older_schema_and_security():
    older = old_metadata(functions.values())
    assert older["power"] == {"state": ["Bool"]}
    assert older["mute"]["index"] == ["Int64|String", 0]
    assert older["mute"]["layer"] == ["MuteLayer", "audio_video"]
    assert security(functions.values()) == {"support": ["reset"], "administrator": ["upgrade"]}
    assert functions["upgrade"].timeout == 60


def test_docs():
    assert functions["power"].doc == "Switch it."


@pytest.mark.parametrize(
    ("name", "payload", "expected"),
    [
        ("power", "[true]", (True,)),
        ("power", '{"state": false, "extra": 1}', (False,)),
        ("mute", "[]", (True, 0, MuteLayer.AudioVideo)),
        ("mute", '[false, "lobby", "AUDIO"]', (False, "lobby", MuteLayer.Audio)),
        ("mute", '{"layer": "AudioVideo"}', (True, 0, MuteLayer.AudioVideo)),
        ("mute", '{"layer": null}', (True, 0, MuteLayer.AudioVideo)),
        ("show", '["hdmi1"]', (Input.HDMI1, 1)),
        ("show", '["VgaIn", 2]', (Input.VGA_IN, 2)),
        ("show", '["31"]', (Input.HDMI1, 1)),
        ("switch", '[{"1": [2, 3]}]', ({1: [2, 3]},)),
        (
            "store",
            '[{"name": "desk", "zoom": 2, "input": "display_port"}]',
            (Preset("desk", 2, Input.DisplayPort), None),
        ),
        ("power?", "", ()),
        ("power?", "{}", ()),
    ],
)
def test_accepted(name, payload, expected):
    assert arguments(name, payload) == expected


@pytest.mark.parametrize(
    ("name", "payload", "message"),
    [
        (
            "power",
            "[]",
            "wrong number of arguments for 'power' (given 0, expected 1): missing argument 'state'",
        ),
        ("power", "{}", "(given 0, expected 1): missing argument 'state'"),
        ("power", "[true, 1]", "wrong number of arguments for 'power' (given 2, expected 1)"),
        ("mute", "[1, 2, 3, 4]", "wrong number of arguments for 'mute' (given 4, expected 0..3)"),
        ("power", '["on"]', "wrong type for argument 'state' of 'power': Expected bool, got str"),
        ("power", "[1]", "argument 'state' of 'power': Expected bool, got int"),
        ("power", "[null]", "argument 'state' of 'power': Expected bool, got null"),
        ("show", '["hdmi7"]', "'hdmi7' is none of hdmi1, display_port, vga_in"),
        ("volume", "[101]", "argument 'level' of 'volume'"),
        ("volume", '["7"]', "argument 'level' of 'volume': Expected int, got str"),
        ("store", '[{"zoom": 1}]', "missing required field name"),
        ("store", '[{"name": "a", "zoom": "b"}]', "Expected float, got str - at $.zoom"),
        ("switch", '[{"a": [1]}]', "argument 'map' of 'switch'"),
        ("power", "7", "arguments of 'power' must be a JSON array or object"),
        ("power", "[", "arguments of 'power' are no JSON"),
        ("power", "[" * 100_000, "arguments of 'power' are no JSON"),
    ],
)
def test_refused(name, payload, message):
    with pytest.raises(BadArguments) as caught:
        arguments(name, payload)
    assert message in str(caught.value)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(st.sampled_from(sorted(functions)), json_values)
def test_whatever_is_sent_is_taken_or_refused(name, value):
    refusal = ""
    try:
        functions[name].arguments(msgspec.json.encode(value))
    except BadArguments as error:
        refusal = str(error)
    assert not refusal or name in refusal


def test_untyped_argument():
    class Untyped(Driver[Settings]):
        async def set(self, level) -> None: ...

    with pytest.raises(InvalidDriver, match=r"test_functions.py:\d+: argument 'level' of 'set'"):
        functions_of(Untyped, HIDDEN)


def test_argument_that_json_cannot_carry():
    class Odd(Driver[Settings]):
        async def set(self, level: complex) -> None: ...

    with pytest.raises(InvalidDriver, match="argument 'level'"):
        functions_of(Odd, HIDDEN)


def test_two_functions_of_one_name():
    class Twice(Driver[Settings]):
        async def volume(self) -> None: ...

        @function(name="volume")
        async def other(self) -> None: ...

    with pytest.raises(InvalidDriver, match="a second function named 'volume'"):
        functions_of(Twice, HIDDEN)


def test_override_keeps_clearance():
    class Base(Driver[Settings]):
        @administrator
        async def erase(self) -> None: ...

    class Derived(Base):
        async def erase(self) -> None: ...

    assert functions_of(Derived, HIDDEN)["erase"].clearance is Clearance.ADMINISTRATOR
