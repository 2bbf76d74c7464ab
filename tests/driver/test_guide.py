"""The examples of the guide work as they stand there."""

from __future__ import annotations

import asyncio
import re
import subprocess
import sys
from pathlib import Path

import pytest

from placeos.driver.testing import drive

GUIDE = Path(__file__).parents[2] / "docs" / "writing-a-driver.md"
CONFIGURATION = "[pytest]\nasyncio_mode = auto\n"


@pytest.fixture(scope="module")
def examples() -> list[str]:
    """The Python blocks, in their order: driver, its test, logic."""
    return re.findall(r"```python\n(.*?)```", GUIDE.read_text(), re.DOTALL)


async def test_first_driver_and_its_test(examples, tmp_path):
    (tmp_path / "lamp.py").write_text(examples[0])
    (tmp_path / "test_lamp.py").write_text(examples[1])
    (tmp_path / "pytest.ini").write_text(CONFIGURATION)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(tmp_path)]
    process = await asyncio.create_subprocess_exec(
        *command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    output, _ = await process.communicate()
    assert process.returncode == 0, output.decode()
    assert b"3 passed" in output


async def test_logic(examples, tmp_path):
    file = tmp_path / "room.py"
    file.write_text(examples[2])
    async with drive(file) as room:
        await room.status("connected", True)
        await room.exec("shutdown")
