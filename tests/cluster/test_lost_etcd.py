"""etcd that loses its data, forgets its history, or tells what no longer holds."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager

import msgspec
import pytest
from held_line import Line
from taking_part import CALM, EPOCH, holds, port, until

from placeos.cluster import handover, reading
from placeos.cluster.etcd import Etcd, Put
from placeos.cluster.handover import Memory, Timing, Write
from placeos.cluster.registry import PREFIX, Registration, member_key
from placeos.cluster.view import VIEW_KEY, Member, View
from placeos.local.engines import running_engines

BOTH = ("core-1", "core-2")
TIMING = Timing(ttl=4, limit=600)


async def wipe(etcd: Etcd) -> None:
    """Everything at once, as seen by those who look."""
    await etcd._gateway.post("/v3/kv/deleterange", {"key": "AA==", "range_end": "AA=="})


async def view_in(etcd: Etcd) -> View | None:
    item = await etcd.get(VIEW_KEY)
    return msgspec.json.decode(item.value, type=View) if item else None


# -- data that is gone ----------------------------------------------------------------------------


async def test_wiped_under_running_cores_they_restore_the_view(place, etcd):
    cores = [place(identity, timing=TIMING) for identity in BOTH]
    await until(lambda: all(one.identities == BOTH for one in cores))
    before = cores[0].view
    await wipe(etcd)
    await until(lambda: all(one.number > before.number and one.may_start for one in cores), 20)
    after = await view_in(etcd)
    assert after.epoch == EPOCH
    assert after.members == before.members
    assert all(one.ended == [] for one in cores)


async def test_a_joiner_without_memory_writes_nothing_into_a_wiped_etcd(place, etcd):
    """Nor does it start anything: it knows from PostgreSQL that there was a view."""
    cores = [place(identity, timing=TIMING) for identity in BOTH]
    await until(lambda: all(one.identities == BOTH for one in cores))
    before = cores[0].view
    for one in cores:
        one.freeze()
    await wipe(etcd)
    joiner = place("core-3", progress=before.progress)
    await until(lambda: joiner.member.reading is not None)
    await holds(lambda: not joiner.may_start and joiner.view is None, 1.0)
    assert await view_in(etcd) is None
    for one in cores:
        one.thaw()
    everybody = (*BOTH, "core-3")
    await until(lambda: all(one.identities == everybody for one in [*cores, joiner]), 20)
    assert joiner.took[0].view is None or joiner.took[0].view.number > before.number


async def test_what_a_newcomer_did_not_know_of_postgresql_tells_it(place, etcd):
    """It read PostgreSQL before the first view was written, and etcd after that was lost."""
    foreign = View("another epoch", 1)  # so that it has to ask
    await etcd.txn([], [Put(VIEW_KEY, msgspec.json.encode(foreign))])
    late = place("core-1", timing=TIMING)
    late.known = 8
    await until(lambda: late.member.memory.progress == 8)
    await etcd.delete(VIEW_KEY)
    await holds(lambda: not late.may_start, 2.0)
    assert await view_in(etcd) is None


async def test_a_view_of_another_installation_starts_nothing(place, etcd):
    foreign = View("another epoch", 7, completed=True)
    await etcd.txn([], [Put(VIEW_KEY, msgspec.json.encode(foreign))])
    one = place("core-1")
    await until(lambda: "no view that this core can believe" in " ".join(one.member.reasons))
    await holds(lambda: one.view is None and not one.may_start, 0.5)
    assert await view_in(etcd) == foreign


async def test_an_older_view_from_a_snapshot_is_not_believed(place, etcd):
    cores = [place(identity, timing=TIMING) for identity in BOTH]
    await until(lambda: cores[0].may_start and cores[0].number >= 1)
    old = await view_in(etcd)
    await until(lambda: all(one.identities == BOTH for one in cores))
    cores[1].member.wish("draining")
    await until(lambda: all(len(one.view.eligible) == 1 and one.may_start for one in cores))
    newest = cores[0].view
    await etcd.txn([], [Put(VIEW_KEY, msgspec.json.encode(old))])
    await until(lambda: all(one.number > newest.number and one.may_start for one in cores), 20)
    numbers = [memory.view.number for memory in cores[0].took if memory.view is not None]
    assert numbers == sorted(numbers)


@pytest.mark.parametrize("completed_by_somebody", [False, True])
async def test_a_view_that_was_completed_before_etcd_went_back(place, etcd, completed_by_somebody):
    """Only PostgreSQL tells. The member that is missing may run by it: it is not left out."""
    one = place("core-1")
    await until(lambda: one.may_start)
    ghost = Member("core-2", "of whom etcd knows nothing")
    view = msgspec.structs.replace(
        one.view, number=one.number + 1, members=(*one.view.members, ghost), completed=False
    )
    one.known = view.progress + completed_by_somebody
    await etcd.txn([], [Put(VIEW_KEY, msgspec.json.encode(view))])
    if not completed_by_somebody:
        await until(lambda: one.may_start and one.number > view.number)
        return
    await until(lambda: one.member.memory.amiss is not None)
    await holds(lambda: one.view == view, 1.0)
    assert await view_in(etcd) == view


async def test_a_real_wipe_under_running_cores(tmp_path, place):
    """Another process answers under its address, which begins with nothing."""
    async with emptied_etcd(tmp_path) as (endpoints, erase):
        cores = [place(identity, timing=TIMING, endpoints=endpoints) for identity in BOTH]
        await until(lambda: all(one.identities == BOTH for one in cores))
        before = cores[0].view
        await erase()
        await until(lambda: all(one.number > before.number and one.may_start for one in cores), 60)
        assert all(one.ended == [] for one in cores)
        for one in cores:
            await one.stop()


@asynccontextmanager
async def emptied_etcd(folder):
    """One etcd behind a line, and what puts an empty one in its place."""
    first, second = folder / "first", folder / "second"
    async with (
        running_engines(first, postgres=False, redis=False, durable=False) as engines,
        running_engines(second, postgres=False, redis=False, durable=False) as empty,
        Line(port(engines.etcd_endpoints[0])) as line,
    ):

        async def erase() -> None:
            await line.cut()
            line.behind = port(empty.etcd_endpoints[0])
            await line.join()

        yield [line.url], erase


# -- what no longer holds -------------------------------------------------------------------------

CHANGES = {
    "a core was restarted": (
        Put(member_key("core", "core-2"), b'{"incarnation":"i9","address":"h:1"}'),
    ),
    "another view was written": (Put(VIEW_KEY, msgspec.json.encode(View(EPOCH, 9))),),
    "a core left": (),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
async def test_a_view_from_a_stale_list_is_refused(etcd, change):
    for number in (1, 2):
        value = msgspec.json.encode(Registration(f"i{number}", "h:1"))
        await etcd.txn([], [Put(member_key("core", f"core-{number}"), value)])
    found = reading.read(await etcd.list(PREFIX))
    act = handover.decide(Memory("core-1", "i1", EPOCH), found.seen, 0, CALM, settled=True)
    assert isinstance(act, Write)
    if change:
        await etcd.txn([], change)
    else:
        await etcd.delete(member_key("core", "core-2"))
    before = await etcd.get(VIEW_KEY)
    assert not await etcd.txn(reading.comparisons(act, found), [reading.view_put(act.view)])
    assert await etcd.get(VIEW_KEY) == before


# -- watches --------------------------------------------------------------------------------------


async def test_a_watch_whose_history_is_gone_lists_again(etcd, engines):
    """While its line is held keys change, and the revisions of that are compacted."""
    async with (
        Line(port(engines.etcd_endpoints[0])) as line,
        Etcd([line.url]) as far,
    ):
        seen: list[str] = []

        async def follow() -> None:
            async for found in far.follow(f"{PREFIX}test/"):
                keys = getattr(found, "items", None)
                if keys is not None:
                    seen[:] = [item.key for item in keys]
                else:
                    seen.extend(event.key for event in found.events)

        task = asyncio.create_task(follow())
        await etcd.txn([], [Put(f"{PREFIX}test/a", b"1")])
        await until(lambda: f"{PREFIX}test/a" in seen)
        await line.cut()
        await etcd.txn([], [Put(f"{PREFIX}test/b", b"1")])
        await etcd.txn([], [Put(f"{PREFIX}other", b"1")])
        revision = (await etcd.list(PREFIX)).revision
        await etcd._gateway.post("/v3/kv/compaction", {"revision": str(revision)})
        await line.join()
        await until(lambda: seen == [f"{PREFIX}test/a", f"{PREFIX}test/b"])
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_a_core_hears_of_what_came_while_its_history_was_compacted(place, etcd, engines):
    async with Line(port(engines.etcd_endpoints[0])) as line:
        one = place("core-1", endpoints=[line.url])
        await until(lambda: one.may_start)
        await line.cut()
        other = place("core-2")
        await until(lambda: other.number == 2)
        revision = (await etcd.list(PREFIX)).revision
        await etcd._gateway.post("/v3/kv/compaction", {"revision": str(revision)})
        await line.join()
        await until(lambda: one.identities == other.identities == BOTH)
        await one.stop()


async def test_one_of_several_endpoints_is_enough(place, engines):
    async with Line(port(engines.etcd_endpoints[0])) as line:
        line.open.clear()  # it takes connections and says nothing
        endpoints = ["http://127.0.0.1:9", line.url, *engines.etcd_endpoints]
        one = place("core-1", timing=Timing(ttl=5), endpoints=endpoints)
        two = place("core-2", timing=Timing(ttl=5), endpoints=list(reversed(endpoints)))
        await until(lambda: one.identities == two.identities == BOTH, 20)
        await holds(lambda: one.ended == [] and two.ended == [], 2.0)
        await asyncio.gather(one.stop(), two.stop())
