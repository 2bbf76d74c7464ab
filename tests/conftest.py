"""What the tests stand on: real engines, started once per run, a fresh database per test."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import psutil
import pytest
from hypothesis import HealthCheck, settings
from xdist.scheduler import LoadScopeScheduling

from placeos.local.engines import Engines, running_engines
from placeos.local.secrets import ensure_secrets

# How long an example takes says more about the machine than about the code.
settings.register_profile("no clock", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("no clock")

_TEMPLATE = "template_platform"
_ALONE = ("tests/acceptance/", "tests/chaos/test_chaos.py", "tests/chaos/test_cut.py")
_numbers = itertools.count(1)


class AcceptanceTogether(LoadScopeScheduling):  # type: ignore[misc]
    """Two tests at a time, but those of the whole platform, which come last, one after the other:
    they share it, and what they promise of its speed is promised of a machine of its own."""

    def _split_scope(self, nodeid: str) -> str:
        return "acceptance" if nodeid.startswith(_ALONE) else nodeid


def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> AcceptanceTogether:
    return AcceptanceTogether(config, log)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say which engines the tests with several members ran with: not every machine has all."""
    reports = [one for kind in ("passed", "failed") for one in terminalreporter.getreports(kind)]
    used = {value for one in reports for name, value in one.user_properties if name == "engine"}
    for engine in sorted(map(str, used)):
        terminalreporter.write_line(f"several members: {engine}")


@pytest.fixture(scope="session")
async def engines(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Engines]:
    """PostgreSQL, Redis and etcd."""
    async with running_engines(tmp_path_factory.mktemp("engines"), durable=False) as running:
        yield running


@pytest.fixture(scope="session")
def secrets_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of secrets, as PLACEOS_SECRETS names it."""
    folder = tmp_path_factory.mktemp("secrets")
    ensure_secrets(folder)
    return folder


@pytest.fixture(scope="session")
async def template_database(engines: Engines) -> str:
    """The name of a migrated database, to be copied."""
    from placeos.store import migrate  # only tests with a database need the store

    await _execute(engines, f'create database "{_TEMPLATE}"')
    await asyncio.to_thread(migrate, _url(engines, _TEMPLATE))
    return _TEMPLATE


@pytest.fixture
async def database_url(engines: Engines, template_database: str) -> AsyncIterator[str]:
    """A fresh, migrated database of this test alone."""
    name = f"test_{next(_numbers)}"
    await _execute(engines, f'create database "{name}" template "{template_database}"')
    yield _url(engines, name)
    await _execute(engines, f'drop database "{name}" with (force)')


def _url(engines: Engines, database: str) -> str:
    return urlunsplit(urlsplit(engines.database_url)._replace(path=f"/{database}"))


async def _execute(engines: Engines, statement: str) -> None:
    connection = await asyncpg.connect(engines.database_url)
    try:
        await connection.execute(statement)
    finally:
        await connection.close()


class Platform:
    """One `placeos up` in a process of its own."""

    def __init__(self, data: Path, *arguments: str) -> None:
        self.data = data
        self.ready_file = data.parent / f"{data.name}.ready.json"
        self._arguments = ("--data", str(data), "--ready-file", str(self.ready_file), *arguments)
        self.process: asyncio.subprocess.Process

    async def start(self, *, ready: bool = True) -> Platform:
        """Start it, and wait until it is ready."""
        self.ready_file.unlink(missing_ok=True)  # of one that was killed
        environment = {k: v for k, v in os.environ.items() if not k.startswith("PLACEOS_")}
        self.process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "placeos.cli", "up", *self._arguments),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            env=environment,
        )
        if ready:
            async with asyncio.timeout(90):
                while not self.ready_file.exists():
                    if self.process.returncode is not None:
                        raise AssertionError(await self.output())
                    await asyncio.sleep(0.05)
        return self

    def read(self) -> dict[str, object]:
        """What the ready file says now."""
        return json.loads(self.ready_file.read_text())

    def family(self) -> list[psutil.Process]:
        """All processes below it."""
        return psutil.Process(self.process.pid).children(recursive=True)

    async def interrupt(self, within: float = 30) -> None:
        """Ctrl-C. How quickly it has to end is for one test to say, not for every clean-up."""
        self.process.send_signal(signal.SIGINT)
        await asyncio.wait_for(self.process.wait(), within)

    async def output(self) -> str:
        """All it printed; it has to have ended."""
        assert self.process.stdout is not None
        return (await self.process.stdout.read()).decode()


@pytest.fixture(scope="session")
def platform_type() -> type[Platform]:
    """For tests that keep one platform for several tests."""
    return Platform


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
