"""What an operator tells the cores: keys in etcd that they read with everything else.

* `placeos/drain/<identity>`: this core takes no modules until the key is gone. It hands over as
  one that is about to leave does, and stays registered; the key outlives its restarts.
* `placeos/asserted/<incarnation>`: this run of a core is over, says somebody who looked. It is
  removed with the next completed view, which has nothing to ask about it any more.

Deciding is pure: a `Step` is what must still hold and what is written then. `Orders` reads,
decides and writes, again if others wrote meanwhile.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import msgspec

from placeos.cluster import handover, reading
from placeos.cluster.etcd import Compare, Delete, Etcd, EtcdError, Listing, Put
from placeos.cluster.handover import Wish, Write
from placeos.cluster.reading import ASSERTED, Reading
from placeos.cluster.registry import PREFIX, member_key
from placeos.cluster.view import View

DRAIN: Final = f"{PREFIX}drain/"
EVERYBODY: Final = "*"
"""Instead of an incarnation: whatever ran before and is not registered runs no more."""
TRIES: Final = 5  # of a transaction that others' writes make fail

_TAKERS: Final = ("ready", "held")


class Order(msgspec.Struct, frozen=True):
    """The value of an order's key: who gave it and when (Unix time)."""

    by: str = ""
    at: int = 0


class Step(msgspec.Struct, frozen=True):
    """What must hold, and what is written if it does. Without writes it is as it should be."""

    compares: list[Compare] = []
    writes: list[Put | Delete] = []


class Unknown(Exception):
    """There is no such core."""


class Refused(Exception):
    """The order would do harm, or it cannot be carried out now."""


# -- reading ------------------------------------------------------------------------------------


def wish(own: Wish, identity: str, listing: Listing) -> Wish:
    """What a core has to say of itself: what it wants, unless an operator wants it drained."""
    key = DRAIN + identity
    return "draining" if any(item.key == key for item in listing.items) else own


def drained(found: Reading) -> dict[str, Order]:
    """The cores that are to be drained, whether they are there or not."""
    return {
        key.removeprefix(DRAIN): _order(item.value)
        for key, item in found.keys.items()
        if key.startswith(DRAIN)
    }


def _order(value: bytes) -> Order:
    try:
        return msgspec.json.decode(value, type=Order)
    except msgspec.MsgspecError:
        return Order()


# -- deciding -----------------------------------------------------------------------------------


def drain(found: Reading, identity: str, order: Order, *, force: bool = False) -> Step:
    """Have a core hand over. Raises Unknown, and Refused if nobody would take its modules."""
    if identity not in found.registrations:
        raise Unknown(identity)
    key = DRAIN + identity
    if key in found.keys:
        return Step()
    takers = [
        other
        for other, registration in found.registrations.items()
        if other != identity and registration.wish in _TAKERS and DRAIN + other not in found.keys
    ]
    if not takers and not force:
        raise Refused(f"no other core would take the modules of {identity}")
    compares = [reading.unchanged(member_key("core", identity), found)]
    compares += [reading.unchanged(DRAIN + other, found) for other in (identity, *takers)]
    return Step(compares, [Put(key, msgspec.json.encode(order))])


def undrain(found: Reading, identity: str) -> Step:
    """Let a core take modules again. Raises Unknown."""
    key = DRAIN + identity
    if key in found.keys:
        return Step([reading.unchanged(key, found)], [Delete(key)])
    if identity not in found.registrations:
        raise Unknown(identity)
    return Step()


def assert_dead(
    found: Reading, identity: str, incarnation: str, order: Order
) -> tuple[Step, list[str]]:
    """Take an operator's word that a core runs no more: one incarnation, all that the view knows
    of this identity (`incarnation` empty), or `*`. The step, and the incarnations it is about.

    Raises Unknown, and Refused while it is registered: then it does run.
    """
    if EVERYBODY in (identity, incarnation):
        _refuse_with_memory(found)
        named = [EVERYBODY]
    else:
        named = _named(found, identity, incarnation)
    compares = [reading.unchanged(member_key("core", one), found) for one in found.registrations]
    if identity not in ("", EVERYBODY) and identity not in found.registrations:
        compares.append(Compare(member_key("core", identity), "create", 0))
    value = msgspec.json.encode(order)
    writes: list[Put | Delete] = [
        Put(ASSERTED + one, value) for one in named if one not in found.seen.asserted
    ]
    return Step(compares if writes else [], writes), named


def _named(found: Reading, identity: str, incarnation: str) -> list[str]:
    """The incarnations that somebody may wait for. Raises Unknown, Refused."""
    view = found.seen.view
    past = view.base if view is not None else ()
    members = view.members if view is not None else ()
    known = {one.incarnation: one.identity for one in past}
    known |= {one.incarnation: one.identity for one in members}
    settled = {one.incarnation for one in past if one.fate in ("left", "dead")}
    there = {one.incarnation for one in found.seen.live}
    named = [
        one
        for one, name in known.items()
        if (incarnation and one == incarnation and identity in ("", name))
        or (not incarnation and name == identity)
    ]
    if not named:
        raise Unknown(identity or incarnation)
    gone = [one for one in named if one not in there]
    if not gone:
        raise Refused(f"{known[named[0]]} ({named[0]}) is registered: it runs")
    return [one for one in gone if one not in settled]


def _refuse_with_memory(found: Reading) -> None:
    """`*` is for the case that no core knows what there was."""
    view = found.seen.view
    remembering = [
        one.identity
        for one in found.seen.live
        if one.remembers or (view is not None and view.member(one.incarnation))
    ]
    if remembering:
        who = ", ".join(remembering)
        raise Refused(f"the last view is known to {who}: name the core that runs no more")


def rebalance(found: Reading) -> tuple[View, View]:
    """The view there is, and the same without exceptions, which every core releases anew.

    Raises Refused while the view is not settled.
    """
    view = found.seen.view
    if view is None:
        raise Refused("there is no view yet")
    if not view.completed or handover.members(found.seen.live) != view.members:
        raise Refused(f"view {view.number} is still being carried out")
    after = msgspec.structs.replace(view, number=view.number + 1, completed=False, exceptions=())
    return view, after


# -- acting -------------------------------------------------------------------------------------


class Orders:
    """Gives orders. All raise Unknown, Refused, and EtcdError: then it may have been given."""

    def __init__(self, etcd: Etcd) -> None:
        self._etcd = etcd

    async def read(self) -> Reading:
        """All there is, now."""
        return reading.read(await self._etcd.list(PREFIX))

    async def drain(self, identity: str, order: Order, *, force: bool = False) -> None:
        """Have a core hand over all its modules and take none."""
        await self._give(lambda found: drain(found, identity, order, force=force))

    async def undrain(self, identity: str) -> None:
        """Let a core take modules again."""
        await self._give(lambda found: undrain(found, identity))

    async def assert_dead(self, identity: str, incarnation: str, order: Order) -> list[str]:
        """Say that a core runs no more; the incarnations that were meant."""
        named: list[str] = []

        def decide(found: Reading) -> Step:
            step, named[:] = assert_dead(found, identity, incarnation, order)
            return step

        await self._give(decide)
        return named

    async def rebalance(self) -> tuple[View, View]:
        """Write the next view, without exceptions. The view before, and this one."""
        views: list[View] = []

        def decide(found: Reading) -> Step:
            views[:] = rebalance(found)
            write = Write(views[1], found.seen)
            return Step(reading.comparisons(write, found), [reading.view_put(views[1])])

        await self._give(decide)
        return views[0], views[1]

    async def _give(self, decide: Callable[[Reading], Step]) -> None:
        for _ in range(TRIES):
            step = decide(await self.read())
            if not step.writes or await self._etcd.txn(step.compares, step.writes):
                return
        raise EtcdError("others write at every try")
