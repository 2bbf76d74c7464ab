"""Rules of hand-over broken on purpose, one at a time, and the tests that then fail.

The rules that `cluster/handover.py` holds are broken in `handover/switches.py`, under the search.
These are about what happens between processes, etcd, the kernel and devices. To see one by hand:

    PLACEOS_BREAK="joiner eligible at once" .venv/bin/pytest -n 0 -p broken tests/cluster
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import msgspec

VARIABLE: Final = "PLACEOS_BREAK"


@dataclass(frozen=True)
class Switch:
    """`throw` breaks the rule in this process; of `tests` each must fail then."""

    name: str
    throw: Callable[[], None]
    tests: tuple[str, ...]


def _deadline_from_the_answer() -> None:
    from placeos.cluster.core_member import now
    from placeos.cluster.etcd import Etcd

    renew = Etcd.renew

    async def late(self, lease, prefix):
        found = await renew(self, lease, prefix)
        return msgspec.structs.replace(found, sent=int(now() * 1e9))

    Etcd.renew = late


def _register_over_a_living_key() -> None:
    from placeos.cluster.etcd import Etcd, Put

    txn = Etcd.txn

    async def blind(self, compares, writes):
        registers = (
            len(writes) == 1 and isinstance(writes[0], Put) and b"incarnation" in (writes[0].value)
        )
        return await txn(self, () if registers else compares, writes)

    Etcd.txn = blind


def _view_from_a_stale_list() -> None:
    from placeos.cluster import reading
    from placeos.cluster.view import VIEW_KEY

    reading.comparisons = lambda write, found: [reading.unchanged(VIEW_KEY, found)]


def _watch_not_listed_again() -> None:
    """It goes on after what is compacted, as if nothing had been missed."""
    from placeos.cluster import etcd as module
    from placeos.cluster.etcd import Etcd

    watch = Etcd.watch

    async def blind(self, prefix, revision):
        try:
            async for found in watch(self, prefix, revision):
                yield found
        except module.Compacted:
            latest = (await self.list(prefix)).revision
            async for found in watch(self, prefix, latest + 1):
                yield found

    Etcd.watch = blind


def _stale_moved() -> None:
    """Whoever says `moved` is believed to know more, whatever view it goes by."""
    from placeos.cluster.routing import Router

    moved = Router._moved

    def credulous(self, call, link, number):
        self._owners.pop(call.header.module, None)
        moved(self, call, link, max(number, self._number() + 1))

    Router._moved = credulous


def _joiner_eligible_at_once() -> None:
    from placeos.cluster import handover

    members = handover.members

    def hasty(live):
        return members(
            msgspec.structs.replace(one, wish="ready") if one.wish == "preparing" else one
            for one in live
        )

    handover.members = hasty


def _restart_without_proof() -> None:
    """A core says of every earlier life that it ended, whatever it knows of that machine."""
    from placeos.core import data_folder

    data_folder.proves = lambda present, earlier: True


def _start_before_the_barrier() -> None:
    from placeos.cluster import handover

    handover.may_start = lambda memory: handover.membership(memory) is not None


def _no_promise() -> None:
    from placeos.cluster import handover

    handover.keeps_promises = lambda memory, view, at: True


def _silent_loop_renewed() -> None:
    from placeos.cluster import core_member

    core_member.SILENCE = 1e9
    _freeze_constant(core_member, "SILENCE")


def _freeze_constant(module, name: str) -> None:
    """No test sets it to another value."""
    import pytest

    setattr_ = pytest.MonkeyPatch.setattr

    def guarded(self, target, attribute, *more, **options):
        if (target, attribute) != (module, name):
            setattr_(self, target, attribute, *more, **options)

    pytest.MonkeyPatch.setattr = guarded


def _batch_without_its_number() -> None:
    import itertools

    from placeos.core import claims

    numbers = itertools.count(1 << 50)
    claims.carried_number = lambda _: next(numbers)


CORE_MEMBER: Final = "tests/cluster/test_core_member.py::"
DEADLINES: Final = "tests/cluster/test_deadlines.py::"

SWITCHES: Final = {
    switch.name: switch
    for switch in (
        Switch(
            "deadline from the answer",
            _deadline_from_the_answer,
            (DEADLINES + "test_the_deadline_is_counted_from_when_the_renewal_was_sent",),
        ),
        Switch(
            "registering over a living key",
            _register_over_a_living_key,
            (CORE_MEMBER + "test_a_key_that_appeared_since_it_was_read_is_not_written_over",),
        ),
        Switch(
            "a view from a stale member list",
            _view_from_a_stale_list,
            (
                "tests/cluster/test_lost_etcd.py::"
                "test_a_view_from_a_stale_list_is_refused[a core left]",
            ),
        ),
        Switch(
            "watch not listed again",
            _watch_not_listed_again,
            ("tests/cluster/test_lost_etcd.py::test_a_watch_whose_history_is_gone_lists_again",),
        ),
        Switch(
            "stale moved",
            _stale_moved,
            (
                "tests/cluster/test_waiting_calls.py::"
                "test_a_moved_of_an_older_view_neither_loops_nor_shakes_what_is_known",
            ),
        ),
        Switch(
            "joiner eligible at once",
            _joiner_eligible_at_once,
            (CORE_MEMBER + "test_a_core_joins_ineligible_and_owns_nothing_until_it_is_ready",),
        ),
        Switch(
            "restart without proof",
            _restart_without_proof,
            ("tests/core/test_data_folder.py::test_of_another_machine_nothing_is_proven",),
        ),
        Switch(
            "start before the barrier",
            _start_before_the_barrier,
            (
                CORE_MEMBER
                + "test_the_newcomer_starts_nothing_before_all_released_exactly_this_view",
            ),
        ),
        Switch(
            "no promise",
            _no_promise,
            (
                "tests/cluster/test_going_on.py::"
                "test_before_a_promise_is_over_nobody_takes_the_askers_place",
            ),
        ),
        Switch(
            "a silent loop is renewed",
            _silent_loop_renewed,
            (DEADLINES + "test_a_core_whose_loop_is_silent_is_not_renewed",),
        ),
        Switch(
            "state batch without its view number",
            _batch_without_its_number,
            ("tests/core/test_state_fencing.py::test_a_late_batch_changes_and_publishes_nothing",),
        ),
    )
}

if (_thrown := os.environ.get(VARIABLE)) is not None:
    SWITCHES[_thrown].throw()
