"""The examples of the guide work as they stand there. Its steps: `acceptance/test_tutorial.py`."""

from __future__ import annotations

import asyncio
import re
import subprocess
import sys
from pathlib import Path

import pytest
from _pytest.mark import ParameterSet
from guide_steps import BLOCK, GUIDE, File, python_block, steps

from placeos.driver.testing import drive


def blocks(document: str) -> list[str]:
    """All Python blocks of a document."""
    text = (GUIDE.parent / document).read_text(encoding="utf-8")
    return [block[2] for block in BLOCK.finditer(text) if block[1] == "python"]


def drivers(document: str) -> list[ParameterSet]:
    """Those of them that are driver files, each with the name of its class."""
    named = re.compile(r"^class (\w+)\((?:Driver|Logic)", re.MULTILINE)
    found = [(named.search(text), text) for text in blocks(document)]
    return [pytest.param(text, id=match[1]) for match, text in found if match]


def the_block(document: str, words: str) -> str:
    """The only block that has these words."""
    [found] = [text for text in blocks(document) if words in text]
    return found


async def run_tests(folder: Path) -> str:
    """The output of `placeos driver test` on a folder."""
    command = [sys.executable, "-m", "placeos.cli", "driver", "test", str(folder)]
    process = await asyncio.create_subprocess_exec(
        *command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    output, _ = await process.communicate()
    assert process.returncode == 0, output.decode()
    return output.decode()


async def test_driver_and_its_test(tmp_path):
    for step in steps():
        if isinstance(step, File):
            (tmp_path / step.name).write_text(step.text)
    polls = python_block("The test harness", "test_polls")
    (tmp_path / "test_more.py").write_text(polls)
    assert "4 passed" in await run_tests(tmp_path)


@pytest.mark.parametrize("text", drivers("driver-reference.md") + drivers("transports.md"))
async def test_driver_of_the_reference(tmp_path, text):
    file = tmp_path / "driver.py"
    file.write_text(text)
    async with drive(file, settings={"pin": "1234"}, connected=False) as module:
        assert module.defaults.descriptive_name


async def test_test_of_a_device_on_http(tmp_path):
    (tmp_path / "http_lamp.py").write_text(the_block("transports.md", "JSON interface"))
    (tmp_path / "test_http_lamp.py").write_text(the_block("transports.md", "ScriptedHTTP()"))
    assert "1 passed" in await run_tests(tmp_path)
