"""A database of its own for each test."""

from collections.abc import AsyncIterator

import pytest

from placeos.store import Database


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    database = Database(database_url)
    await database.connect()
    yield database
    await database.close()
