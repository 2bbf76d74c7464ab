"""What a bound listener sees: the present value, every change, remaps, and losses of Redis."""

from __future__ import annotations

import asyncio

import pytest

from placeos.state import keys


async def put(redis, module: str, key: str, value: bytes) -> None:
    """What a core does for each change."""
    async with redis.pipeline(transaction=False) as pipe:
        if value == b"null":
            pipe.hdel(keys.status(module), key)
        else:
            pipe.hset(keys.status(module), key, value)
        pipe.publish(keys.status_channel(module, key), value)
        await pipe.execute()


async def remap(redis, system: str, table: dict[str, str]) -> None:
    async with redis.pipeline(transaction=True) as pipe:
        pipe.delete(keys.system(system))
        if table:
            pipe.hset(keys.system(system), mapping=table)
        pipe.publish(keys.LOOKUP_CHANGE, system)
        await pipe.execute()


async def test_current_value_comes_once_then_every_change(redis, bindings, until):
    await put(redis, "mod-1", "power", b"false")
    seen: list[bytes] = []
    bindings.bind_module("mod-1", "power", seen.append)
    await until(lambda: seen == [b"false"])
    for value in (b"true", b"true", b"null"):
        await put(redis, "mod-1", "power", value)
    await until(lambda: seen == [b"false", b"true", b"true", b"null"])


async def test_no_value_yet_means_nothing_until_one_is_set(redis, bindings, until):
    seen: list[bytes] = []
    marker: list[bytes] = []
    await put(redis, "mod-1", "other", b"1")
    bindings.bind_module("mod-1", "power", seen.append)
    bindings.bind_module("mod-1", "other", marker.append)
    await until(lambda: marker)
    assert seen == []
    await put(redis, "mod-1", "power", b"1")
    await until(lambda: seen == [b"1"])


async def test_many_bindings_of_one_key_share_one_subscription(redis, bindings, until):
    await put(redis, "mod-1", "power", b"1")
    seen: list[list[bytes]] = [[] for _ in range(50)]
    bound = [bindings.bind_module("mod-1", "power", one.append) for one in seen]
    await until(lambda: all(one == [b"1"] for one in seen))
    late: list[bytes] = []
    bindings.bind_module("mod-1", "power", late.append)
    await until(lambda: late == [b"1"])
    numbers = await redis.pubsub_numsub(keys.status_channel("mod-1", "power"))
    assert numbers[0][1] == 1
    for one in bound:
        one.close()
        one.close()
    await put(redis, "mod-1", "power", b"2")
    await until(lambda: late == [b"1", b"2"])
    assert all(one == [b"1"] for one in seen)


async def test_the_last_close_ends_the_subscription(redis, bindings, until):
    await put(redis, "mod-1", "power", b"1")
    for round_ in range(20):  # close and bind in one turn must not lose the subscription
        seen: list[bytes] = []
        binding = bindings.bind_module("mod-1", "power", seen.append)
        if round_ % 2:
            await until(lambda seen=seen: seen)
        binding.close()
    seen = []
    binding = bindings.bind_module("mod-1", "power", seen.append)
    await until(lambda: seen)
    await put(redis, "mod-1", "power", b"2")
    await until(lambda: seen[-1] == b"2")
    binding.close()

    channel = keys.status_channel("mod-1", "power")
    async with asyncio.timeout(5):
        while (await redis.pubsub_numsub(channel))[0][1]:
            await asyncio.sleep(0.01)


async def test_a_binding_follows_its_place_through_remaps(redis, bindings, until):
    await put(redis, "mod-1", "power", b"1")
    await put(redis, "mod-2", "power", b"2")
    seen: list[bytes] = []
    bindings.bind("sys-1", "Display", 1, "power", seen.append)
    await remap(redis, "sys-1", {"Display/1": "mod-1"})
    await until(lambda: seen == [b"1"])
    await remap(redis, "sys-1", {"Display/1": "mod-2", "Display/2": "mod-1"})
    await until(lambda: seen == [b"1", b"2"])
    await remap(redis, "sys-1", {"Display/1": "mod-2"})  # unchanged: nothing is sent
    await put(redis, "mod-1", "power", b"10")  # no longer followed
    await put(redis, "mod-2", "power", b"20")
    await until(lambda: seen == [b"1", b"2", b"20"])
    await remap(redis, "sys-1", {})
    await put(redis, "mod-2", "power", b"21")
    await remap(redis, "sys-1", {"Display/1": "mod-1"})
    await until(lambda: seen[-1] == b"10")
    assert b"21" not in seen[4:]


async def test_monitor_text(redis, bindings, until):
    seen: list[str] = []
    bindings.monitor("staff/event/changed", seen.append)
    channel = keys.channel("staff/event/changed")
    async with asyncio.timeout(5):
        while not (await redis.pubsub_numsub(channel))[0][1]:
            await asyncio.sleep(0.01)
    await redis.publish(channel, "hällo")
    await until(lambda: seen == ["hällo"])


async def test_a_failing_listener_harms_nobody(redis, bindings, until):
    def broken(value: bytes) -> None:
        raise ValueError(value)

    seen: list[bytes] = []
    bindings.bind_module("mod-1", "power", broken)
    bindings.bind_module("mod-1", "power", seen.append)
    await put(redis, "mod-1", "power", b"1")
    await until(lambda: seen and seen[-1] == b"1")


async def test_after_a_restart_the_last_value_arrives(redis_server, redis, bindings, until):
    await put(redis, "mod-1", "power", b"1")
    await put(redis, "mod-1", "level", b"5")
    await remap(redis, "sys-1", {"Display/1": "mod-1"})
    power: list[bytes] = []
    level: list[bytes] = []
    bindings.bind("sys-1", "Display", 1, "power", power.append)
    bindings.bind("sys-1", "Display", 1, "level", level.append)
    await until(lambda: power and level)
    redis_server.kill()
    await until(lambda: not bindings.is_up)
    late: list[bytes] = []
    bindings.bind_module("mod-1", "input", late.append)
    await redis_server.start()
    await put(redis, "mod-1", "power", b"2")
    await put(redis, "mod-1", "level", b"5")
    await put(redis, "mod-1", "input", b'"hdmi"')
    # what is written just as it is read may be told twice
    await until(lambda: power[-1] == b"2" and set(late) == {b'"hdmi"'})
    assert b"null" not in power
    await put(redis, "mod-1", "power", b"3")
    await until(lambda: power[-1] == b"3")
    assert set(level) == {b"5"}


async def test_what_redis_lost_for_good_becomes_null(redis_server, redis, bindings, until):
    await put(redis, "mod-1", "power", b"1")
    seen: list[bytes] = []
    bindings.bind_module("mod-1", "power", seen.append)
    await until(lambda: seen == [b"1"])
    redis_server.kill()
    await until(lambda: not bindings.is_up)
    await redis_server.start()
    await until(lambda: seen == [b"1", b"null"])


async def test_a_frozen_redis_is_noticed(redis_server, redis, bindings, until):
    seen: list[bytes] = []
    await put(redis, "mod-1", "power", b"1")
    bindings.bind_module("mod-1", "power", seen.append)
    await until(lambda: seen == [b"1"])
    redis_server.freeze()
    try:
        await until(lambda: not bindings.is_up, 15)
    finally:
        redis_server.thaw()
    await put(redis, "mod-1", "power", b"2")
    await until(lambda: seen[-1] == b"2")


async def test_a_flood_ends_with_the_last_value(redis, bindings, until):
    seen: list[bytes] = []
    bindings.bind_module("mod-1", "n", seen.append)
    async with redis.pipeline(transaction=False) as pipe:
        for number in range(5000):
            pipe.hset(keys.status("mod-1"), "n", number)
            pipe.publish(keys.status_channel("mod-1", "n"), number)
        await pipe.execute()
    await until(lambda: seen and seen[-1] == b"4999")


@pytest.mark.parametrize("count", [1200])
async def test_more_bindings_than_one_command_holds(redis, bindings, until, count):
    async with redis.pipeline(transaction=False) as pipe:
        for number in range(count):
            pipe.hset(keys.status(f"mod-{number}"), "n", number)
        await pipe.execute()
    seen: dict[int, bytes] = {}
    for number in range(count):
        bindings.bind_module(f"mod-{number}", "n", lambda value, n=number: seen.update({n: value}))
    await until(lambda: len(seen) == count)
    assert all(seen[number] == str(number).encode() for number in range(count))
