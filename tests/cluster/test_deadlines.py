"""Who is frozen, hangs or holds the others up is gone in time; who is not goes on."""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
import time
from pathlib import Path

import pytest
from held_line import Line
from taking_part import SHORT, Place, holds, port, until

from placeos.cluster import core_member
from placeos.cluster.core_member import NEVER_NS
from placeos.cluster.handover import Timing

BOTH = ("core-1", "core-2")
SLOW = 0.1  # seconds by which each answer of etcd is late: a renewal is two of them


async def test_the_deadline_is_counted_from_when_the_renewal_was_sent(place, engines):
    async with Line(port(engines.etcd_endpoints[0])) as line:
        line.slow = SLOW
        one = place("core-1", timing=SHORT, endpoints=[line.url])
        await until(lambda: len({each.lease for each in one.extensions}) >= 3, 20)
        first: dict[float, float] = {}
        for each in one.extensions:
            first.setdefault(each.lease, each.at)
        for lease, at in first.items():
            assert at - (lease - SHORT.ttl + SHORT.margin) >= 2 * SLOW - 0.01
        await one.stop()


async def test_a_frozen_core_is_gone_after_its_lease_and_the_others_vouch(place):
    """The limit is ten minutes: nothing but a witness can complete this so soon."""
    one, two, three = place("core-1"), place("core-2"), place("core-3", timing=SHORT)
    await until(lambda: one.identities == two.identities == three.identities == (*BOTH, "core-3"))
    three.freeze()
    began = time.monotonic()
    await until(lambda: one.identities == two.identities == BOTH, SHORT.ttl + 6)
    assert time.monotonic() - began > SHORT.ttl * 3 / 4 - 0.5
    assert three.deadline < 0
    assert three.may_start  # as far as it knows; the kernel has killed it by now


@pytest.mark.long
async def test_without_a_witness_the_limit_is_waited_for(place):
    timing = Timing(ttl=3, limit=5)
    one = place("core-1", timing=timing)
    await until(lambda: one.may_start)
    await one.stop()
    two = place("core-2", timing=timing, progress=one.view.progress)
    await until(lambda: two.view is not None and len(two.view.members) == 1, 20)
    seen = time.monotonic()
    await until(lambda: two.may_start)
    assert time.monotonic() - seen > timing.limit - 0.5


class ApartFromTheTest:
    """Runs a place on a loop of its own, which can be blocked."""

    def __init__(self, made: Place) -> None:
        self._place = made
        self._loop = asyncio.new_event_loop()
        self._blocked = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        self._task = self._loop.create_task(self._place.member.run())
        with contextlib.suppress(asyncio.CancelledError):
            self._loop.run_until_complete(self._task)
        self._loop.close()

    async def __aenter__(self) -> ApartFromTheTest:
        self._thread.start()
        return self

    def block(self) -> None:
        self._loop.call_soon_threadsafe(self._blocked.wait, 60)

    def free(self) -> None:
        self._blocked.set()

    async def __aexit__(self, *_: object) -> None:
        self.free()
        self._loop.call_soon_threadsafe(self._task.cancel)
        await asyncio.to_thread(self._thread.join)


async def test_a_core_whose_loop_is_silent_is_not_renewed(engines, place, monkeypatch, caplog):
    monkeypatch.setattr(core_member, "SILENCE", 0.8)
    one = place("core-1")
    await until(lambda: one.may_start)
    two = Place(engines.etcd_endpoints, "core-2", timing=SHORT)
    async with ApartFromTheTest(two) as apart:
        await until(lambda: one.identities == BOTH and two.may_start)
        apart.block()
        await until(lambda: one.identities == ("core-1",), SHORT.ttl + 6)
        assert two.deadline < 0
        assert "core's loop is silent" in caplog.text


async def test_a_core_whose_loop_is_silent_for_a_moment_goes_on(engines, place, monkeypatch):
    monkeypatch.setattr(core_member, "SILENCE", 0.8)
    two = Place(engines.etcd_endpoints, "core-2", timing=SHORT)
    async with ApartFromTheTest(two) as apart:
        await until(lambda: two.may_start)
        apart.block()
        await asyncio.sleep(1.2)
        apart.free()
        deadline = two.member.deadline
        await until(lambda: two.member.deadline > deadline)
        assert two.ended == []


async def test_who_holds_up_a_hand_over_is_not_renewed(place, monkeypatch, caplog):
    monkeypatch.setattr(core_member, "OVERDUE", 1.0)
    one, two = place("core-1", timing=SHORT), place("core-2")
    await until(lambda: one.identities == two.identities == BOTH)
    one.settling = False
    three = place("core-3")
    await until(lambda: two.identities == three.identities == ("core-2", "core-3"), 12)
    assert "a view is not released in time" in caplog.text
    await until(lambda: one.ended == ["its lease ended"])


async def test_who_has_let_go_late_but_in_time_goes_on(place, monkeypatch, caplog):
    """Past the time for a release, before the lease ends."""
    monkeypatch.setattr(core_member, "OVERDUE", 0.3)
    one = place("core-1", timing=Timing(ttl=8, limit=600))
    await until(lambda: one.may_start)
    one.settling = False
    two = place("core-2")
    await until(lambda: "a view is not released in time" in caplog.text, 12)
    one.settling = True
    one.settle()
    await until(lambda: one.identities == two.identities == BOTH)
    await holds(lambda: one.ended == [], 0.2)


async def test_a_single_core_under_placeos_up_has_no_deadline_until_another_comes(place):
    one = place("core-1", timing=SHORT, standalone=True)
    await until(lambda: one.may_start)
    await until(lambda: one.extensions[-1].extended == NEVER_NS / 1e9)
    two = place("core-2")
    await until(lambda: one.identities == two.identities == BOTH)
    assert not any(member.standalone for member in one.view.members)
    await until(lambda: one.extensions[-1].extended < core_member.now() + SHORT.ttl)
    assert one.ended == []


def busy(thread: threading.Thread) -> float:
    """Seconds of processor time that a thread has used."""
    fields = Path(f"/proc/self/task/{thread.native_id}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def test_a_single_core_waits_at_rest_for_etcd_to_come_back(place, engines):
    """Its deadline is past by then, and means nothing."""
    before = set(threading.enumerate())
    async with Line(port(engines.etcd_endpoints[0])) as line:
        one = place("core-1", timing=SHORT, standalone=True, endpoints=[line.url])
        await until(lambda: one.may_start)
        (thread,) = {it for it in threading.enumerate() if it.name == "membership"} - before
        line.open.clear()
        await until(lambda: one.deadline < 0, 12)
        used = busy(thread)
        await holds(lambda: one.ended == [], 2.0)
        assert busy(thread) - used < 0.3
        line.open.set()
        await one.stop()


@pytest.mark.parametrize("dead", [pytest.param("", marks=pytest.mark.long), "proven"])
async def test_nobody_takes_the_place_of_a_single_core_unasked(place, etcd, dead):
    """It goes on without etcd for ever: only its proof or an operator's word says otherwise."""
    timing = Timing(ttl=3, limit=3)
    one = place("core-1", timing=timing, standalone=True)
    await until(lambda: one.may_start)
    await one.stop()
    two = place(
        "core-2",
        timing=timing,
        progress=one.view.progress,
        dead=(one.incarnation,) if dead else (),
    )
    if dead:
        await until(lambda: two.may_start)
    else:
        await until(lambda: two.view is not None and len(two.view.members) == 1, 20)
        await holds(lambda: not two.may_start, timing.limit + 1)
