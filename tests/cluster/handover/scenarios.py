"""Where searches begin: worlds that have settled, and what may go wrong in them."""

from __future__ import annotations

import random

from search import settle
from world import Faults, Node, World, begin, replace


def settled(cores: int) -> World:
    """So many cores that run all modules; there are three places."""
    world = World(nodes=(Node(),) * 3)
    for place in range(cores):
        world = begin(world, place)
    return settle(world, 10)


def bounded(world: World, faults: Faults, views: int) -> World:
    """With these faults, until so many more views were written."""
    return replace(world, faults=faults, views=world.known // 2 + views)


def some_faults(choose: random.Random) -> Faults:
    """A mixture for a long walk."""
    return Faults(
        kills=choose.choice((0, 1, 3)),
        cuts=choose.choice((0, 2, 6)),
        losses=choose.choice((0, 2)),
        lates=choose.choice((0, 3, 30)),
        drains=choose.choice((0, 0, 1)),
        joins=choose.choice((0, 1, 4)),
        wipes=choose.choice((0, 0, 0, 1)),
        restores=choose.choice((0, 0, 0, 1)),
    )
