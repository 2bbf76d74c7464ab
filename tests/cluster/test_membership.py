"""Registration under a lease, and views written by whoever first sees a difference."""

from __future__ import annotations

import asyncio
import os
import signal

import msgspec
import pytest

from placeos.cluster.etcd import Compacted, Compare, Etcd, EtcdError, Put
from placeos.cluster.registry import Registration, Registry, member_key
from placeos.cluster.view import VIEW_KEY, View
from placeos.local.engines import running_engines


async def view_of(etcd) -> View | None:
    item = await etcd.get(VIEW_KEY)
    return msgspec.json.decode(item.value, type=View) if item else None


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


async def test_a_core_registers_and_writes_the_view(etcd, core, until):
    # Views are counted: none may come from a lease that ended because the machine was busy.
    one = await core("core-1", ttl=60)
    await until(lambda: one.registry.view and one.registry.view.eligible == ("core-1",))
    two = await core("core-2", ttl=60)
    await until(lambda: two.registry.view and len(two.registry.view.members) == 2)
    await until(lambda: one.registry.view == two.registry.view)
    await two.stop()
    await until(lambda: one.registry.view.eligible == ("core-1",))
    assert (await view_of(etcd)).number == 3


async def test_a_killed_core_leaves_the_view_within_its_lease(core, until):
    one = await core("core-1")
    two = await core("core-2")
    await until(lambda: one.registry.view and len(one.registry.view.members) == 2)
    await two.stop(leave=False)
    await until(lambda: one.registry.view.eligible == ("core-1",), 20)


async def test_the_second_of_one_identity_waits(etcd, core, until):
    one = await core("core-1", ttl=60)  # it must not lose its lease while it is waited for
    await one.membership.registered.wait()
    two = await core("core-1")
    await asyncio.sleep(1.5)
    assert not two.membership.registered.is_set()
    await one.stop()
    await until(two.membership.registered.is_set)


async def test_a_proven_successor_replaces_at_once(etcd, core, until):
    one = await core("core-1", ttl=60)
    await until(lambda: one.registry.view)
    await one.stop(leave=False)
    two = await core("core-1", predecessor=one.incarnation)
    await until(two.membership.registered.is_set)  # far sooner than the lease of 60 s ends
    await until(lambda: two.registry.view.members[0].incarnation == two.incarnation)


async def test_a_lost_lease_and_a_lost_key_are_made_again(etcd, core, until):
    one = await core("core-1")
    await one.membership.registered.wait()
    key = member_key("core", "core-1")
    first = await etcd.get(key)
    await etcd.revoke(first.lease)
    async with asyncio.timeout(15):
        while (item := await etcd.get(key)) is None:
            await asyncio.sleep(0.05)
    assert msgspec.json.decode(item.value, type=Registration).incarnation == one.incarnation
    await etcd.delete(key)
    async with asyncio.timeout(15):
        while await etcd.get(key) is None:
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


async def test_a_lost_view_is_written_again_by_who_remembers_it(etcd, core, until):
    one = await core("core-1", ttl=60)
    await until(lambda: one.registry.view)
    before = await view_of(etcd)
    await etcd.delete(VIEW_KEY)
    async with asyncio.timeout(15):
        while await view_of(etcd) is None:
            await asyncio.sleep(0.02)
    assert await view_of(etcd) == before
