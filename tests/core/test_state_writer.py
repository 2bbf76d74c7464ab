"""Live state reaches Redis in batches, in order, and again after Redis lost it."""

from __future__ import annotations

import asyncio

import pytest
from msgspec import Raw

from placeos.core.state_writer import BATCH, COALESCE, StateWriter
from placeos.state import keys


@pytest.fixture
async def writer(redis):
    made = StateWriter(redis)
    task = asyncio.create_task(made.run())
    yield made
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


def change(writer: StateWriter, module: str, **values: bytes) -> None:
    writer.change(module, [(key, Raw(value)) for key, value in values.items()])


async def subscribed(redis, channel: str):
    """A subscription that stands: what is published from now on arrives."""
    pubsub = redis.pubsub()
    await pubsub.subscribe(channel)
    assert (await following(pubsub))["type"] == "subscribe"
    return pubsub


async def following(pubsub) -> dict[str, object]:
    """The next message, however long it takes."""
    async with asyncio.timeout(20):
        while (message := await pubsub.get_message(timeout=1)) is None:
            pass
    return message


async def stored(redis, module: str) -> dict[bytes, bytes]:
    return await redis.hgetall(keys.status(module))


async def test_changes_are_written_and_published_in_order(writer, redis, until):
    pubsub = await subscribed(redis, keys.status_channel("mod-1", "n"))
    for number in (b"1", b"2", b"2", b"null"):
        change(writer, "mod-1", n=number)
    change(writer, "mod-1", other=b'"x"')
    seen = [(await following(pubsub))["data"] for _ in range(4)]
    assert seen == [b"1", b"2", b"2", b"null"]

    async def written() -> bool:
        return await stored(redis, "mod-1") == {b"other": b'"x"'}

    await until(written)
    await pubsub.aclose()


async def test_a_module_inherits_what_redis_holds(writer, redis):
    await redis.hset(keys.status("mod-1"), "power", "true")
    assert await writer.inherit("mod-1") == {"power": b"true"}
    change(writer, "mod-1", power=b"false")
    assert await writer.inherit("mod-1") == {"power": b"false"}
    assert writer.value("mod-1", "power") == b"false"


async def test_what_redis_lost_is_written_again(writer, redis, until):
    await writer.inherit("mod-1")
    change(writer, "mod-1", a=b"1", b=b"2")
    writer.interface("mod-1", b"{}")
    await until(lambda: redis.exists(keys.interface("mod-1")))
    await redis.flushdb()
    await redis.hset(keys.status("mod-1"), "stale", "1")
    writer.rewrite()

    async def whole() -> bool:
        return await stored(redis, "mod-1") == {b"a": b"1", b"b": b"2"}

    await until(whole)
    assert await until(lambda: redis.get(keys.interface("mod-1"))) == b"{}"


async def test_a_flood_keeps_the_newest_of_each_key(writer, redis, until):
    for number in range(COALESCE * 5):
        change(writer, "mod-1", **{f"k{number % 10}": str(number).encode()})
    many = {f"k{number}": str(number).encode() for number in range(COALESCE * 2)}
    change(writer, "mod-2", **many)

    async def last() -> bool:
        one = await stored(redis, "mod-1")
        two = await stored(redis, "mod-2")
        return one.get(b"k9") == str(COALESCE * 5 - 1).encode() and len(two) == len(many)

    await until(last)


async def test_removal_leaves_nothing_and_says_so(writer, redis, until):
    await writer.inherit("mod-1")
    change(writer, "mod-1", a=b"1")
    writer.interface("mod-1", b"{}")
    await until(lambda: redis.exists(keys.interface("mod-1")))
    pubsub = await subscribed(redis, keys.status_channel("mod-1", "a"))
    writer.remove("mod-1")
    assert (await following(pubsub))["data"] == b"null"
    assert not await redis.exists(keys.status("mod-1"), keys.interface("mod-1"))
    await pubsub.aclose()


async def test_what_waited_when_its_module_was_removed_is_not_written_later(writer, redis, until):
    """Many modules say goodbye and are removed at once: more than one batch holds."""
    many = [f"mod-{number}" for number in range(BATCH * 2)]
    for module in many:
        change(writer, module, connected=b"false")
    for module in reversed(many):
        writer.remove(module)
    change(writer, "mod-last", connected=b"true")
    await until(lambda: redis.exists(keys.status("mod-last")))
    await writer.flush(20)
    assert not await redis.exists(*(keys.status(module) for module in many))


async def test_a_module_cannot_fill_the_memory(writer, redis, until):
    """Whatever its driver sends: values, keys and texts have an end."""
    large = Raw(b'"' + b"x" * (900 * 1024) + b'"')
    assert writer.change("mod-1", [("huge", Raw(b'"' + b"x" * (2 << 20) + b'"'))]) == 1
    assert writer.change("mod-1", [(f"k{number}", large) for number in range(20)]) == 11
    assert writer.change("mod-1", [("k1", Raw(b"1")), ("connected", Raw(b"false"))]) == 0
    for number in range(100):
        change(writer, "mod-2", one=b'"' + str(number).encode() * (300 * 1024) + b'"')
    change(writer, "mod-2", one=b'"last"')
    for _ in range(100):
        writer.publish("news", "x" * (1 << 20))

    async def last() -> bool:
        two = await stored(redis, "mod-2")
        return two == {b"one": b'"last"'} and len(await stored(redis, "mod-1")) == 10

    await until(last)


async def test_no_more_is_inherited_than_a_module_can_start_with(writer, redis):
    for number in range(20):
        await redis.hset(keys.status("mod-1"), f"k{number}", b'"' + b"x" * (1 << 20) + b'"')
    found = await writer.inherit("mod-1")
    assert 5 < sum(map(len, found.values())) >> 20 < 9
