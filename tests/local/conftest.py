"""Helpers for tests that start and kill processes."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

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


class Platform:
    """One `placeos up` in a process of its own."""

    def __init__(self, data: Path, *arguments: str) -> None:
        self.data = data
        self.ready_file = data.parent / f"{data.name}.ready.json"
        self._arguments = ("--data", str(data), "--ready-file", str(self.ready_file), *arguments)
        self.process: asyncio.subprocess.Process

    async def start(self, *, ready: bool = True) -> Platform:
        """Start it, and wait until it is ready."""
        environment = {k: v for k, v in os.environ.items() if not k.startswith("PLACEOS_")}
        self.process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "placeos.cli", "up", *self._arguments),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            env=environment,
        )
        if ready:
            await _until(lambda: self.ready_file.exists() or self.process.returncode, 60)
            if self.process.returncode is not None:
                raise AssertionError(await self.output())
        return self

    def read(self) -> dict[str, object]:
        """What the ready file says now."""
        return json.loads(self.ready_file.read_text())

    def family(self) -> list[psutil.Process]:
        """All processes below it."""
        return psutil.Process(self.process.pid).children(recursive=True)

    async def interrupt(self, within: float = 5) -> None:
        """Ctrl-C."""
        self.process.send_signal(signal.SIGINT)
        await asyncio.wait_for(self.process.wait(), within)

    async def output(self) -> str:
        """All it printed; it has to have ended."""
        assert self.process.stdout is not None
        return (await self.process.stdout.read()).decode()


@pytest.fixture
async def placeos_up() -> AsyncIterator[Callable[..., Platform]]:
    """Makes platforms; ends those that a test left running."""
    made: list[Platform] = []

    def make(data: Path, *arguments: str) -> Platform:
        made.append(Platform(data, *arguments))
        return made[-1]

    yield make
    for platform in made:
        if hasattr(platform, "process") and platform.process.returncode is None:
            platform.process.kill()
            await platform.process.wait()
