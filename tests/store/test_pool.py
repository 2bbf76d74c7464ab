"""The pool, against a real server: bounded, fair, and never handing on what is broken."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import pytest

from placeos.store.pool import Pool, PoolError


@pytest.fixture
async def pool(database_url: str) -> AsyncIterator[Pool]:
    # Two tests wait for these times to pass; no other may meet them on a busy machine.
    pool = Pool(lambda: asyncpg.connect(database_url, command_timeout=4), size=2, timeout=4)
    yield pool
    pool.close()


async def pid(pool: Pool) -> int:
    found: int = (await pool.fetch_row("SELECT pg_backend_pid()"))[0]
    return found


async def test_connections_are_reused_and_bounded(pool: Pool) -> None:
    assert await pid(pool) == await pid(pool)
    pids = await asyncio.gather(*(pid(pool) for _ in range(50)))
    assert len(set(pids)) <= 2


async def test_waiting_has_an_end(pool: Pool) -> None:
    async with pool.connection(), pool.connection():
        with pytest.raises(PoolError, match="became free within 4 s"):
            await pid(pool)
    assert await pid(pool)


async def test_errors_of_the_server_and_of_the_caller_keep_the_connection(pool: Pool) -> None:
    first = await pid(pool)
    with pytest.raises(asyncpg.PostgresError):
        await pool.fetch_row("SELECT 1 / 0")
    with pytest.raises(LookupError):
        async with pool.connection():
            raise LookupError
    assert await pid(pool) == first


async def test_what_is_cancelled_late_or_lost_is_dropped(pool: Pool) -> None:
    first = await pid(pool)
    task = asyncio.create_task(pool.fetch_row("SELECT pg_sleep(20)"))
    await asyncio.sleep(0.1)  # it is running
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    second = await pid(pool)
    assert second != first
    with pytest.raises(TimeoutError):
        await pool.fetch_row("SELECT pg_sleep(20)")
    third = await pid(pool)
    assert third != second
    with pytest.raises((asyncpg.PostgresError, asyncpg.InterfaceError)):
        await pool.fetch_row("SELECT pg_terminate_backend(pg_backend_pid())")
    assert await pid(pool) not in (first, second, third)


async def test_an_open_transaction_is_not_handed_on(pool: Pool) -> None:
    async with pool.connection() as connection:
        first = connection.get_server_pid()
        await connection.transaction().start()
    assert await pid(pool) != first


async def test_those_who_give_up_pass_their_turn_on(pool: Pool) -> None:
    async def hold(seconds: float) -> None:
        async with pool.connection():
            await asyncio.sleep(seconds)

    holding = [asyncio.create_task(hold(0.2)) for _ in range(2)]
    await asyncio.sleep(0.1)
    waiting = [asyncio.create_task(pid(pool)) for _ in range(20)]
    await asyncio.sleep(0)
    for task in waiting[::2]:
        task.cancel()
    results: list[Any] = await asyncio.gather(*waiting, return_exceptions=True)
    assert all(isinstance(result, int) for result in results[1::2])
    await asyncio.gather(*holding)


async def test_a_server_that_refuses(tmp_path: object) -> None:
    pool = Pool(lambda: asyncpg.connect(host=str(tmp_path), timeout=1), size=1, timeout=1)
    for _ in range(3):
        with pytest.raises(OSError, match=r".+"):
            await pool.fetch_row("SELECT 1")
    pool.close()
    with pytest.raises(PoolError, match="closed"):
        await pool.fetch_row("SELECT 1")
