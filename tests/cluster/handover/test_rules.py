"""The rules of hand-over, searched: never two owners, and in the end every module on one."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scenarios import bounded, settled, some_faults
from search import Found, search, settle, walk
from world import MODULES, Faults, World, owners, replace, two_owners

WHOLE = [
    # (cores at the beginning, what may go wrong, views that may follow)
    (2, Faults(kills=1, joins=1), 2),
    (2, Faults(cuts=1, lates=2), 2),
    (2, Faults(cuts=1, wipes=1), 1),
    (3, Faults(cuts=1), 1),
    (1, Faults(joins=1, lates=1), 2),
    (2, Faults(drains=1, lates=1), 2),
]
MOST = 1_500_000  # states: two minutes
LONG = [
    (2, Faults(cuts=1, joins=1), 3),
    (2, Faults(cuts=2), 3),
    (3, Faults(cuts=3), 2),
    (2, Faults(cuts=2, wipes=1), 2),
    (2, Faults(kills=1, joins=1, lates=1), 2),
    (2, Faults(restores=1, joins=1), 3),
    (3, Faults(cuts=2, kills=1), 2),
]


@pytest.mark.parametrize(("cores", "faults", "views"), WHOLE)
def test_everything_that_can_happen(cores: int, faults: Faults, views: int) -> None:
    found, all_of_it = search(bounded(settled(cores), faults, views), two_owners)
    assert all_of_it
    assert found > 500


@pytest.mark.long
@pytest.mark.timeout(600)
@pytest.mark.parametrize(("cores", "faults", "views"), LONG)
def test_much_that_can_happen(cores: int, faults: Faults, views: int) -> None:
    """All of it for the first two; of the others what takes the fewest steps."""
    found, _ = search(bounded(settled(cores), faults, views), two_owners, MOST)
    assert found > 100_000


def recovers(world: World) -> bool:
    """Whether, once nothing goes wrong any more, each module runs on exactly one core."""
    world = settle(world)
    if not any(node.memory is not None and node.wish == "ready" for node in world.nodes):
        return True
    return all(len(owners(world, module)) == 1 for module in MODULES)


def go_far(seed: int, length: int) -> None:
    choose = random.Random(seed)
    start = settled(choose.choice((0, 1, 2, 3)))
    world = walk(replace(start, faults=some_faults(choose)), two_owners, seed, length)
    assert recovers(world)


@settings(max_examples=1_000, deadline=None)
@given(st.integers(0, 2**32), st.sampled_from((60, 150, 300)))
def test_long_ways_at_random(seed: int, length: int) -> None:
    go_far(seed, length)


@pytest.mark.long
def test_very_many_long_ways() -> None:
    for seed in range(20_000):
        go_far(seed, 200)


def test_a_search_that_finds_something_tells_the_way() -> None:
    """So that a world without rules would not pass for a good one."""
    with pytest.raises(Found) as found:
        search(
            bounded(settled(1), Faults(joins=1), 3),
            lambda world: any(node.running for node in world.nodes[1:]),
        )
    assert found.value.args[-1] in ("turn b", "turn c")
    assert any(step.startswith("begin") for step in found.value.args)
