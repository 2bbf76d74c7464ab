"""The rules by which cores share modules, so that no device is ever driven by two of them.

Pure: a core gives what it remembers and what it read, and is told what to do. Every core
follows the same few rules, with no coordinator (docs/decisions/0013):

* A **view** names the members. Whoever sees that the registered cores differ from it writes the
  next one, in a transaction that fails unless the list it was made from still holds.
* A core **keeps** only what the newest view it read gives it. When all else is stopped it
  **releases** that view. When every member has released exactly this view it is **completed**,
  and only then cores **start** what it gives them.
* A core whose lease was not renewed in time is gone: the **deadline** is counted from when the
  renewal was sent, ends before the lease does, and is enforced by the kernel.
* While etcd is away for everybody nobody can take over, so cores go on: one asks all others,
  and if each says **yes** its deadline moves. A yes is a promise not to release a view that
  lacks the asker until it must have ended.
* A view that lacks a member that was **lost** is completed only if a core that was with it in
  the last completed view **vouches**: that core would have been asked, and keeps its promise.
  Otherwise the others wait until nobody can have been told to go on for so long.

Times are seconds on a clock that runs while the machine sleeps; any one unit will do.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, Literal

import msgspec

from placeos.cluster.view import Fate, Member, Past, View

replace: Final = msgspec.structs.replace

Wish = Literal["preparing", "held", "ready", "draining"]
"""What a core says of itself: not ready yet; ready, but it ended badly a moment ago and should
be spared while others can do without it; ready; about to leave."""

NEVER: Final = float("inf")


class Timing(msgspec.Struct, frozen=True):
    """The times that all cores of an installation must agree on."""

    ttl: float = 5.0  # a lease without a renewal
    margin: float = 1.0  # by which a core must have ended before its lease, or a promise, does
    limit: float = 900.0  # the longest that cores go on without etcd

    @property
    def interval(self) -> float:
        """How long a promise holds."""
        return 2 * self.ttl


class Live(msgspec.Struct, frozen=True):
    """A core that is registered in etcd."""

    identity: str
    incarnation: str
    wish: Wish = "ready"
    standalone: bool = False
    dead: tuple[str, ...] = ()
    """Earlier incarnations that it proves to run no more."""
    remembers: int = 0
    """Progress of the newest view it knows, if it is a member of that: it would write it again
    if etcd lost it."""


class Seen(msgspec.Struct, frozen=True):
    """What etcd holds, read at one revision."""

    view: View | None = None
    live: tuple[Live, ...] = ()
    released: tuple[tuple[str, str], ...] = ()  # incarnation, name of the view
    asserted: tuple[str, ...] = ()  # incarnations that an operator says run no more


class Memory(msgspec.Struct, frozen=True):
    """What one core knows, from its start to its end."""

    identity: str
    incarnation: str
    epoch: str
    first: int = 1
    """Number of a view that follows none: greater than any that was given before."""
    progress: int = 0
    """The greatest progress of any view known: read, or told by PostgreSQL at the start."""
    past: tuple[Past, ...] = ()
    """Base of that view, as PostgreSQL told it."""
    view: View | None = None
    """The newest view read; never taken back."""
    promises: tuple[tuple[str, float], ...] = ()  # incarnation, until
    lost: tuple[tuple[str, float], ...] = ()  # lost members of the base, since when seen so
    amiss: float | None = None
    """Since when etcd holds no view, or one that is older than what is known."""


class Write(msgspec.Struct, frozen=True):
    """Write this view, if etcd still holds exactly the view and the cores of `seen`."""

    view: View
    seen: Seen


class Release(msgspec.Struct, frozen=True):
    """Write that this core runs nothing but what this view gives it."""

    view: View


Act = Write | Release


# -- reading ------------------------------------------------------------------------------------


def take(memory: Memory, seen: Seen, now: float) -> Memory:
    """What a core knows after it read `seen`."""
    promises = tuple(one for one in memory.promises if one[1] > now)
    view = seen.view
    if view is None or not follows(memory, view):
        again = membership(memory) is None and _others_remember(memory, seen)
        amiss = now if memory.amiss is None or again else memory.amiss
        return replace(memory, promises=promises, amiss=amiss)
    before = dict(memory.lost)
    lost = tuple(
        (past.incarnation, before.get(past.incarnation, now))
        for past in view.base
        if past.fate == "lost"
    )
    return replace(
        memory, view=view, progress=view.progress, promises=promises, lost=lost, amiss=None
    )


def follows(memory: Memory, view: View) -> bool:
    """Whether a view may be believed: etcd may have lost its data, or got old data back."""
    if view.epoch != memory.epoch or view.progress < memory.progress:
        return False
    known = memory.view
    return known is None or view.number > known.number or view.name == known.name


def remembers(memory: Memory) -> int:
    """What this core's registration says of its memory."""
    return memory.view.progress if memory.view and membership(memory) else 0


def _others_remember(memory: Memory, seen: Seen) -> bool:
    """Whether a core is there that will write the view again, so that waiting begins anew."""
    least = memory.progress + (memory.view is not None)
    return any(
        one.remembers >= max(1, least) for one in seen.live if one.identity != memory.identity
    )


# -- running ------------------------------------------------------------------------------------


def membership(memory: Memory) -> Member | None:
    """This very incarnation as the newest view has it. Without it nothing may run here."""
    return memory.view.member(memory.incarnation) if memory.view is not None else None


def may_keep(memory: Memory) -> bool:
    """Whether what runs here and is still this core's may go on. Not if a view was completed
    that lacked it, which it missed (its registration was deleted by hand)."""
    return memory.view is not None and any(
        past.incarnation == memory.incarnation for past in memory.view.base
    )


def may_start(memory: Memory) -> bool:
    """Whether what the newest view gives to this core may be started (else only kept)."""
    return memory.view is not None and memory.view.completed and membership(memory) is not None


def deadline(memory: Memory, seen: Seen, sent: float, timing: Timing) -> float | None:
    """Until when this core may run anything, after a renewal that was sent at `sent` and
    confirmed by `seen`, which `memory` has taken. None: the deadline stays as it was.

    A view that lacks this core may be completed at any moment, whatever the lease says.
    """
    if not _registered(memory, seen) or membership(memory) is None:
        return None
    if seen.view is not None and seen.view.epoch != memory.epoch:
        return None
    return sent + timing.ttl - timing.margin


def unlimited(memory: Memory) -> bool:
    """Whether this core goes on without etcd for ever, alone as it is."""
    me = membership(memory)
    return me is not None and me.standalone


def _registered(memory: Memory, seen: Seen) -> bool:
    return any(one.incarnation == memory.incarnation for one in seen.live)


# -- going on without etcd ----------------------------------------------------------------------


def to_ask(memory: Memory) -> frozenset[tuple[str, str]]:
    """Identity and incarnation of all who must say yes: any of them might vouch otherwise."""
    if memory.view is None:
        return frozenset()
    others = {(one.identity, one.incarnation) for one in memory.view.members} | {
        (one.identity, one.incarnation) for one in memory.view.base if one.fate in ("", "lost")
    }
    return frozenset(others - {(memory.identity, memory.incarnation)})


def answer(memory: Memory, asker: str, now: float, timing: Timing) -> Memory | None:
    """A core that cannot renew its lease asks to go on. What this core, which just failed to
    renew its own, knows after it said yes; None: it says no."""
    if memory.view is not None and memory.view.member(asker) is None:
        return None
    promises = dict(memory.promises)
    promises[asker] = max(promises.get(asker, now), now + timing.interval)
    return replace(memory, promises=tuple(sorted(promises.items())))


def extended(asked: float, renewed: float, timing: Timing) -> float:
    """The deadline after all said yes to a question of `asked`; `renewed`: when the last
    renewal that counted was sent."""
    return min(asked + timing.interval, renewed + timing.limit) - timing.margin


# -- deciding -----------------------------------------------------------------------------------


def decide(memory: Memory, seen: Seen, now: float, timing: Timing, *, settled: bool) -> Act | None:
    """The next thing to write, after `take`; then read again.

    `settled`: nothing runs here but what the newest view gives to this core.
    """
    if not _registered(memory, seen):
        return None
    view = successor(memory, seen, now, timing)
    if view is not None:
        return Write(view, seen)
    view = memory.view
    if view is None or view.completed or memory.amiss is not None or not membership(memory):
        return None
    if dict(seen.released).get(memory.incarnation) != view.name:
        return Release(view) if settled and keeps_promises(memory, view, now) else None
    if all_released(view, seen) and vouched(memory, view, now, timing):
        return Write(completed(view), seen)
    return None


def leaving(memory: Memory, seen: Seen) -> Write | None:
    """The view that follows when this core, which runs nothing any more, leaves."""
    view = memory.view
    if view is None or memory.amiss is not None or not _registered(memory, seen):
        return None
    rest = replace(
        seen, live=tuple(one for one in seen.live if one.incarnation != memory.incarnation)
    )
    base = tuple(
        replace(past, fate="left") if past.incarnation == memory.incarnation else past
        for past in _fates(view.base, rest)
    )
    return Write(_next(memory, view, view.number + 1, members(rest.live), base), seen)


def keeps_promises(memory: Memory, view: View, now: float) -> bool:
    """Whether everybody who was told to go on has ended, or is a member of this view."""
    return all(until <= now or view.member(asker) for asker, until in memory.promises)


def all_released(view: View, seen: Seen) -> bool:
    """Whether every member runs nothing but what exactly this view gives it."""
    released = dict(seen.released)
    return all(released.get(one.incarnation) == view.name for one in view.members)


def vouched(memory: Memory, view: View, now: float, timing: Timing) -> bool:
    """Whether no lost member can still run: a member of the last completed view is in this
    one, would have been asked by it, and released. Or nobody can have told it to go on."""
    witness = any(past.fate == "" for past in view.base)
    since = dict(memory.lost)
    return all(
        not past.standalone and (witness or since.get(past.incarnation, now) + timing.limit <= now)
        for past in view.base
        if past.fate == "lost"
    )


def completed(view: View) -> View:
    """The view once all have released it: its members are the base of what follows."""
    base = tuple(Past(one.identity, one.incarnation, one.standalone) for one in view.members)
    return replace(view, completed=True, base=base)


def successor(memory: Memory, seen: Seen, now: float, timing: Timing) -> View | None:
    """The view that should follow; None while that in etcd is right, or not ours to replace."""
    if memory.amiss is None and memory.view is not None:
        view = memory.view
        found, base = members(seen.live), _fates(view.base, seen)
        if found == view.members and base == view.base:
            return None
        following = _next(memory, view, view.number + 1, found, base)
        # It could not be released: whoever was told to go on may well be back before that.
        return following if keeps_promises(memory, following, now) else None
    number = max(memory.progress // 2, seen.view.number if seen.view is not None else 0) + 1
    if memory.view is not None and membership(memory) is not None:
        if not _may_restore(memory, memory.view, seen, now, timing):
            return None
        base = _fates(memory.view.base, seen)
        return _next(memory, memory.view, number, members(seen.live), base)
    if _may_begin(memory, seen, now, timing):
        return _next(memory, None, max(number, memory.first), members(seen.live), ())
    return None


def doubtful(memory: Memory) -> bool:
    """Whether PostgreSQL should be asked before anything is decided: etcd may have got back a
    state from before this very view was completed, and nothing in it would tell."""
    return memory.amiss is not None or (memory.view is not None and not memory.view.completed)


def told(memory: Memory, seen: Seen, progress: int, past: tuple[Past, ...], now: float) -> Memory:
    """What a core knows after PostgreSQL told of the newest view that anybody took."""
    if progress <= memory.progress:
        return memory
    return take(replace(memory, progress=progress, past=past), seen, now)


def _may_restore(memory: Memory, view: View, seen: Seen, now: float, timing: Timing) -> bool:
    """Whether the view in memory may be followed by one without those who are not there:
    a lease that etcd lost may have been renewed just before."""
    there = {one.incarnation for one in seen.live}
    absent = {one.incarnation for one in view.members} - there
    since = memory.amiss
    return not absent or (since is not None and since + timing.interval <= now)


def _may_begin(memory: Memory, seen: Seen, now: float, timing: Timing) -> bool:
    """Whether a core that knows no view may write one: nothing ever ran, or nothing can."""
    if memory.progress == 0 and seen.view is None:
        return True
    past = _fates(memory.past, seen) if memory.view is None else ()
    if past and all(one.fate in ("left", "dead") for one in past):
        return True
    waited = memory.amiss is not None and memory.amiss + timing.limit <= now
    return waited or "*" in seen.asserted


def _next(
    memory: Memory,
    view: View | None,
    number: int,
    found: tuple[Member, ...],
    base: tuple[Past, ...],
) -> View:
    return View(
        epoch=memory.epoch,
        number=number,
        members=found,
        base=base,
        exceptions=view.exceptions if view is not None else (),
    )


def members(live: Iterable[Live]) -> tuple[Member, ...]:
    """All registered cores; eligible are those that are ready, for want of any those held."""
    found = sorted(live, key=lambda one: one.identity)
    wish = "ready" if any(one.wish == "ready" for one in found) else "held"
    return tuple(
        Member(
            one.identity,
            one.incarnation,
            eligible=one.wish == wish,
            standalone=one.standalone and len(found) == 1,
        )
        for one in found
    )


def _fates(base: Iterable[Past], seen: Seen) -> tuple[Past, ...]:
    there = {one.incarnation for one in seen.live}
    dead = {earlier for one in seen.live for earlier in one.dead} | set(seen.asserted)
    return tuple(replace(past, fate=fate(past, there, dead)) for past in base)


def fate(past: Past, there: set[str], dead: set[str]) -> Fate:
    """What became of a member of the last completed view."""
    if past.incarnation in there:
        return ""
    if past.fate in ("left", "dead"):
        return past.fate
    return "dead" if past.incarnation in dead else "lost"
