"""What the tests of the SDK share."""

from __future__ import annotations

import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest

WriteDriver = Callable[[str], Path]


@pytest.fixture
def write_driver(tmp_path: Path) -> WriteDriver:
    """Writes a driver file and returns where it is."""

    def write(text: str) -> Path:
        file = tmp_path / "tried.py"
        file.write_text(textwrap.dedent(text))
        return file

    return write
