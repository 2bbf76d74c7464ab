"""The store against a real PostgreSQL."""

from __future__ import annotations

import asyncio

from sqlalchemy import pool
from sqlalchemy.ext.asyncio import create_async_engine

from placeos.model.authority import Authority
from placeos.model.rules import fields
from placeos.model.system import System
from placeos.store import ChangeFeed, Database, migrate
from placeos.store.migrating import alembic_config
from placeos.store.tables import TABLES, metadata, refresh_token


def test_tables_hold_every_field_of_the_model() -> None:
    for kind, table in TABLES.items():
        assert set(fields(kind)) == {column.name for column in table.c} - {"search"}


async def test_migrations_and_tables_agree(database_url: str) -> None:
    import asyncpg
    from alembic.autogenerate import compare_metadata
    from alembic.migration import MigrationContext

    engine = create_async_engine(
        "postgresql+asyncpg://",
        async_creator=lambda: asyncpg.connect(database_url),
        poolclass=pool.NullPool,
    )

    def columns_that_differ(connection: object) -> list[object]:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        found = compare_metadata(context, metadata)
        # indexes and constraint names are the migrations' own matter
        return [
            difference
            for difference in found
            if not (
                isinstance(difference, tuple)
                and difference[0].endswith(("_index", "_constraint", "_fk"))
            )
        ]

    async with engine.connect() as connection:
        assert await connection.run_sync(columns_that_differ) == []
    await engine.dispose()


async def test_migrating_twice_at_once_is_harmless(database_url: str) -> None:
    await asyncio.gather(*(asyncio.to_thread(migrate, database_url) for _ in range(2)))
    migrate(database_url)  # from inside a running loop
    assert alembic_config().get_main_option("script_location")


async def test_a_change_is_fed(database: Database, database_url: str) -> None:
    changes: asyncio.Queue[tuple[str, str]] = asyncio.Queue()
    resynced = asyncio.Event()
    feed = ChangeFeed(database_url, lambda table, id: changes.put_nowait((table, id)), resynced.set)
    task = asyncio.create_task(feed.run())
    try:
        await asyncio.wait_for(resynced.wait(), 20)
        statement = (
            TABLES[Authority]
            .insert()
            .values(
                id="authority-1",
                created_at=1,
                updated_at=1,
                name="A",
                description="",
                domain="a",
                login_url="",
                logout_url="",
                internals={},
                config={"x": [1, None]},
                email_domains=[],
            )
        )
        await database.execute(statement)
        assert await asyncio.wait_for(changes.get(), 20) == ("authority", "authority-1")
        [found] = await database.all(Authority)
        assert found.config == {"x": [1, None]}
        resynced.clear()
        await database.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE pid <> pg_backend_pid() AND datname = current_database()"
        )
        await asyncio.wait_for(resynced.wait(), 20)
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    assert await database.all(System) == []
    assert refresh_token.c.keys()
