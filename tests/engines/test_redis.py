"""Redis as it stands in production: password, TLS, Sentinels, fail-overs, demoted masters."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator

import pytest
from authority import Authority
from redis_group import RedisGroup
from servers import running, until
from tls_proxy import tls_proxy

from placeos.config import with_password
from placeos.core.state_writer import StateWriter
from placeos.state import keys
from placeos.state.bindings import Bindings
from placeos.state.client import UNAVAILABLE, connect, on_other_server
from placeos.state.lookups import Lookups

SCRIPT = "return redis.call('SET', KEYS[1], ARGV[1])"


@pytest.fixture
async def lone_redis(tmp_path) -> AsyncIterator[RedisGroup]:
    group = RedisGroup(tmp_path, replicas=0, sentinels=0)
    await group.start()
    yield group
    await group.stop()


@pytest.fixture
async def redis_group(tmp_path) -> AsyncIterator[RedisGroup]:
    group = RedisGroup(tmp_path)
    await group.start()
    yield group
    await group.stop()


def group_url(group: RedisGroup) -> str:
    url = with_password(group.url, group.password)
    return f"{url}&sentinel_password={group.sentinel_password}"


async def works(redis) -> bool:
    try:
        return await redis.set("probe", "1")
    except UNAVAILABLE:
        return False


async def test_tls_and_password(lone_redis, authority, tmp_path, caplog) -> None:
    async with tls_proxy(lone_redis.servers[0].port, authority.server_context()) as port:
        url = with_password(f"rediss://127.0.0.1:{port}/0", lone_redis.password)
        async with connect(f"{url}?ssl_ca_certs={authority.ca}") as redis:
            assert await redis.set("key", "value")
        stranger = Authority(tmp_path / "stranger")
        async with connect(f"{url}?ssl_ca_certs={stranger.ca}") as redis:
            with pytest.raises(UNAVAILABLE):
                await redis.get("key")
    plain = f"redis://127.0.0.1:{lone_redis.servers[0].port}"
    async with connect(with_password(plain, "wrong secret")) as redis:
        with pytest.raises(UNAVAILABLE) as refused:
            await redis.get("key")
    assert "wrong secret" not in f"{refused.value!r} {redis!r} {caplog.text}"


@pytest.mark.parametrize(
    "url",
    ["redis+sentinel://host:1", "redis+sentinel:///name", "http://host", "redis+sentinel://h/a/b"],
)
def test_an_address_that_is_none_is_refused_without_showing_it(url: str) -> None:
    with pytest.raises(ValueError, match=r"Sentinel|scheme"):
        connect(with_password(url, "secret"))


async def test_a_demoted_master_is_left_never_a_crash(lone_redis) -> None:
    server = lone_redis.servers[0]
    url = with_password(f"redis://127.0.0.1:{server.port}", lone_redis.password)
    async with connect(url) as redis:
        await redis.set("key", "1")
        await lone_redis.ask(server, "REPLICAOF", "127.0.0.1", "9")
        for write in (
            lambda: redis.set("key", "2"),
            lambda: redis.eval(SCRIPT, 1, "key", "2"),
            lambda: redis.pipeline(transaction=False).set("key", "2").execute(),
            lambda: redis.pipeline(transaction=True).set("key", "2").set("b", "2").execute(),
        ):
            with pytest.raises(UNAVAILABLE):
                await write()
        await lone_redis.ask(server, "REPLICAOF", "NO", "ONE")
        assert await redis.eval(SCRIPT, 1, "key", "3")
        assert await redis.get("key") == b"3"


async def test_a_script_that_meets_a_demoted_master_leaves_it(lone_redis) -> None:
    """On a connection that stood before: the server does not close it."""
    server = lone_redis.servers[0]
    url = with_password(f"redis://127.0.0.1:{server.port}", lone_redis.password)
    async with connect(url) as redis:
        await redis.set("key", "1")
        told: list[None] = []
        on_other_server(redis, lambda: told.append(None))
        await lone_redis.ask(server, "REPLICAOF", "127.0.0.1", "9")
        write = asyncio.create_task(redis.eval(SCRIPT, 1, "key", "2"))
        with pytest.raises(UNAVAILABLE, match="replica"):  # the second try says so
            await write
        await lone_redis.ask(server, "REPLICAOF", "NO", "ONE")
        assert await redis.eval(SCRIPT, 1, "key", "3")
        assert told  # same process, another history


async def test_a_restart_that_no_command_noticed_is_told(lone_redis) -> None:
    """What was acknowledged is gone; the writer writes all of it again."""
    server = lone_redis.servers[0]
    url = with_password(f"redis://127.0.0.1:{server.port}", lone_redis.password)
    async with connect(url) as redis:
        writer = StateWriter(redis)
        on_other_server(redis, writer.rewrite)
        async with running(writer.run()):
            await writer.inherit("mod-1")
            writer.change("mod-1", [("power", b"true"), ("input", b'"hdmi"')])

            async def stored() -> bool:
                try:
                    found = await lone_redis.ask(server, "HGETALL", keys.status("mod-1"))
                except UNAVAILABLE:
                    return False
                return found == {"power": "true", "input": '"hdmi"'}

            await until(stored)
            server.kill()
            server.start()
            await until(server.listens)
            await writer.inherit("mod-2")
            writer.change("mod-2", [("power", b"false")])
            await until(stored)


async def test_a_fail_over_by_sentinels(redis_group, caplog) -> None:
    """Commands, pipelines, scripts, bindings and the state writer go on at the new master."""
    old, new = redis_group.servers
    async with connect(group_url(redis_group)) as redis, connect(group_url(redis_group)) as core:
        writer = StateWriter(core)
        on_other_server(core, writer.rewrite)
        bindings = Bindings(redis, Lookups(redis))
        async with running(bindings.run(), writer.run()):
            heard: list[bytes] = []
            bindings.bind_module("mod-1", "power", heard.append)
            await writer.inherit("mod-1")
            writer.change("mod-1", [("power", b"1"), ("input", b"7")])
            await until(lambda: heard == [b"1"])
            began = time.monotonic()
            old.kill()
            await until(lambda: works(redis), timeout=30)
            print(f"fail-over after {time.monotonic() - began:.1f} s")
            assert await redis.eval(SCRIPT, 1, "key", "2")
            pipe = redis.pipeline(transaction=True).set("key", "3").get("key")
            assert await pipe.execute() == [True, b"3"]
            # What the old master had acknowledged may be lost: here it certainly is.
            await redis_group.ask(new, "FLUSHALL")
            writer.change("mod-1", [("power", b"2")])
            await until(lambda: heard[-1] == b"2")

            async def complete() -> bool:
                found = await redis_group.ask(new, "HGETALL", keys.status("mod-1"))
                return found == {"power": "2", "input": "7"}

            await until(complete)
    for secret in (redis_group.password, redis_group.sentinel_password):
        assert secret not in caplog.text
        assert secret not in repr(redis.connection_pool)


@pytest.mark.long
async def test_the_old_master_comes_back_as_a_replica(redis_group) -> None:
    """It believes to be master at first; nothing is written to it."""
    old, new = redis_group.servers
    async with connect(group_url(redis_group)) as redis:
        assert await works(redis)
        old.kill()
        await until(lambda: works(redis), timeout=30)
        old.restart()
        await until(lambda: redis_group._in_step(old), timeout=30)
        assert await redis.set("key", "4")
        await until(lambda: redis_group.ask(old, "GET", "key"))
        assert await redis_group.ask(new, "GET", "key") == "4"


@pytest.mark.long
async def test_a_frozen_master_and_a_dead_sentinel(redis_group) -> None:
    old, new = redis_group.servers
    redis_group.sentinels[0].freeze()
    async with connect(group_url(redis_group)) as redis:
        bindings = Bindings(redis, Lookups(redis))
        async with running(bindings.run()):
            heard: list[bytes] = []
            bindings.bind_module("mod-1", "power", heard.append)
            await redis.hset(keys.status("mod-1"), "power", "1")
            await until(lambda: heard == [b"1"])
            old.freeze()
            await until(lambda: works(redis), timeout=60)
            await until(lambda: bindings.is_up, timeout=30)
            await redis.hset(keys.status("mod-1"), "power", "2")
            await redis.publish(keys.status_channel("mod-1", "power"), "2")
            await until(lambda: heard[-1] == b"2", timeout=30)
            old.thaw()
            for number in range(100):
                assert await redis.set("after", str(number))
            assert await redis_group.ask(new, "GET", "after") == "99"
            await until(lambda: redis_group._in_step(old), timeout=60)
            assert await redis.set("after", "the end")
            assert await redis_group.ask(new, "GET", "after") == "the end"
