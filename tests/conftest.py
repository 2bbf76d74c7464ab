"""What the tests stand on: real engines, started once per run, a fresh database per test."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import pytest

from placeos.local.engines import Engines, running_engines
from placeos.local.secrets import ensure_secrets

_TEMPLATE = "template_platform"
_numbers = itertools.count(1)


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
