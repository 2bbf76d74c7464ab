"""Three members of etcd: each killed, each frozen, the leader moved, data compacted."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager, suppress

import pytest
from aiohttp import ClientSession, web
from etcd_cluster import EtcdCluster, Member
from servers import running, until

from placeos.cluster.etcd import (
    ATTEMPT,
    Changes,
    Compare,
    Delete,
    Etcd,
    EtcdAccess,
    EtcdError,
    Get,
    Listing,
    Put,
)

TTL = 5  # seconds
EVERY = TTL / 4


class Renewer:
    """Renews a lease as a node does; notes how long each took and what failed."""

    def __init__(self, etcd: Etcd, lease: int) -> None:
        self._etcd = etcd
        self._lease = lease
        self.renewed = 0.0  # send time of the last that counted, monotonic
        self.longest = 0.0
        self.count = 0
        self.failures: list[str] = []
        self.lost: list[str] = []

    async def run(self) -> None:
        while True:
            asked = time.monotonic()
            try:
                renewal = await self._etcd.renew(self._lease, "t/")
            except EtcdError as error:
                self.failures.append(str(error))
            else:
                if not renewal.ttl or not any(kv.key == "t/me" for kv in renewal.listing.items):
                    self.lost.append(f"gone {asked - self.renewed:.1f} s after the last renewal")
                    return
                self.count += 1
                self.renewed = asked
                self.longest = max(self.longest, time.monotonic() - asked)
            await asyncio.sleep(max(0.05, asked + EVERY - time.monotonic()))


def asking_first(cluster: EtcdCluster, member: Member) -> EtcdAccess:
    """For a client that begins with one member."""
    others = [url for url in cluster.endpoints if url != member.url]
    return EtcdAccess((member.url, *others))


@asynccontextmanager
async def renewing(cluster: EtcdCluster, first: Member) -> AsyncIterator[Renewer]:
    async with Etcd(asking_first(cluster, first)) as etcd:
        lease = await etcd.grant(TTL)
        assert await etcd.txn([], [Put("t/me", b"here", lease)])
        renewer = Renewer(etcd, lease)
        async with running(renewer.run()):
            await until(lambda: renewer.count)
            yield renewer
            count = renewer.count
            await until(lambda: renewer.count > count or renewer.lost)
            assert not renewer.lost, (renewer.lost, renewer.failures)


async def test_a_frozen_leader_costs_no_lease_and_each_call_one_try(three_etcds) -> None:
    leader = await three_etcds.leader()
    async with (
        renewing(three_etcds, leader) as renewer,
        Etcd(asking_first(three_etcds, leader)) as etcd,
    ):
        leader.freeze()

        async def written() -> bool:
            try:
                return await etcd.txn([], [Put("other", b"1")])
            except EtcdError:
                return False

        await until(written)  # the others have a leader
        for _ in range(5):
            began = time.monotonic()
            await etcd.list("t/")
            assert time.monotonic() - began < ATTEMPT  # the frozen one is not asked again
        leader.thaw()
        await three_etcds.ready(leader)
    assert renewer.longest < 3 * ATTEMPT + 0.5


@pytest.mark.long
@pytest.mark.timeout(300)
async def test_each_member_killed_and_frozen_in_turn_costs_no_lease(three_etcds) -> None:
    async with renewing(three_etcds, three_etcds.members[0]) as renewer:
        for member in three_etcds.members:
            count = renewer.count
            member.freeze()
            await until(lambda count=count: renewer.count > count + 6 or renewer.lost)
            member.thaw()
            await three_etcds.ready(member)
            count = renewer.count
            member.kill()
            await until(lambda count=count: renewer.count > count + 6 or renewer.lost)
            member.start()
            await three_etcds.ready(member)
            assert not renewer.lost, (member.name, renewer.lost, renewer.failures)


@pytest.mark.long
async def test_the_leader_moved_again_and_again_costs_no_lease(three_etcds) -> None:
    async with renewing(three_etcds, three_etcds.members[0]) as renewer:
        for _ in range(8):
            await three_etcds.move_leader()
            count = renewer.count
            await until(lambda count=count: renewer.count > count or renewer.lost)
            assert not renewer.lost, (renewer.lost, renewer.failures)


@pytest.mark.long
async def test_a_member_without_quorum_is_not_believed(three_etcds) -> None:
    first, *others = three_etcds.members
    async with Etcd([first.url]) as etcd:
        lease = await etcd.grant(60)
        await etcd.txn([], [Put("t/me", b"1", lease)])
        assert (await etcd.renew(lease, "t/")).listing.items[0].value == b"1"
        for other in others:
            other.freeze()
        for ask in (
            lambda: etcd.list("t/"),
            lambda: etcd.get("t/me"),
            lambda: etcd.renew(lease, "t/"),
            lambda: etcd.txn([], [Put("t/me", b"2")]),
        ):
            began = time.monotonic()
            with pytest.raises(EtcdError):
                await ask()
            assert time.monotonic() - began < 2 * ATTEMPT + 1
        for other in others:
            other.thaw()

        async def back() -> bool:
            try:
                return (await etcd.renew(lease, "t/")).ttl == 60
            except EtcdError:
                return False

        await until(back)


async def test_a_renewal_counts_only_in_the_term_of_its_read(make_etcd, etcd_to_kill) -> None:
    """A leader that has a successor by now, and does not know it, renews in good faith."""
    quick = ("--heartbeat-interval=30", "--election-timeout=300")
    three_etcds = await make_etcd(etcd_to_kill, options=quick)
    renewals = 0
    moves = 1

    async def leader_moves_between(path: str) -> None:
        nonlocal renewals, moves
        if path == "/v3/lease/keepalive":
            renewals += 1
        elif moves and renewals:
            moves -= 1
            await three_etcds.move_leader()

    async with (
        Etcd(three_etcds.access) as etcd,
        proxied(three_etcds.members[0].url, leader_moves_between) as url,
        Etcd([url]) as through_proxy,
    ):
        lease = await etcd.grant(60)
        await etcd.txn([], [Put("t/me", b"1", lease)])
        renewal = await through_proxy.renew(lease, "t/")
        assert renewal.ttl == 60
        assert renewals == 2
        renewals, moves = 0, 100
        with pytest.raises(EtcdError, match=r"leader changed|does not answer"):
            await through_proxy.renew(lease, "t/")


@asynccontextmanager
async def proxied(target: str, before: Callable[[str], Awaitable[None]]) -> AsyncIterator[str]:
    """Requests go on to `target`, each after `before(path)`."""

    async def forward(request: web.Request) -> web.Response:
        body = await request.read()
        await before(request.path)
        async with session.post(target + request.path, data=body) as answer:
            return web.Response(status=answer.status, body=await answer.read())

    application = web.Application()
    application.router.add_post("/{path:.*}", forward)
    runner = web.AppRunner(application)
    async with ClientSession() as session:
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        try:
            yield f"http://127.0.0.1:{runner.addresses[0][1]}"
        finally:
            await runner.cleanup()


@pytest.mark.long
async def test_a_watch_goes_on_at_another_member(three_etcds) -> None:
    """Killed or frozen, no change is missed. (A write that was tried twice is seen twice.)"""
    async with Etcd(three_etcds.access) as etcd, Etcd(three_etcds.access) as writer:
        seen: list[bytes] = []
        lists = 0

        async def follow() -> None:
            nonlocal lists
            async for news in etcd.follow("w/"):
                if isinstance(news, Listing):
                    lists += 1
                else:
                    seen.extend(event.item.value for event in news.events if event.item)

        async def renew() -> None:  # what a node does anyway, and what finds a hung watch
            lease = await etcd.grant(30)
            while True:
                with suppress(EtcdError):
                    await etcd.keep_alive(lease)
                await asyncio.sleep(0.3)

        async with running(follow(), renew()):
            await until(lambda: lists == 1)
            wanted: list[bytes] = []

            async def write() -> None:
                wanted.append(b"%d" % len(wanted))

                async def put() -> bool:
                    try:
                        return await writer.txn([], [Put("w/key", wanted[-1])])
                    except EtcdError:
                        return False

                await until(put)
                await until(lambda: seen and seen[-1] == wanted[-1], timeout=8)

            await write()
            serving = etcd._gateway.endpoint
            member = next(one for one in three_etcds.members if one.url == serving)
            member.freeze()
            await write()
            assert etcd._gateway.endpoint != serving
            member.thaw()
            await three_etcds.ready(member)
            serving = etcd._gateway.endpoint
            member = next(one for one in three_etcds.members if one.url == serving)
            member.kill()
            await write()
            await write()
        distinct = list(dict.fromkeys(seen))
        assert distinct == wanted
        assert lists == 1


async def test_after_compaction_everything_is_listed_again(make_etcd, etcd_for_several) -> None:
    cluster = await make_etcd(etcd_for_several, size=1)
    async with Etcd(cluster.access) as etcd, aclosing(etcd.follow("w/")) as news:
        assert isinstance(await anext(news), Listing)
        # Busy with what it got, it does not watch while the revision is compacted.
        await etcd.txn([], [Put("w/a", b"2")])
        await etcd.txn([], [Put("w/a", b"3"), Put("w/b", b"1")])
        revision = (await etcd.list("w/")).revision
        await cluster.call(cluster.members[0], "kv/compaction", {"revision": str(revision)})
        async with asyncio.timeout(5):
            again = await anext(news)
            assert isinstance(again, Listing)
            assert [kv.value for kv in again.items] == [b"3", b"1"]
            await etcd.txn([], [Put("w/b", b"2")])
            change = await anext(news)
            assert isinstance(change, Changes)
            assert [event.key for event in change.events] == ["w/b"]


@pytest.mark.long
async def test_a_silent_watch_ends_by_itself(make_etcd, etcd_for_several, monkeypatch) -> None:
    """Nothing else is asked of its member, and no change comes: it may hang."""
    monkeypatch.setattr("placeos.cluster.etcd.PROGRESS", 1.0)
    cluster = await make_etcd(etcd_for_several, size=1)
    async with Etcd(cluster.access) as etcd, aclosing(etcd.watch("w/", 1)) as watch:
        assert not (await anext(watch)).events  # it stands
        cluster.members[0].freeze()
        began = time.monotonic()
        with pytest.raises(StopAsyncIteration):
            await anext(watch)
        assert 0.8 < time.monotonic() - began < 3
        cluster.members[0].thaw()


@pytest.mark.long
async def test_a_watch_notices_that_all_data_was_lost(make_etcd, etcd_for_several) -> None:
    cluster = await make_etcd(etcd_for_several, size=1)
    async with Etcd(cluster.access) as etcd:
        seen: list[Listing | Changes] = []

        async def follow() -> None:
            async for one in etcd.follow("w/"):
                seen.append(one)  # noqa: PERF401 - it never ends

        async with running(follow()):
            await until(lambda: seen)
            for number in range(3):
                await etcd.txn([], [Put("w/a", b"%d" % number)])
            await until(lambda: len(seen) == 4)
            await cluster.wipe()
            await until(lambda: isinstance(seen[-1], Listing) and not seen[-1].items)


@pytest.mark.long
async def test_a_snapshot_restored_has_the_old_data(three_etcds, tmp_path) -> None:
    async with Etcd(three_etcds.access) as etcd:
        await etcd.txn([], [Put("kept", b"1")])
        await three_etcds.snapshot(tmp_path / "snapshot.db")
        await etcd.txn([], [Put("later", b"1")])
        await three_etcds.restore(tmp_path / "snapshot.db")
        assert await etcd.get("kept") is not None
        assert await etcd.get("later") is None


async def test_a_transaction_deletes_and_reads(make_etcd, etcd_for_several) -> None:
    cluster = await make_etcd(etcd_for_several, size=1)
    async with Etcd(cluster.access) as etcd:
        lease = await etcd.grant(60)
        assert await etcd.txn([], [Put("t/a", b"1", lease), Put("t/b", b"2")])
        done = await etcd.transact(
            [Compare("t/a", "lease", lease), Compare("t/c", "create", 0)],
            [Delete("t/a"), Put("t/c", b"3"), Get("t/", prefix=True), Delete("t/none")],
        )
        assert done.succeeded
        assert [[kv.key for kv in read] for read in done.reads] == [["t/b", "t/c"]]
        again = await etcd.transact(
            [Compare("t/c", "create", 0)], [Delete("t/b")], [Get("t/c"), Get("t/a")]
        )
        assert not again.succeeded
        assert not again.repeated
        assert [[kv.value for kv in read] for read in again.reads] == [[b"3"], []]
        assert again.revision == done.revision
        await etcd.revoke(lease)
        await etcd.revoke(lease)  # as when the first answer was lost
        assert (await etcd.renew(lease, "t/")).ttl == 0
