"""Searching the world: everything that can happen, breadth first, or long walks at random."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

from world import World, put, replace, steps, tick, turn, two_owners


def follow(world: World, way: Sequence[str], wrong: Callable[[World], bool]) -> World:
    """Take these steps, each by its name. Raises LookupError for one that is not possible, Found
    when a wrong state is come to."""
    for name in way:
        found = next((after for step, after in steps(world) if step == name), None)
        if found is None:
            possible = ", ".join(step for step, _ in steps(world))
            raise LookupError(f"no {name!r}, only {possible}")
        world = found
        if wrong(world):
            raise Found(*way)
    return world


class Found(Exception):
    """A way to a state that must not be; the steps are its arguments."""


def search(start: World, wrong: Callable[[World], bool], most: int = 10**9) -> tuple[int, bool]:
    """Go through all states that can be reached. How many there are, and whether these are all
    (not more than `most`). Raises Found with the shortest way to a wrong one."""
    parents: dict[World, tuple[World, str] | None] = {start: None}
    frontier = [start]
    while frontier:
        following = []
        for world in frontier:
            for name, after in steps(world):
                if after in parents:
                    continue
                parents[after] = (world, name)
                if wrong(after):
                    raise Found(*_way(parents, after))
                following.append(after)
            if len(parents) >= most:
                return len(parents), False
        frontier = following
    return len(parents), True


def _way(parents: dict[World, tuple[World, str] | None], world: World) -> list[str]:
    way = []
    step = parents[world]
    while step is not None:
        world, name = step
        way.append(name)
        step = parents[world]
    return way[::-1]


def walk(start: World, wrong: Callable[[World], bool], seed: int, length: int) -> World:
    """One way of `length` steps at random. Raises Found when it comes to a wrong state.

    Time and frozen cores differ from walk to walk: else all are renewed in time, always.
    """
    choose = random.Random(seed)
    pace = choose.choice((0.3, 1.0, 3.0))
    lazy = [choose.choice((0.05, 1.0, 1.0)) for _ in start.nodes]
    faulty = choose.choice((0.05, 0.2, 1.0))
    world, way = start, []
    for _ in range(length):
        possible = list(steps(world))
        weights = [_weight(name, pace, lazy, faulty) for name, _ in possible]
        name, world = choose.choices(possible, weights)[0]
        way.append(name)
        if wrong(world):
            raise Found(*way)
        if choose.random() < 0.02:
            lazy[choose.randrange(len(lazy))] = choose.choice((0.02, 1.0, 1.0))
    return world


_FAULTS = ("kill", "cut", "begin", "drain", "wipe", "restore", "save", "lost", "heal")


def _weight(name: str, pace: float, lazy: list[float], faulty: float) -> float:
    if name == "tick":
        return pace
    first, _, rest = name.partition(" ")
    weight = faulty * 0.3 if first in _FAULTS else 2.0
    place = "abc".find(rest[-1:]) if rest else -1
    return weight * (lazy[place] if place >= 0 and first not in _FAULTS else 1.0)


def settle(world: World, rounds: int = 60) -> World:
    """What becomes of a world where nothing goes wrong any more: every core has its turns."""
    for _ in range(rounds):
        for place, node in enumerate(world.nodes):
            if node.memory is not None:
                idle = node.idle or (node.wish == "draining" and not node.running)
                cleared = replace(node, cut=False, sent=None, read=None, act=None, idle=idle)
                world = turn(put(world, place, cleared), place)
        world = tick(world)
        if two_owners(world):
            raise Found("while it settled")
    return world
