"""What a driver class declares about itself and its room, and the names it may use."""

from __future__ import annotations

import ast
import inspect
from pathlib import Path

import pytest

import placeos.driver as sdk
from placeos.driver import Driver, Logic, Settings, on
from placeos.driver.base import HOOKS, RESERVED
from placeos.driver.errors import InvalidDriver
from placeos.driver.interfaces import Muteable, Powerable
from placeos.driver.loader import blueprint
from placeos.driver.testing import ScriptedDevice, drive

POWERABLE = "PlaceOS::Driver::Interface::Powerable"
MUTEABLE = "PlaceOS::Driver::Interface::Muteable"


def test_needs_are_published():
    class Room(Logic[Settings]):
        needs = {"Display_1": [Powerable, Muteable], "Camera": [], "Mixer": "fade", "Light": []}

        @on("Switcher", "input")
        async def _input(self, value): ...

        @on("Display_1", "power")
        async def _power(self, value): ...

        @on("Light_1", "level")
        async def _level(self, value): ...

        @on("Light_2", "level")
        async def _second(self, value): ...

    assert blueprint(Room, "").metadata.requirements == {
        "Display_1": [POWERABLE, MUTEABLE],
        "Camera": [],
        "Mixer": ["fade"],
        "Light": [],
        "Switcher_1": [],
        "Light_2": [],
    }


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (["Display_1"], "needs: expected names of modules and their interfaces"),
        ({"": []}, "needs: '' is no name of a module"),
        ({5: []}, "needs: 5 is no name of a module"),
        ({"Display_1": [int]}, r"needs\['Display_1'\]: <class 'int'> is no interface"),
        ({"Display_1": 5}, r"needs\['Display_1'\]: 5 is no interface"),
        ({"Display_1": [""]}, r"needs\['Display_1'\]: '' is no interface"),
    ],
)
def test_wrong_needs(wrong, words):
    class Room(Logic[Settings]):
        needs = wrong

    with pytest.raises(InvalidDriver, match=rf"test_declarations.py:\d+: {words}"):
        blueprint(Room, "")


@pytest.mark.parametrize("name", sorted(RESERVED))
def test_what_the_sdk_offers_is_not_redefined(name):
    wrong = type("Wrong", (Driver,), {name: lambda self: None, "__module__": __name__})
    with pytest.raises(InvalidDriver, match=f"{name} is what the SDK offers a driver"):
        blueprint(wrong, "")


def test_of_private_names_only_one_is_taken():
    """All others are the authors': a helper of theirs must not change what the SDK does."""
    private = {name for name in vars(Driver) if name[0] == "_" and not name.startswith("__")}
    assert private <= {"_module", "_is_protocol"}
    assert "_module" in RESERVED
    assert not HOOKS & RESERVED


NAMES = """
    from placeos.driver import TCP, Driver, Settings

    class Names(Driver[Settings]):
        transport = TCP(port=1, ends_with=b"\\n")

        def __init__(self):
            self._reach = self._state = self._command = self._settings = self._log = 1

        async def ask(self) -> str:
            return (await self.send("ask")).decode()

        async def take(self) -> None:
            self._module = 5
"""


async def test_an_author_may_use_any_private_name(write_driver):
    device = ScriptedDevice()
    device.answers(b"ask\n", b"answer\n")
    async with drive(write_driver(NAMES), device=device) as module:
        assert await module.exec("ask") == "answer"
        with pytest.raises(Exception, match="_module"):
            await module.exec("take")
        assert await module.exec("ask") == "answer"


def test_everything_is_exported_that_the_guide_imports():
    guide = Path(__file__).parents[2] / "docs" / "writing-a-driver.md"
    blocks = guide.read_text().split("```python\n")[1:]
    imported = [
        alias.name
        for block in blocks
        for node in ast.walk(ast.parse(block.partition("```")[0]))
        if isinstance(node, ast.ImportFrom) and node.module == "placeos.driver"
        for alias in node.names
    ]
    assert imported
    assert {*imported} <= {*sdk.__all__}
    for name in sdk.__all__:
        assert inspect.getdoc(getattr(sdk, name)) or name == "Secret", name
