"""Each rule broken on purpose, and where the search must find what comes of it.

.venv/bin/pytest tests/cluster/handover/test_switches.py
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pytest
import world
from world import Faults, Node, World, replace

from placeos.cluster import handover
from placeos.cluster.handover import Act, Memory, Seen, Timing
from placeos.cluster.view import View


@dataclass(frozen=True)
class Switch:
    """`throw` breaks the rule; then two owners are found from `cores` with `faults`: by walks, by
    a search, or on one `way`."""

    name: str
    throw: Callable[[pytest.MonkeyPatch], None]
    cores: int
    faults: Faults
    views: int = 3
    ttl: int = 3
    identities: str = world.NAMES
    way: str = ""  # steps, with commas between


def _start_before_the_barrier(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(handover, "may_start", lambda memory: handover.membership(memory) is not None)


def _release_before_stopping(patch: pytest.MonkeyPatch) -> None:
    decide = handover.decide

    def hasty(
        memory: Memory, seen: Seen, now: float, timing: Timing, *, settled: bool
    ) -> Act | None:
        return decide(memory, seen, now, timing, settled=True)

    patch.setattr(handover, "decide", hasty)


def _no_promise(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(handover, "keeps_promises", lambda memory, view, now: True)


def _promises_by_identity(patch: pytest.MonkeyPatch) -> None:
    def keeps_promises(memory: Memory, view: View, now: float) -> bool:
        there = {one.identity for one in view.members}
        identity = {"a": "a", "b": "b", "c": "b"}  # by the first letter of the incarnation
        return all(until <= now or identity[asker[0]] in there for asker, until in memory.promises)

    patch.setattr(handover, "keeps_promises", keeps_promises)


def _nobody_vouches(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(handover, "vouched", lambda memory, view, now, timing: True)


def _restart_without_proof(patch: pytest.MonkeyPatch) -> None:
    """The second core of an identity claims that the first one has ended."""
    begin = world.begin

    def boastful(before: World, place: int, *, proof: bool = False) -> World:
        after = begin(before, place, proof=proof)
        rival = tuple(f"b{number}" for number in range(before.nodes[1].starts))
        return world.put(after, place, replace(after.nodes[place], dead=rival))

    patch.setattr(world, "begin", boastful)


def _deadline_from_the_answer(patch: pytest.MonkeyPatch) -> None:
    deadline = handover.deadline
    patch.setattr(
        handover,
        "deadline",
        lambda memory, seen, sent, timing: deadline(memory, seen, 0, timing),
    )


def _no_kernel_timer(patch: pytest.MonkeyPatch) -> None:
    """A frozen core goes on past its deadline."""
    older = world._older

    def immortal(node: Node) -> Node:
        after = older(node)
        if after.memory is None and node.memory is not None:
            return replace(node, until=1)
        return after

    patch.setattr(world, "_older", immortal)


def _any_view_is_believed(patch: pytest.MonkeyPatch) -> None:
    """Also an older one, which etcd has from a snapshot."""
    patch.setattr(handover, "follows", lambda memory, view: view.epoch == memory.epoch)


def _begin_at_once(patch: pytest.MonkeyPatch) -> None:
    """Who knows no view writes one, as if nothing had ever run."""
    patch.setattr(handover, "_may_begin", lambda memory, seen, now, timing: True)


def _restore_at_once(patch: pytest.MonkeyPatch) -> None:
    """Without those whose lease etcd lost, and who may have renewed it just before."""
    patch.setattr(handover, "_may_restore", lambda memory, view, seen, now, timing: True)


def _ask_only_the_newest_view(patch: pytest.MonkeyPatch) -> None:
    def to_ask(memory: Memory) -> frozenset[tuple[str, str]]:
        found = memory.view.members if memory.view is not None else ()
        others = {(one.identity, one.incarnation) for one in found}
        return frozenset(others - {(memory.identity, memory.incarnation)})

    patch.setattr(handover, "to_ask", to_ask)


# Of two cores b is cut off, and told to go on by a. A third one, c, joins and drops b; then a and
# c are cut off. The rule would have a ask b as well; without it c's word is enough for a. Then c
# dies, and b, which never promised a anything, comes back and vouches that a has ended.
_ONE_NOT_ASKED = """
turn a, turn b, cut a, cut b, ask b, a says yes to b, heal a, tick, turn a, tick, turn a, tick,
begin with proof c, turn c, turn c, turn a, turn a, cut a, cut c, ask a, c says yes to a, kill c,
tick, heal b, turn b, turn b, tick, turn b, tick, turn b, turn b, turn b, turn b, turn b"""

# etcd gets back a state from just before a view was completed. Its view is the one that a has
# read, and knows as not completed; c, which had registered anew meanwhile, runs by it already.
_BACK_BEFORE_COMPLETION = """
turn a, begin with proof c, turn c, tick, turn a, tick, turn a, tick, save, turn c, turn a,
turn a, turn c, restore, turn a, turn a, turn a, turn a"""


def _postgres_is_not_asked(patch: pytest.MonkeyPatch) -> None:
    """While etcd holds a view that could be right."""
    patch.setattr(handover, "doubtful", lambda memory: memory.amiss is not None)


SWITCHES = [
    Switch("start before the barrier", _start_before_the_barrier, 1, Faults(joins=1)),
    Switch("release before stopping", _release_before_stopping, 1, Faults(joins=1, lates=1)),
    Switch("no promise", _no_promise, 2, Faults(cuts=2)),
    Switch(
        "promises by identity",
        _promises_by_identity,
        2,
        Faults(cuts=3, joins=1),
        identities="abb",
    ),
    Switch("nobody vouches", _nobody_vouches, 2, Faults(cuts=2, joins=1), 2),
    Switch("restart without proof", _restart_without_proof, 2, Faults(joins=1), identities="abb"),
    Switch("deadline from the answer", _deadline_from_the_answer, 2, Faults(lates=1), ttl=4),
    Switch("no kernel timer", _no_kernel_timer, 2, Faults()),
    Switch("any view is believed", _any_view_is_believed, 2, Faults(restores=1, joins=1)),
    Switch("begin at once", _begin_at_once, 2, Faults(wipes=1, joins=1)),
    Switch("restore at once", _restore_at_once, 2, Faults(wipes=1, cuts=1)),
    Switch(
        "PostgreSQL is not asked",
        _postgres_is_not_asked,
        2,
        Faults(restores=1, joins=1),
        way=_BACK_BEFORE_COMPLETION,
    ),
    Switch(
        "ask only the newest view",
        _ask_only_the_newest_view,
        2,
        Faults(cuts=4, kills=1, joins=1),
        way=_ONE_NOT_ASKED,
    ),
]
