"""Bring a database to the schema of this version."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from alembic import command
from alembic.config import Config
from sqlalchemy import Connection, pool, text
from sqlalchemy.ext.asyncio import create_async_engine

from placeos.store.connecting import Primary

_ADVISORY_LOCK = 7_106_821  # any number, the same in every process that migrates
_one_at_a_time = threading.Lock()  # Alembic's environment is global


def upgrade(database_url: str, revision: str) -> None:
    """What `placeos.store.migrate` does."""
    with _one_at_a_time, ThreadPoolExecutor(1, "migrate") as executor:
        executor.submit(asyncio.run, _upgrade(database_url, revision)).result()


def alembic_config(connection: Connection | None = None) -> Config:
    """The configuration of Alembic, for this package's migrations."""
    config = Config()
    config.set_main_option("script_location", _escaped(Path(__file__).parent / "migrations"))
    config.attributes["connection"] = connection
    return config


async def _upgrade(database_url: str, revision: str) -> None:
    async def connect() -> Any:
        return await Primary(database_url).connect(timeout=30)

    engine = create_async_engine(
        "postgresql+asyncpg://", async_creator=connect, poolclass=pool.NullPool
    )
    async with engine.begin() as connection:
        await connection.execute(text(f"SELECT pg_advisory_xact_lock({_ADVISORY_LOCK})"))
        await connection.run_sync(lambda sync: command.upgrade(alembic_config(sync), revision))
    await engine.dispose()


def _escaped(path: Path) -> str:
    return str(path).replace("%", "%%")
