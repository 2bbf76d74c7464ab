"""Helpers for tests that start and kill processes."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

import psutil
import pytest


async def _until(condition: Callable[[], object], seconds: float = 10) -> object:
    deadline = time.monotonic() + seconds
    while True:
        outcome = condition()
        if outcome:
            return outcome
        assert time.monotonic() < deadline, "the condition did not come true in time"
        await asyncio.sleep(0.02)


@pytest.fixture(scope="session")
def until() -> object:
    """Wait for a condition; fails the test after some seconds."""
    return _until


@pytest.fixture(scope="session")
def lives() -> Callable[[int], bool]:
    """Whether a process runs (one that nobody has reaped yet does not)."""

    def check(pid: int) -> bool:
        try:
            return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return False

    return check
