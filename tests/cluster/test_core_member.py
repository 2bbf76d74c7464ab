"""A core's place: registered under its identity, in views that are made, released, completed."""

from __future__ import annotations

import asyncio
import logging

import msgspec
import pytest
from taking_part import EPOCH, SHORT, holds, until

from placeos.cluster.etcd import Etcd, Put
from placeos.cluster.handover import Memory
from placeos.cluster.reading import ASSERTED, RELEASED
from placeos.cluster.registry import PREFIX, Registration, member_key
from placeos.cluster.renewal import Renewal
from placeos.cluster.view import VIEW_KEY, View

BOTH = ("core-1", "core-2")


async def view_in(etcd) -> View | None:
    item = await etcd.get(VIEW_KEY)
    return msgspec.json.decode(item.value, type=View) if item else None


async def registered(etcd, identity: str = "core-1") -> Registration | None:
    item = await etcd.get(member_key("core", identity))
    return msgspec.json.decode(item.value, type=Registration) if item else None


async def writers(etcd, key: str, since: int) -> set[str]:
    """Incarnations that a key held after a revision."""
    found = set()
    latest = (await etcd.get(key)).mod_revision
    async with asyncio.timeout(5):
        async for changes in etcd.watch(key, since + 1):
            for event in changes.events:
                if event.item is not None:
                    value = msgspec.json.decode(event.item.value, type=Registration)
                    found.add(value.incarnation)
            if changes.events and changes.revision >= latest:
                break
    return found


# -- views and their completion -------------------------------------------------------------------


async def test_cores_come_and_go(place, etcd):
    one = place("core-1")
    await until(lambda: one.may_start)
    assert (one.view.number, one.identities) == (1, ("core-1",))
    two = place("core-2")
    await until(lambda: one.may_start and one.identities == two.identities == BOTH)
    assert one.view == two.view == await view_in(etcd)
    assert one.number == 2
    assert [past.incarnation for past in one.view.base] == [one.incarnation, two.incarnation]
    await two.leave()
    assert await registered(etcd, "core-2") is None
    assert await etcd.get(RELEASED + two.incarnation) is None
    await until(lambda: one.identities == ("core-1",))
    assert one.number == 3


async def test_the_newcomer_starts_nothing_before_all_released_exactly_this_view(place):
    one = place("core-1")
    await until(lambda: one.may_start)
    before = one.view
    one.settling = False
    two = place("core-2")
    await until(lambda: one.number == two.number == 2)
    one.member.settle(before.name)  # this does not count for what came after
    await until(lambda: two.member.reasons == ("core-1 has not released view 2",))
    await holds(lambda: not two.view.completed and not one.view.completed, 0.5)
    assert not two.may_start
    assert not one.may_start
    three = place("core-3")
    await until(lambda: one.number == two.number == three.number == 3)
    one.member.settle(two.took[0].view.name)  # view 2: too late
    await holds(lambda: not three.view.completed, 0.5)
    one.settle()
    await until(lambda: one.may_start and two.may_start and three.may_start)
    assert [memory.view.number for memory in three.took if memory.view.completed] == [3]


async def test_a_core_joins_ineligible_and_owns_nothing_until_it_is_ready(place):
    one = place("core-1")
    await until(lambda: one.may_start)
    two = place("core-2", wish="preparing")
    await until(lambda: one.identities == two.identities == BOTH)
    assert one.view.eligible == ("core-1",)
    two.member.wish("ready")
    await until(lambda: one.may_start and one.view.eligible == two.view.eligible == BOTH)


async def test_one_that_is_held_gets_modules_only_if_nobody_else_can_take_them(place):
    one, two = place("core-1"), place("core-2", wish="held")
    await until(lambda: one.identities == BOTH)
    assert one.view.eligible == ("core-1",)
    one.member.wish("draining")
    await until(lambda: two.may_start and two.view.eligible == ("core-2",))
    one.member.wish("ready")
    await until(lambda: two.may_start and two.view.eligible == ("core-1",))
    await one.leave()
    await until(lambda: two.may_start and two.view.eligible == ("core-2",))


async def test_who_drains_is_a_member_until_it_has_let_go_and_leaves_without_a_wait(place):
    one, two = place("core-1"), place("core-2")
    await until(lambda: one.identities == two.identities == BOTH)
    two.settling = False
    two.member.wish("draining")
    await until(lambda: one.view.eligible == ("core-1",) and two.view == one.view)
    await holds(lambda: not one.may_start, 0.3)
    two.settle()
    await until(lambda: one.may_start and two.view.completed)
    await two.leave()
    await until(lambda: one.identities == ("core-1",))
    assert two.member.left.is_set()
    assert two.ended == []


async def test_all_leave_and_come_again(place, etcd):
    one, two = place("core-1"), place("core-2")
    await until(lambda: one.identities == two.identities == BOTH)
    await asyncio.gather(one.leave(), two.leave())
    left = await view_in(etcd)
    assert left.members == ()
    assert {past.fate for past in left.base} <= {"left"}
    three = place("core-3", progress=left.progress)
    await until(lambda: three.may_start)
    assert three.view.number > left.number


async def test_ten_at_once_agree(place):
    several = [place(f"core-{number}") for number in range(10)]
    await until(lambda: all(len(one.identities) == 10 for one in several), 30)
    assert len({one.view.name for one in several}) == 1


# -- one identity, one incarnation ----------------------------------------------------------------


async def test_of_several_with_one_identity_one_registers(place, etcd):
    """All see an empty key at once; what comes after is up to the transactions."""
    key = member_key("core", "core-1")
    start = (await etcd.list(key)).revision
    several = [place("core-1", f"i{number}") for number in range(6)]
    await until(lambda: sum(one.may_start for one in several) == 1)
    await holds(lambda: sum(one.view is not None and one.may_start for one in several) == 1, 0.5)
    assert await writers(etcd, key, start) == {one.incarnation for one in several if one.may_start}


async def test_a_key_that_appeared_since_it_was_read_is_not_written_over(place, etcd):
    """Whoever decided by an older listing finds out from the transaction."""
    listing = await etcd.list(PREFIX)
    one = place("core-1")
    await until(lambda: one.may_start)
    late = Renewal(etcd, 60)
    late.lease = await etcd.grant(60)
    memory = Memory("core-1", "late", EPOCH)
    assert await late._register(Registration("late", "h:1"), memory, listing)  # it was tried
    assert (await registered(etcd)).incarnation == one.incarnation


async def test_the_second_of_one_identity_says_so_and_waits(place, etcd, caplog):
    one = place("core-1")
    await until(lambda: one.may_start)
    with caplog.at_level(logging.WARNING, "placeos.cluster"):
        two = place("core-1", timing=SHORT)
        await until(lambda: "identity is taken" in caplog.text)
        await holds(lambda: not two.member.deadline and not two.may_start, 2.0)
    assert [record.message for record in caplog.records] == ["identity is taken"]
    assert (await registered(etcd)).incarnation == one.incarnation
    await one.leave()
    await until(lambda: two.may_start)


async def test_a_proven_successor_takes_the_place_at_once(place, etcd):
    one, other = place("core-1"), place("core-2")
    await until(lambda: one.identities == other.identities == BOTH)
    await one.stop()  # its lease has 60 s
    two = place("core-1", dead=(one.incarnation,))
    await until(lambda: two.may_start and other.view == two.view)
    assert two.view.members[0].incarnation == two.incarnation


async def test_after_a_power_cut_proof_is_enough_for_all(place, etcd):
    before = [place(identity) for identity in BOTH]
    await until(lambda: all(one.identities == BOTH for one in before))
    await asyncio.gather(*(one.stop() for one in before))
    progress = before[0].view.progress
    after = [
        place(one.identity, dead=(one.incarnation,), progress=progress, past=one.view.base)
        for one in before
    ]
    await until(lambda: all(one.identities == BOTH and one.may_start for one in after))


async def test_another_ones_word_that_it_is_this_core_ends_it(place, etcd, caplog):
    """A renewal does not count when the own key is another's, whatever the lease says."""
    one = place("core-1", timing=SHORT)
    await until(lambda: one.may_start)
    stranger = msgspec.json.encode(Registration("stranger", "h:1"))
    await etcd.txn([], [Put(member_key("core", "core-1"), stranger)])
    await until(lambda: "identity is taken" in caplog.text)
    deadline = one.member.deadline
    await until(lambda: one.ended == ["its lease ended"])
    assert one.member.deadline == deadline
    assert (await registered(etcd)).incarnation == "stranger"


async def test_a_key_that_is_gone_or_under_another_lease_is_written_again(place, etcd):
    one = place("core-1", timing=SHORT)
    await until(lambda: one.may_start)
    key = member_key("core", "core-1")
    await etcd.delete(key)
    await until(lambda: one.may_start and one.number == 1)
    async with asyncio.timeout(5):
        while (item := await etcd.get(key)) is None:
            await asyncio.sleep(0.01)
    await etcd.txn([], [Put(key, item.value)])  # as an operator's copy: it would stay for ever
    async with asyncio.timeout(5):
        while (await etcd.get(key)).lease != one.member.lease:
            await asyncio.sleep(0.01)
    await etcd.revoke(one.member.lease)
    async with asyncio.timeout(5):
        while await etcd.get(key) is None:
            await asyncio.sleep(0.01)
    assert one.ended == []


@pytest.mark.parametrize("value", [b"", b"{", b'"a"', b"\xff\xfe"])
async def test_what_cannot_be_read_is_let_alone_and_survived(place, etcd, value, caplog):
    await etcd.txn([], [Put(member_key("core", "core-9"), value), Put(RELEASED + "x", value)])
    one = place("core-1")
    await until(lambda: one.may_start)
    key = member_key("core", "core-1")
    await etcd.txn([], [Put(key, value)])
    await until(lambda: "identity is taken" in caplog.text)
    assert (await etcd.get(key)).value == value
    await etcd.delete(key)
    async with asyncio.timeout(5):
        while await etcd.get(key) is None:
            await asyncio.sleep(0.01)
    assert one.ended == []


# -- what operators say ---------------------------------------------------------------------------


async def test_an_operators_word_ends_the_wait_for_one_that_was_lost(place, etcd):
    one = place("core-1", timing=SHORT)
    await until(lambda: one.may_start)
    await one.stop()
    two = place("core-2", timing=SHORT, progress=one.view.progress)
    await until(lambda: two.view is not None and two.view.members[0].identity == "core-2", 20)
    await until(lambda: "nobody vouches" in " ".join(two.member.reasons))
    await holds(lambda: not two.may_start, 1.0)
    await etcd.txn([], [Put(ASSERTED + one.incarnation, b"")])
    await until(lambda: two.may_start)


async def test_a_part_of_it_that_fails_is_not_silent(place, monkeypatch, caplog):
    one = place("core-1")
    await until(lambda: one.may_start)

    async def fail(self, prefix):
        raise RuntimeError("a mistake of ours")
        yield

    monkeypatch.setattr(Etcd, "follow", fail)
    two = place("core-2")
    await until(lambda: two.ended == ["its membership failed"])
    assert "a mistake of ours" in caplog.text
    assert one.ended == []
