"""While etcd is away for all, cores go on: each asks all others, who must all say yes."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator

import pytest
from held_line import Line
from taking_part import Place, holds, port, until

from placeos.cluster import core_member
from placeos.cluster.core_member import now
from placeos.cluster.handover import Timing

TIMING = Timing(ttl=4, limit=12)
THREE = ("core-1", "core-2", "core-3")


@pytest.fixture
async def lines(engines) -> AsyncIterator[dict[str, Line]]:
    """To etcd, one for each of three cores."""
    made = {identity: Line(port(engines.etcd_endpoints[0])) for identity in THREE}
    for line in made.values():
        await line.join()
    yield made
    for line in made.values():
        await line.cut()


@pytest.fixture
async def three(place, lines) -> list[Place]:
    """Cores that are together in a completed view."""
    found = [place(one, timing=TIMING, endpoints=[lines[one].url]) for one in THREE]
    await until(lambda: all(one.identities == THREE for one in found))
    return found


def promised(core: Place) -> dict[str, float]:
    """Seconds for which it promised, by incarnation."""
    return {asker: end - now() for asker, end in core.member.memory.promises}


async def test_all_go_on_while_etcd_is_away_for_all(three, lines):
    before = three[0].view
    await asyncio.gather(*(line.cut() for line in lines.values()))
    gone = [one.member.lease_deadline for one in three]
    await until(
        lambda: all(
            one.member.deadline > end + TIMING.ttl for one, end in zip(three, gone, strict=True)
        ),
        20,
    )
    for one, end in zip(three, gone, strict=True):
        assert one.member.lease_deadline == end  # modules that take no extension stop
        assert one.extensions[-1].lease == pytest.approx(end)
        assert one.extensions[-1].extended == pytest.approx(one.member.deadline)
        assert one.asked[-1] == {(each.identity, each.incarnation) for each in three} - {
            (one.identity, one.incarnation)
        }
        assert set(promised(one)) == {each.incarnation for each in three if each is not one}
    assert all(one.ended == [] for one in three)
    await asyncio.gather(*(line.join() for line in lines.values()))
    await until(lambda: all(one.member.lease_deadline > now() for one in three))
    await until(lambda: all(one.identities == THREE for one in three), 20)
    assert three[0].view.number >= before.number


@pytest.mark.long
async def test_not_for_longer_than_the_limit(place, lines):
    timing = Timing(ttl=4, limit=7)
    cores = [place(one, timing=timing, endpoints=[lines[one].url]) for one in THREE[:2]]
    await until(lambda: all(one.identities == THREE[:2] for one in cores))
    await asyncio.gather(*(lines[one].cut() for one in THREE[:2]))
    await until(lambda: all(one.ended == ["its lease ended"] for one in cores), 20)
    for one in cores:
        assert one.member.deadline > one.member.lease_deadline
        assert one.member.deadline <= one.member.lease_deadline - timing.ttl + timing.limit + 0.01


async def test_one_that_can_renew_says_no(three, lines):
    """It is this core that is cut off, and not etcd that is away."""
    one, two, three_ = three
    await lines["core-1"].cut()
    end = one.member.lease_deadline
    await until(lambda: one.asked)
    await until(lambda: one.ended == ["its lease ended"])
    assert one.member.deadline == end
    await until(lambda: two.identities == three_.identities == THREE[1:], TIMING.ttl + 6)


@pytest.mark.long
async def test_one_that_is_silent_lets_nobody_go_on(three, lines):
    one, two, _ = three
    two.silent = True
    await asyncio.gather(*(line.cut() for line in lines.values()))
    end = one.member.lease_deadline
    await until(lambda: one.ended == ["its lease ended"])
    assert one.asked
    assert one.member.deadline == end


async def test_an_answer_that_is_addressed_to_another_incarnation_is_no(three):
    one, two, _ = three
    assert not await two.member.answer(one.incarnation, "another")


async def test_a_proven_successor_answers_for_its_predecessor(three, lines, place):
    one, _, last = three
    await last.stop()
    await asyncio.gather(*(line.cut() for line in lines.values()))
    line = lines["core-3"]
    again = place("core-3", timing=TIMING, dead=(last.incarnation,), endpoints=[line.url])
    end = one.member.lease_deadline
    await until(lambda: one.member.deadline > end + 1, 20)
    assert ("core-3", last.incarnation) in one.asked[-1]
    assert one.incarnation in promised(again)
    assert not again.may_start


@pytest.mark.long
async def test_before_a_promise_is_over_nobody_takes_the_askers_place(three, lines, monkeypatch):
    """And who waits for that is not late: it is no reason to stop renewing."""
    monkeypatch.setattr(core_member, "OVERDUE", 1.0)
    one, *others = three
    await asyncio.gather(*(line.cut() for line in lines.values()))
    await until(lambda: all(len(promised(each)) == 2 for each in three), 20)
    ends = [dict(each.member.memory.promises)[one.incarnation] for each in others]
    await one.stop()
    for identity in THREE[1:]:
        await lines[identity].join()

    def replaced() -> bool:
        return any(each.identities == THREE[1:] for each in others)

    await until(lambda: all(one.identity not in names(each) for each in others), 10)
    assert now() < min(ends)  # its lease is gone, and only the promises are in the way
    await until(replaced, 20)
    assert now() >= max(ends)
    await until(lambda: all(each.may_start for each in others))
    assert all(each.ended == [] for each in others)


def names(core: Place) -> set[str]:
    """Cores that are registered, as this one sees it."""
    assert core.member.reading is not None
    return {live.identity for live in core.member.reading.seen.live}


async def test_a_core_that_owes_only_etcd_a_release_goes_on(place, lines, monkeypatch):
    """A hand-over was under way when etcd went away: all have let go, none can say so."""
    monkeypatch.setattr(core_member, "OVERDUE", 1.0)
    cores = [place(one, timing=TIMING, endpoints=[lines[one].url]) for one in THREE[:2]]
    await until(lambda: all(one.identities == THREE[:2] for one in cores))
    for one in cores:
        one.settling = False
    cores[1].member.wish("draining")
    await until(lambda: all(len(one.view.eligible) == 1 for one in cores))
    await asyncio.gather(*(lines[one].cut() for one in THREE[:2]))
    ends = [one.member.lease_deadline for one in cores]
    for one in cores:
        one.settle()
    await until(
        lambda: all(
            one.member.deadline > end + TIMING.ttl for one, end in zip(cores, ends, strict=True)
        ),
        20,
    )
    assert all(one.ended == [] for one in cores)
    for one in THREE[:2]:
        await lines[one].join()
    await until(lambda: all(one.may_start for one in cores), 20)


@pytest.mark.long
async def test_one_core_asks_nobody_and_goes_on(place, lines):
    one = place("core-1", timing=TIMING, endpoints=[lines["core-1"].url])
    await until(lambda: one.may_start)
    began = time.monotonic()
    await lines["core-1"].cut()
    await holds(lambda: one.ended == [] and one.deadline > 0, TIMING.ttl + 1)
    await until(lambda: one.ended == ["its lease ended"], 20)
    assert time.monotonic() - began > TIMING.limit - TIMING.margin - TIMING.ttl / 4 - 1
