"""A small world in which cores live, freeze, die and are cut off, for searching it whole.

The cores decide by `placeos.cluster.handover` itself. Time goes in ticks; every time in a
state is relative to now, so that states which differ only in when they happen are one. A core
that nobody schedules is frozen: what it runs goes on running until the kernel ends it at its
deadline. Requests to etcd take effect and are answered whenever, or are lost.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import msgspec

from placeos.cluster import handover
from placeos.cluster.handover import Act, Live, Memory, Release, Seen, Timing, Wish, Write
from placeos.cluster.view import Past, View

replace: Final = msgspec.structs.replace

TIMING: Final = Timing(ttl=3, margin=1, limit=9)
EPOCH: Final = "e"
NAMES: Final = "abc"
MODULES: Final = (0, 1)
FOREVER: Final = 1_000


class Faults(msgspec.Struct, frozen=True):
    """What may still go wrong."""

    kills: int = 0
    cuts: int = 0
    losses: int = 0  # single requests lost, by themselves
    lates: int = 0  # turns of a core that take time, step by step
    drains: int = 0
    joins: int = 0  # starts, also of those that died
    wipes: int = 0
    restores: int = 0
    proof: bool = True  # a restart may prove that its predecessor is dead
    no_proof: bool = True  # or may not


class Node(msgspec.Struct, frozen=True):
    """A core, alive or not (`memory` is None)."""

    starts: int = 0
    dead: tuple[str, ...] = ()
    wish: Wish = "ready"
    memory: Memory | None = None
    running: tuple[int, ...] = ()
    until: int | None = None  # deadline; None: it never had one, so it runs nothing
    renewed: int = 0
    sent: int | None = None  # a renewal is under way since then
    read: Seen | None = None  # it took effect, and this is its answer
    act: Act | None = None  # a transaction is under way, also after its core has ended
    actor: str = ""  # the incarnation that sent it
    asked: int | None = None
    yes: tuple[str, ...] = ()
    cut: bool = False  # from etcd
    idle: bool = False  # it ended all that it ran, for good


class Store(msgspec.Struct, frozen=True):
    """etcd."""

    view: View | None = None
    live: tuple[tuple[Live, int], ...] = ()  # with the ticks that the lease has left
    released: tuple[tuple[str, str], ...] = ()

    def seen(self) -> Seen:
        """All of it, as one read gives it."""
        return Seen(self.view, tuple(one for one, _ in self.live), self.released)


class World(msgspec.Struct, frozen=True):
    """One moment."""

    nodes: tuple[Node, ...]
    etcd: Store = Store()
    saved: Store | None = None  # a snapshot of etcd
    known: int = 0  # progress that PostgreSQL keeps
    past: tuple[Past, ...] = ()  # and the base of that view
    views: int = 1_000  # the search ends at this number of a view
    identities: str = NAMES  # "abb": the third place starts a second core of the same identity
    faults: Faults = Faults()


def owner(view: View, module: int) -> str | None:
    """Who owns a module: each has its own order of preference."""
    order = NAMES if module == 0 else NAMES[::-1]
    return next((name for name in order if name in view.eligible), None)


def given(memory: Memory) -> set[int]:
    """The modules that the newest view gives to a core."""
    if memory.view is None or handover.membership(memory) is None:
        return set()
    return {module for module in MODULES if owner(memory.view, module) == memory.identity}


def owners(world: World, module: int) -> list[int]:
    """The cores that run a module."""
    return [place for place, node in enumerate(world.nodes) if module in node.running]


def two_owners(world: World) -> bool:
    """What must never be."""
    return any(len(owners(world, module)) > 1 for module in MODULES)


# -- one step -----------------------------------------------------------------------------------


def steps(world: World) -> Iterator[tuple[str, World]]:
    """Everything that can happen next."""
    if world.known // 2 > world.views:
        return
    yield "tick", tick(world)
    for place, node in enumerate(world.nodes):
        for name, after in (
            *_node_steps(world, place, node),
            *_fault_steps(world, place, node),
        ):
            yield f"{name} {NAMES[place]}", after
    yield from _etcd_faults(world)


def _node_steps(world: World, place: int, node: Node) -> Iterator[tuple[str, World]]:
    memory = node.memory
    if node.act is not None and not node.cut:
        yield "write", write(world, place)
    if memory is None:
        return
    if node.sent is None and node.act is None:
        if not node.cut:
            yield "turn", turn(world, place)
        if world.faults.lates:
            spent = replace(world.faults, lates=world.faults.lates - 1)
            yield "send", put(replace(world, faults=spent), place, replace(node, sent=0))
    elif node.sent is None:
        pass
    elif node.read is not None:
        yield "reply", reply(world, place)
    elif not node.cut:
        yield "effect", effect(world, place)
    if node.sent is not None and node.cut:
        yield "lost", put(world, place, replace(node, sent=None, read=None))
    if node.act is not None and node.cut:
        yield "lost write", put(world, place, replace(node, act=None))
    if set(node.running) - kept(memory):
        yield "stop", put(world, place, stopped(node))
    if node.wish == "draining" and not node.idle:
        yield "end", put(world, place, replace(node, running=(), idle=True))
    if node.until is not None and may_start(node) and given(memory) - set(node.running):
        yield "start", put(world, place, started(node))
    if node.cut and node.asked is None and node.until and handover.to_ask(memory):
        yield "ask", put(world, place, replace(node, asked=0, yes=()))
    if node.asked is not None:
        yield from _answers(world, place, node)


def _answers(world: World, place: int, node: Node) -> Iterator[tuple[str, World]]:
    assert node.memory is not None
    for other, incarnation in sorted(handover.to_ask(node.memory)):
        where = NAMES.index(incarnation[0])
        asked = world.nodes[where]
        if incarnation in node.yes or not asked.cut or asked.memory is None:
            continue
        if asked.memory.incarnation != incarnation and incarnation not in asked.dead:
            continue
        after = handover.answer(asked.memory, node.memory.incarnation, 0, TIMING)
        if after is None:
            yield f"{other} says no to", put(world, place, replace(node, asked=None, yes=()))
            continue
        told = put(world, where, replace(asked, memory=after))
        yield f"{other} says yes to", put(told, place, agreed(node, incarnation))


def agreed(node: Node, incarnation: str) -> Node:
    """One more said yes."""
    assert node.memory is not None
    assert node.asked is not None
    assert node.until is not None
    yes = tuple(sorted({*node.yes, incarnation}))
    if {one for _, one in handover.to_ask(node.memory)} - set(yes):
        return replace(node, yes=yes)
    until = int(handover.extended(node.asked, node.renewed, TIMING))
    return replace(node, asked=None, yes=(), until=max(node.until, until))


def _fault_steps(world: World, place: int, node: Node) -> Iterator[tuple[str, World]]:
    faults = world.faults
    if node.memory is None:
        if faults.joins:
            spent = replace(world, faults=replace(faults, joins=faults.joins - 1))
            for proof in (True, False):
                allowed = faults.proof if proof else faults.no_proof
                if node.starts and not allowed:
                    continue
                yield f"begin{' with proof' if proof else ''}", begin(spent, place, proof=proof)
                if not node.starts:
                    break
        return
    if faults.kills:
        spent = replace(world, faults=replace(faults, kills=faults.kills - 1))
        yield "kill", put(spent, place, died(node))
    if faults.drains and node.wish == "ready":
        spent = replace(world, faults=replace(faults, drains=faults.drains - 1))
        yield "drain", put(spent, place, replace(node, wish="draining"))
    if node.cut:
        yield "heal", put(world, place, replace(node, cut=False))
    elif faults.cuts:
        spent = replace(world, faults=replace(faults, cuts=faults.cuts - 1))
        yield "cut", put(spent, place, replace(node, cut=True))
    if faults.losses and node.sent is not None and not node.cut:
        spent = replace(world, faults=replace(faults, losses=faults.losses - 1))
        yield "lost", put(spent, place, replace(node, sent=None, read=None))
    if faults.losses and node.act is not None and not node.cut:
        spent = replace(world, faults=replace(faults, losses=faults.losses - 1))
        yield "lost write", put(spent, place, replace(node, act=None))


def _etcd_faults(world: World) -> Iterator[tuple[str, World]]:
    faults = world.faults
    if faults.wipes:
        spent = replace(faults, wipes=faults.wipes - 1)
        yield "wipe", replace(world, etcd=Store(), faults=spent)
    if faults.restores:
        if world.saved is None:
            yield "save", replace(world, saved=world.etcd)
        else:
            spent = replace(faults, restores=faults.restores - 1)
            live = tuple((one, int(TIMING.ttl)) for one, _ in world.saved.live)
            etcd = replace(world.saved, live=live)
            yield "restore", replace(world, etcd=etcd, saved=None, faults=spent)


# -- what steps do ------------------------------------------------------------------------------


def put(world: World, place: int, node: Node) -> World:
    """The world with another node at this place."""
    nodes = world.nodes
    return replace(world, nodes=(*nodes[:place], node, *nodes[place + 1 :]))


def begin(world: World, place: int, *, proof: bool = False) -> World:
    """A core starts."""
    node = world.nodes[place]
    name = NAMES[place]
    incarnation = f"{name}{node.starts}"
    earlier = tuple(f"{name}{number}" for number in range(node.starts)) if proof else ()
    memory = Memory(
        world.identities[place], incarnation, EPOCH, progress=world.known, past=world.past
    )
    fresh = Node(starts=node.starts + 1, dead=earlier, memory=memory, cut=node.cut)
    return put(world, place, fresh)


def died(node: Node) -> Node:
    """Nothing of it runs any more."""
    return Node(starts=node.starts, cut=node.cut, act=node.act, actor=node.actor)


def kept(memory: Memory) -> set[int]:
    """The modules that may go on where they run."""
    return given(memory) if handover.may_keep(memory) else set()


def stopped(node: Node) -> Node:
    """It ended what the newest view does not give to it."""
    assert node.memory is not None
    keep = kept(node.memory)
    return replace(node, running=tuple(one for one in node.running if one in keep))


def started(node: Node) -> Node:
    """It started what the newest view gives to it."""
    assert node.memory is not None
    return replace(node, running=tuple(sorted(given(node.memory))))


def turn(world: World, place: int) -> World:
    """A core does all that there is to do, at once."""
    world = put(world, place, replace(world.nodes[place], sent=0))
    world = reply(effect(world, place), place)
    node = world.nodes[place]
    if node.act is not None:
        world = write(world, place)
        node = world.nodes[place]
    if node.memory is None:
        return world
    node = stopped(node)
    if node.until is not None and may_start(node):
        node = started(node)
    return put(world, place, node)


def may_start(node: Node) -> bool:
    """Whether it would start what it is given."""
    return node.memory is not None and not node.idle and handover.may_start(node.memory)


def effect(world: World, place: int) -> World:
    """A renewal reaches etcd: the lease is renewed or the core registered, and all is read."""
    node = world.nodes[place]
    memory = node.memory
    assert memory is not None
    me = Live(
        memory.identity,
        memory.incarnation,
        node.wish,
        dead=node.dead,
        remembers=handover.remembers(memory),
    )
    ttl = int(TIMING.ttl)
    live = {one.identity: (one, left) for one, left in world.etcd.live}
    present = live.get(memory.identity)
    own = present is not None and present[0].incarnation == memory.incarnation
    if present is not None and own and memory.amiss is None:  # it is not told at every view
        me = replace(me, remembers=present[0].remembers)
    if (
        present is None
        or present[0].incarnation in node.dead
        or present[0].incarnation == memory.incarnation
    ):
        live[memory.identity] = (me, ttl)
    etcd = replace(world.etcd, live=tuple(live[name] for name in sorted(live)))
    return put(replace(world, etcd=etcd), place, replace(node, read=etcd.seen()))


def reply(world: World, place: int) -> World:
    """The answer of etcd arrives: the core learns, moves its deadline and decides."""
    node = world.nodes[place]
    seen, sent = node.read, node.sent
    assert node.memory is not None
    assert seen is not None
    assert sent is not None
    memory = handover.take(node.memory, seen, 0)
    if handover.doubtful(memory):
        memory = handover.told(memory, seen, world.known, world.past, 0)
    node = replace(node, memory=memory, sent=None, read=None)
    until = handover.deadline(memory, seen, sent, TIMING)
    if until is not None:
        node = replace(node, until=max(int(until), node.until or int(until)), renewed=sent)
    if handover.unlimited(memory):
        node = replace(node, until=FOREVER)
    settled = not set(node.running) - kept(memory)
    leave = handover.leaving(memory, seen) if node.idle else None
    act = leave or handover.decide(memory, seen, 0, TIMING, settled=settled)
    world = recorded(world, memory.view)
    return put(world, place, replace(node, act=act, actor=memory.incarnation))


def recorded(world: World, view: View | None) -> World:
    """PostgreSQL keeps the newest view that anybody took."""
    if view is None or view.progress <= world.known:
        return world
    return replace(world, known=view.progress, past=view.base)


def write(world: World, place: int) -> World:
    """A transaction reaches etcd."""
    node = world.nodes[place]
    act, actor = node.act, node.actor
    etcd = world.etcd
    left = False
    if isinstance(act, Release):
        released = dict(etcd.released) | {actor: act.view.name}
        if any(one.incarnation == actor for one, _ in etcd.live):
            etcd = replace(etcd, released=tuple(sorted(released.items())))
    elif act is not None and unchanged(act, etcd):
        etcd = replace(etcd, view=act.view)
        left = node.idle and act.view.member(actor) is None
        if left:
            world = recorded(world, act.view)
            live = tuple(one for one in etcd.live if one[0].incarnation != actor)
            etcd = replace(etcd, live=live)
    node = replace(node, act=None, actor="")
    after = died(node) if left else node
    return put(replace(world, etcd=_tidy(etcd)), place, after)


def unchanged(act: Write, etcd: Store) -> bool:
    """Whether the transaction's comparisons hold."""
    return act.seen.view == etcd.view and act.seen.live == tuple(one for one, _ in etcd.live)


def _tidy(etcd: Store) -> Store:
    there = {one.incarnation for one, _ in etcd.live}
    return replace(etcd, released=tuple(one for one in etcd.released if one[0] in there))


def tick(world: World) -> World:
    """Time passes: leases expire, and the kernel ends those that are past their deadline."""
    live = tuple((one, left - 1) for one, left in world.etcd.live if left > 1)
    etcd = _tidy(replace(world.etcd, live=live))
    return replace(world, etcd=etcd, nodes=tuple(_older(node) for node in world.nodes))


def _older(node: Node) -> Node:
    memory = node.memory
    if memory is None:
        return node
    until = node.until
    if until is not None and until != FOREVER:
        until -= 1
        if until <= 0:
            return died(node)
    limit = -int(TIMING.limit)
    memory = replace(
        memory,
        promises=tuple((one, end - 1) for one, end in memory.promises if end > 1),
        lost=tuple((one, max(limit, since - 1)) for one, since in memory.lost),
        amiss=None if memory.amiss is None else max(limit, memory.amiss - 1),
    )
    asked = None if node.asked is None or node.asked <= -TIMING.interval else node.asked - 1
    return replace(
        node,
        memory=memory,
        until=until,
        renewed=max(limit, node.renewed - 1),
        sent=None if node.sent is None else max(-6, node.sent - 1),
        asked=asked,
        yes=node.yes if asked is not None else (),
    )
