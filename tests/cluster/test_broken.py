"""A check that no switch can turn red is not a check: see `broken.py`."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

import pytest
from broken import SWITCHES, VARIABLE, Switch

ROOT = Path(__file__).parents[2]
FAILED = 1  # pytest: tests ran and some failed


async def outcome(test: str, thrown: str = "") -> tuple[int, str]:
    """Exit status and output of pytest over one test, with a switch thrown or none."""
    environment = {k: v for k, v in os.environ.items() if k != VARIABLE}
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "pytest", "-n", "0", "-p", "no:cacheprovider"),
        *(("-p", "broken") if thrown else ()),
        *("-m", "long or not long", test),
        cwd=ROOT,
        env=environment | ({VARIABLE: thrown} if thrown else {}),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output, _ = await process.communicate()
    assert process.returncode is not None
    return process.returncode, output.decode()


@pytest.mark.long
@pytest.mark.parametrize(
    ("switch", "test"),
    [(switch, test) for switch in SWITCHES.values() for test in switch.tests],
    ids=[switch.name for switch in SWITCHES.values() for _ in switch.tests],
)
async def test_a_broken_rule_is_noticed(switch: Switch, test: str):
    status, output = await outcome(test, switch.name)
    assert status == FAILED, output
    assert "1 failed" in output
    status, output = await outcome(test)
    assert status == 0, output
