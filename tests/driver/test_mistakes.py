"""Mistakes in a driver file are told with file, line and reason, and none passes unseen."""

from __future__ import annotations

import pytest

from placeos.driver.errors import InvalidDriver
from placeos.driver.loader import load

IMPORTS = (
    "import typing\nfrom placeos.driver import Driver, Logic, Settings, every, on, timeout\n\n\n"
)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (
            "class Lamp(Logic):\n    async def f(self, x: int = object()) -> None: ...",
            r"lamp\.py:6: default of argument 'x': a object cannot be written as JSON",
        ),
        (
            "class Odd(Exception):\n    def __str__(self): raise ValueError\n\n\nraise Odd",
            r"lamp\.py:9: Odd: Odd",
        ),
        (
            "class Lamp(Logic):\n    @every\n    async def f(self) -> None: ...",
            r"lamp\.py:6: TypeError: @every: give seconds or a setting, such as @every\(30\)",
        ),
        (
            "class Lamp(Logic):\n    @every(None)\n    async def f(self) -> None: ...",
            r"lamp\.py:6: TypeError: @every: .* and not None",
        ),
        (
            "class Lamp(Logic):\n    @timeout\n    async def f(self) -> None: ...",
            r"lamp\.py:6: TypeError: @timeout: give seconds, such as @timeout\(30\)",
        ),
        (
            "class Lamp(Logic):\n    @on\n    async def f(self, value: object) -> None: ...",
            r"lamp\.py:6: TypeError: @on: give a key, or a module and a key",
        ),
        (
            "class Given:\n    x: int = 1\n\n\nclass Lamp(Logic[Given]): ...",
            r"lamp\.py:9: Given holds no settings: it must derive from Settings",
        ),
        (
            "class Given(Settings):\n    x = 1\n\n\nclass Lamp(Logic[Given]): ...",
            r"lamp\.py:9: setting 'x' of Given has no type: x: int = 1",
        ),
        (
            "class Given(Settings):\n    x: complex = 1j\n\n\nclass Lamp(Logic[Given]): ...",
            r"lamp\.py:5: settings class Given: complex is no type that JSON can carry",
        ),
    ],
)
def test_a_file_that_cannot_be_used(text: str, reason: str, tmp_path) -> None:
    file = tmp_path / "lamp.py"
    file.write_text(IMPORTS + text)
    with pytest.raises(InvalidDriver, match=reason):
        load(str(file))
