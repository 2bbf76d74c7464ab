"""Lookup tables: read through, remembered while announcements arrive, kept while Redis is away."""

from __future__ import annotations

import asyncio

import pytest

from placeos.state import keys
from placeos.state.bindings import Bindings
from placeos.state.client import StateUnavailable
from placeos.state.lookups import Lookups


async def test_without_announcements_each_question_reads(redis):
    lookups = Lookups(redis)
    assert await lookups.resolve("sys-1", "Display", 1) is None
    await redis.hset(keys.system("sys-1"), "Display/1", "mod-1")
    assert await lookups.resolve("sys-1", "Display", 1) == "mod-1"
    assert lookups.known("sys-1") is None


async def test_remembered_and_renewed_by_announcements(redis, until):
    lookups = Lookups(redis)
    bindings = Bindings(redis, lookups)
    task = asyncio.create_task(bindings.run())
    await redis.hset(keys.system("sys-1"), "Display/1", "mod-1")

    async def known() -> dict[str, str]:
        async with asyncio.timeout(5):
            while lookups.known("sys-1") is None:
                await lookups.modules("sys-1")
                await asyncio.sleep(0.01)
        return dict(lookups.known("sys-1") or {})

    assert await known() == {"Display/1": "mod-1"}
    await redis.hset(keys.system("sys-1"), "Display/1", "mod-2")
    await redis.publish(keys.LOOKUP_CHANGE, "sys-1")
    await until(lambda: lookups.known("sys-1") is None)
    assert await lookups.resolve("sys-1", "Display", 1) == "mod-2"
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_an_empty_table_is_not_believed_while_nothing_is_followed(redis, monkeypatch):
    """Commands may reach a Redis that came back empty before announcements arrive again."""
    monkeypatch.setattr("placeos.state.lookups.GRACE", 0.0)
    lookups = Lookups(redis)
    lookups.follow()
    await redis.hset(keys.system("sys-1"), "Display/1", "mod-1")
    lookups.invalidate("sys-1")
    assert await lookups.resolve("sys-1", "Display", 1) == "mod-1"
    lookups.unfollow()
    await redis.flushdb()
    assert await lookups.resolve("sys-1", "Display", 1) == "mod-1"
    lookups.follow()  # and with it the time after which empty means empty
    assert await lookups.resolve("sys-1", "Display", 1) is None


async def test_memory_serves_while_redis_is_away_and_just_after(redis_server, redis, until):
    lookups = Lookups(redis)
    bindings = Bindings(redis, lookups)
    task = asyncio.create_task(bindings.run())
    await until(lambda: bindings.is_up)
    await redis.hset(keys.system("sys-1"), "Display/1", "mod-1")
    async with asyncio.timeout(5):
        while lookups.known("sys-1") is None:  # what is read while following begins does not count
            assert await lookups.resolve("sys-1", "Display", 1) == "mod-1"
            await asyncio.sleep(0.01)
    redis_server.kill()
    await until(lambda: not bindings.is_up)
    assert await lookups.resolve("sys-1", "Display", 1) == "mod-1"
    with pytest.raises(StateUnavailable):
        await lookups.resolve("sys-unknown", "Display", 1)
    await redis_server.start()
    await until(lambda: bindings.is_up)
    # Redis came back empty: until the core wrote its tables again, memory serves.
    assert await lookups.resolve("sys-1", "Display", 1) == "mod-1"
    await redis.publish(keys.LOOKUP_CHANGE, "sys-1")

    async with asyncio.timeout(5):
        while await lookups.resolve("sys-1", "Display", 1) is not None:
            await asyncio.sleep(0.01)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
