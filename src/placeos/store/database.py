"""The connection to PostgreSQL: a bounded pool of asyncpg connections.

Statements are built with SQLAlchemy Core and executed by asyncpg itself: its prepared
statements and binary protocol make a read of one record several times cheaper than through
SQLAlchemy's own engine.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import asyncpg
import msgspec
from sqlalchemy import ClauseElement, select
from sqlalchemy.dialects.postgresql.asyncpg import dialect as _dialect_class

from placeos.model.rules import Entity
from placeos.store import rows
from placeos.store.connecting import Primary
from placeos.store.errors import Unavailable, translated
from placeos.store.pool import Pool
from placeos.store.tables import TABLES, sets

E = TypeVar("E", bound=Entity)
Record = asyncpg.Record
Statement = ClauseElement | str

ACQUIRE_TIMEOUT = 5.0  # seconds to wait for a connection of the pool
COMMAND_TIMEOUT = 10.0  # seconds a statement may take

_dialect = _dialect_class()  # type: ignore[no-untyped-call]
_json_encode = msgspec.json.encode


def render(statement: Statement) -> tuple[str, list[Any]]:
    """SQL with `$1` parameters, and their values. A string is passed as it is."""
    if isinstance(statement, str):
        return statement, []
    compiled = statement.compile(dialect=_dialect, compile_kwargs={"render_postcompile": True})
    names = getattr(compiled, "positiontup", None) or []
    return compiled.string, [compiled.params[name] for name in names]


class Session:
    """One connection inside a transaction."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection

    async def fetch(self, statement: Statement, *args: Any) -> list[Record]:
        """All rows of a statement; `args` are the parameters of an SQL string."""
        sql, values = render(statement)
        rows: list[Record] = await self._connection.fetch(sql, *values, *args)
        return rows

    async def fetch_row(self, statement: Statement, *args: Any) -> Record | None:
        """The first row, or None."""
        sql, values = render(statement)
        row: Record | None = await self._connection.fetchrow(sql, *values, *args)
        return row

    async def execute(self, statement: Statement, *args: Any) -> None:
        """Run a statement for its effect."""
        sql, values = render(statement)
        await self._connection.execute(sql, *values, *args)

    async def get(self, kind: type[E], id: str, *, lock: bool = False) -> E | None:
        """One record, locked until the end of the transaction if wanted."""
        query = rows.one_query(kind) + (" FOR UPDATE" if lock else "")
        record = await self._connection.fetchrow(query, id)
        return None if record is None else rows.load(kind, record)


class Database:
    """A pool of connections. Nothing is connected before the first statement; a lost server
    makes statements raise Unavailable and is found again by the next one, as is the primary
    after a fail-over where the address names several servers."""

    def __init__(self, database_url: str, *, size: int = 10) -> None:
        self._primary = Primary(database_url)
        self._size = size
        self._open_pool: Pool | None = None

    async def connect(self) -> None:
        """Open the pool."""
        self._open_pool = Pool(self._connect, size=self._size, timeout=ACQUIRE_TIMEOUT)

    async def close(self) -> None:
        """Close all connections; statements still running are cut off."""
        if self._open_pool is not None:
            self._open_pool.close()
            self._open_pool = None

    async def fetch(self, statement: Statement, *args: Any) -> list[Record]:
        """All rows of one statement; `args` are the parameters of an SQL string."""
        sql, values = render(statement)
        with translated():
            return await self._pool.fetch(sql, *values, *args)

    async def fetch_row(self, statement: Statement, *args: Any) -> Record | None:
        """The first row of one statement, or None."""
        sql, values = render(statement)
        with translated():
            row: Record | None = await self._pool.fetch_row(sql, *values, *args)
            return row

    async def execute(self, statement: Statement, *args: Any) -> None:
        """Run one statement for its effect."""
        await self.fetch(statement, *args)

    async def get(self, kind: type[E], id: str) -> E | None:
        """One record by its id."""
        with translated():
            record = await self._pool.fetch_row(rows.one_query(kind), id)
        return None if record is None else rows.load(kind, record)

    async def all(self, kind: type[E]) -> list[E]:
        """Every record of a kind, by id. Of settings only the masters, not their history."""
        table = TABLES[kind]
        query = select(*rows.columns(kind)).order_by(table.c.id)
        if table is sets:
            query = query.where(sets.c.settings_id.is_(None))
        return [rows.load(kind, record) for record in await self.fetch(query)]

    async def some(self, kind: type[E], ids: Sequence[str]) -> list[E]:
        """The records that exist among `ids`, in the order of `ids`."""
        if not ids:
            return []
        found = {
            record["id"]: rows.load(kind, record)
            for record in await self.fetch(rows.some_query(kind), list(ids))
        }
        return [found[id] for id in dict.fromkeys(ids) if id in found]

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Session]:
        """A transaction: committed at the end of the block, rolled back by an exception."""
        with translated():
            async with self._pool.connection() as connection:
                transaction = connection.transaction()
                await transaction.start()
                try:
                    yield Session(connection)
                except Exception:
                    await transaction.rollback()
                    raise
                await transaction.commit()

    @property
    def _pool(self) -> Pool:
        if self._open_pool is None:
            raise Unavailable("the database is not connected")
        return self._open_pool

    async def _connect(self) -> Any:
        connection = await self._primary.connect(
            timeout=ACQUIRE_TIMEOUT, command_timeout=COMMAND_TIMEOUT
        )
        await connection.set_type_codec(
            "jsonb",
            schema="pg_catalog",
            encoder=lambda value: b"\x01" + _json_encode(value),
            decoder=lambda data: msgspec.json.decode(data[1:]),
            format="binary",
        )
        return connection
