"""Settings: read by type, reported by path, forms from classes."""

from __future__ import annotations

from enum import Enum
from typing import Annotated

import msgspec
import pytest
from msgspec import Meta, Raw

from placeos.driver import Driver, Logic, Settings
from placeos.driver.errors import InvalidDriver, InvalidSettings
from placeos.driver.settings import SettingsReader, settings_class
from placeos.driver.testing import CallError, drive


class Side(Enum):
    """A wall."""

    Left = 1
    Right = 2


class Proxy(msgspec.Struct):
    """A nested record."""

    host: str
    port: int = 8080


class Tried(Settings):
    """One of each."""

    username: str
    password: str | None = None
    poll_every: Annotated[float, Meta(gt=0, description="Seconds")] = 10
    side: Side = Side.Left
    proxy: Proxy | None = None
    inputs: list[str] = msgspec.field(default_factory=list)


reader = SettingsReader(Tried)


def raw(**values: object) -> dict[str, Raw]:
    return {key: Raw(msgspec.json.encode(value)) for key, value in values.items()}


def test_read():
    read = reader.read(
        raw(username="a", poll_every=5, side="right", proxy={"host": "h"}, unknown=[1])
    )
    assert read == Tried("a", None, 5.0, Side.Right, Proxy("h", 8080), [])


def test_null_is_as_if_it_were_not_there():
    assert reader.read(raw(username="a", poll_every=None)).poll_every == 10


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({}, "setting 'username' is missing"),
        ({"username": 5}, "setting 'username': expected str, got int"),
        ({"username": None}, "setting 'username': expected str, got null"),
        (
            {"username": "a", "poll_every": "often"},
            "setting 'poll_every': expected float, got str",
        ),
        ({"username": "a", "poll_every": 0}, "setting 'poll_every': expected float > 0"),
        ({"username": "a", "proxy": {"host": "h", "port": "x"}}, "'proxy.port': expected int"),
        ({"username": "a", "inputs": ["x", 1]}, "setting 'inputs[1]': expected str, got int"),
        ({"username": "a", "side": "up"}, "setting 'side': 'up' is none of left, right"),
        ({"username": 1, "side": 3}, "setting 'username'"),
    ],
)
def test_wrong_ones_are_named(values, message):
    with pytest.raises(InvalidSettings) as caught:
        reader.read(raw(**values))
    assert message in str(caught.value)


def test_start_goes_on_with_defaults():
    read, problems = reader.read_with_defaults(raw(username="a", poll_every="often"))
    assert read.poll_every == 10
    assert problems == ["setting 'poll_every': expected float, got str"]
    with pytest.raises(InvalidSettings, match="'username' is missing"):
        reader.read_with_defaults({})


def test_form():
    assert reader.json_schema["required"] == ["username"]
    properties = reader.json_schema["properties"]
    assert properties["poll_every"] == {
        "type": "number",
        "format": "Float64",
        "exclusiveMinimum": 0,
        "description": "Seconds",
        "default": 10,
    }
    assert properties["side"]["enum"] == ["left", "right"]
    assert properties["side"]["default"] == "left"
    assert SettingsReader(Settings).json_schema == {"type": "object"}


def test_starting_point():
    text = reader.defaults()
    assert msgspec.json.decode(text) == {"poll_every": 10, "side": "left", "inputs": []}


def test_class_of_a_driver():
    class Base(Driver[Tried]): ...

    class Derived(Base): ...

    class Room(Logic[Tried]): ...

    class Plain(Logic): ...

    assert settings_class(Derived, Driver) is Tried
    assert settings_class(Room, Driver) is Tried
    assert settings_class(Plain, Driver) is Settings


def test_type_that_settings_cannot_have():
    class Odd(Settings):
        what: complex = 0j

    with pytest.raises(InvalidDriver, match="settings class Odd"):
        SettingsReader(Odd)


async def test_settings_that_do_not_go_together(write_driver):
    file = write_driver("""
        from placeos.driver import Logic, Settings

        class Range(Settings):
            low: int = 0
            high: int = 100

            def __post_init__(self):
                if self.low > self.high:
                    raise ValueError("low is above high")

        class Limited(Logic[Range]):
            async def range(self) -> list[int]:
                return [self.settings.low, self.settings.high]
    """)
    async with drive(file, settings={"low": 5}) as limited:
        with pytest.raises(CallError, match="settings: low is above high") as caught:
            await limited.update(low=200)
        assert caught.value.code == 400
        await limited.fault("settings: low is above high")
        assert await limited.exec("range") == [5, 100]
    with pytest.raises(CallError, match="settings: low is above high"):
        async with drive(file, settings={"low": 200}):
            pass
