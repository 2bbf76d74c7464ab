"""Registration of plain services under a lease; what the registry makes of the keys."""

from __future__ import annotations

import asyncio
import os
import signal

import msgspec
import pytest
from taking_part import holds

from placeos.cluster.etcd import Compacted, Compare, Etcd, EtcdError, Put
from placeos.cluster.membership import Membership
from placeos.cluster.registry import Registration, Registry, member_key
from placeos.local.engines import running_engines

KEY = member_key("api", "api-1")


async def test_transactions_and_leases(etcd):
    assert await etcd.txn([Compare("placeos/t", "create", 0)], [Put("placeos/t", b"1")])
    assert not await etcd.txn([Compare("placeos/t", "create", 0)], [Put("placeos/t", b"2")])
    item = await etcd.get("placeos/t")
    assert item.value == b"1"
    assert await etcd.txn(
        [Compare("placeos/t", "mod", item.mod_revision)], [Put("placeos/t", b"3")]
    )
    lease = await etcd.grant(5)
    assert await etcd.keep_alive(lease) == 5
    await etcd.revoke(lease)
    assert await etcd.keep_alive(lease) == 0


async def test_another_endpoint_is_tried(engines):
    async with Etcd(["http://127.0.0.1:9", *engines.etcd_endpoints]) as etcd:
        await etcd.list("placeos/")
    async with Etcd(["http://127.0.0.1:9"]) as nobody:
        with pytest.raises(EtcdError):
            await nobody.list("placeos/")


async def test_a_watch_delivers_and_reports_compaction(etcd):
    start = (await etcd.list("placeos/")).revision
    await etcd.txn([], [Put("placeos/a", b"1")])
    await etcd.txn([], [Put("placeos/a", b"2")])
    await etcd.delete("placeos/a")
    seen = []
    async with asyncio.timeout(5):
        async for changes in etcd.watch("placeos/", start + 1):
            seen += [event.item.value if event.item else None for event in changes.events]
            if len(seen) == 3:
                break
    assert seen == [b"1", b"2", None]
    now = (await etcd.list("placeos/")).revision
    await etcd._gateway.post("/v3/kv/compaction", {"revision": str(now)})
    with pytest.raises(Compacted):
        async for _ in etcd.watch("placeos/", start + 1):
            pass


@pytest.fixture
async def service(etcd):
    """Makes and runs plain instances of a service."""
    tasks = []

    def start(incarnation: str, ttl: int = 60) -> Membership:
        made = Membership(
            etcd,
            service="api",
            identity="api-1",
            registration=Registration(incarnation, "h:1"),
            ttl=ttl,
        )
        tasks.append((made, asyncio.create_task(made.run())))
        return made

    async def stop(one: Membership) -> None:
        for made, task in tasks:
            if made is one:
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)

    start.stop = stop
    yield start
    for made, _ in tasks:
        await stop(made)


async def test_the_second_of_one_identity_waits_for_the_first_to_leave(service, etcd, until):
    one = service("a")
    await one.registered.wait()
    two = service("b", ttl=3)
    await holds(lambda: not two.registered.is_set(), 1.5)
    await service.stop(one)
    await until(two.registered.is_set)
    item = await etcd.get(KEY)
    assert msgspec.json.decode(item.value, type=Registration).incarnation == "b"
    assert item.lease == two.lease


async def test_who_ends_takes_its_registration_along(service, etcd):
    one = service("a")
    await one.registered.wait()
    await service.stop(one)
    assert await etcd.get(KEY) is None


async def test_a_lost_lease_and_a_lost_key_are_made_again(service, etcd):
    one = service("a", ttl=3)
    await one.registered.wait()
    await etcd.revoke((await etcd.get(KEY)).lease)
    async with asyncio.timeout(15):
        while (item := await etcd.get(KEY)) is None:
            await asyncio.sleep(0.05)
    assert msgspec.json.decode(item.value, type=Registration).incarnation == "a"
    await etcd.delete(KEY)
    async with asyncio.timeout(15):
        while await etcd.get(KEY) is None:
            await asyncio.sleep(0.05)


async def test_the_registry_keeps_what_it_knew_while_etcd_is_away(tmp_path, until):
    async with (
        running_engines(tmp_path, postgres=False, redis=False, durable=False) as engines,
        Etcd(engines.etcd_endpoints) as etcd,
    ):
        registration = msgspec.json.encode(Registration("i1", "h:1"))
        await etcd.txn([], [Put(member_key("core", "core-1"), registration)])
        registry = Registry(etcd)
        task = asyncio.create_task(registry.run())
        await until(lambda: registry.nodes("core"))
        pid = engines.pids["etcd"]
        os.kill(pid, signal.SIGKILL)
        await until(lambda: engines.pids.get("etcd") not in (pid, None), 20)
        assert registry.nodes("core")

        async def put() -> bool:
            try:
                return await etcd.txn([], [Put(member_key("core", "core-2"), registration)])
            except EtcdError:
                return False

        async with asyncio.timeout(20):
            while not await put():
                await asyncio.sleep(0.1)
        await until(lambda: len(registry.nodes("core")) == 2, 15)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
