"""A check that no switch can turn red is not a check: each rule is broken once."""

from __future__ import annotations

import contextlib

import pytest
import world
from scenarios import bounded, settled
from search import Found, follow, search, walk
from switches import SWITCHES, Switch
from world import Timing, replace, two_owners


def look(switch: Switch) -> None:
    """Raises Found when two cores can own a module; LookupError where a way is closed."""
    start = replace(settled(switch.cores), identities=switch.identities)
    if switch.way:
        way = [step.strip() for step in switch.way.split(",")]
        follow(replace(start, faults=switch.faults), way, two_owners)
        return
    start = bounded(start, switch.faults, switch.views)
    for seed in range(2_000):
        walk(replace(start, views=1_000), two_owners, seed, 120)
    search(start, two_owners, 200_000)


@pytest.mark.parametrize("switch", SWITCHES, ids=lambda switch: switch.name)
def test_a_broken_rule_is_found(switch: Switch, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(world, "TIMING", Timing(ttl=switch.ttl, margin=1, limit=3 * switch.ttl))
    switch.throw(monkeypatch)
    with pytest.raises(Found):
        look(switch)


@pytest.mark.parametrize(
    "switch", [one for one in SWITCHES if one.way], ids=lambda switch: switch.name
)
def test_with_the_rule_that_way_is_closed(switch: Switch) -> None:
    with contextlib.suppress(LookupError):  # a step is not possible
        look(switch)


def test_the_same_searches_find_nothing_while_all_rules_hold() -> None:
    for switch in SWITCHES:
        start = replace(settled(switch.cores), identities=switch.identities)
        for seed in range(100):
            walk(replace(start, faults=switch.faults), two_owners, seed, 120)
