"""The view as an operator sees it: who is a member, who owns what and why, who waits for whom."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec

from placeos.api import errors
from placeos.api.call import Call, Reply, reply
from placeos.api.cluster import (
    Stats,
    ask_stats,
    count_owned,
    not_registered,
    owners_of,
    place,
    stats_of_nodes,
)
from placeos.api.cluster_orders import version
from placeos.api.live import module_views
from placeos.api.resource import DEFAULT_LIMIT, MAX_LIMIT, MAX_OFFSET, PAGING, page_headers
from placeos.api.routes import Parameter, Role, Route
from placeos.cluster import orders, ownership, reading
from placeos.cluster.etcd import EtcdError
from placeos.cluster.reading import Reading
from placeos.cluster.registry import PREFIX, NodeInfo
from placeos.cluster.view import Member, Past, View, owner
from placeos.model.module import Module
from placeos.store import queries

log = logging.getLogger("placeos.api")


class CoreState(msgspec.Struct, kw_only=True):
    """A registered core. `answers`: to questions of this service, at this moment."""

    id: str
    uri: str
    incarnation: str
    version: str
    zone: str
    wish: str
    eligible: bool
    modules_owned: int | None
    lease_age: float | None
    answers: bool
    drained: bool | None
    """Whether an administrator wants it drained; None while etcd is away."""


class MemberState(Member, frozen=True, kw_only=True):
    """A member of the view. `released`: whether it let go of all that others own by this view;
    None while etcd is away."""

    registered: bool
    released: bool | None


class ViewState(msgspec.Struct, kw_only=True):
    """The newest view, and how far it is carried out. `base`: the members of the last completed
    view and what became of each (`left`, `lost`, `dead`; empty: it is there)."""

    number: int
    """0: there is none."""
    version: str
    completed: bool
    current: bool
    """False: etcd is away, and this is the last that was seen."""
    members: list[MemberState]
    base: list[Past]
    exceptions: dict[str, str]
    waiting_for: list[str]
    cores: list[CoreState]
    drained: list[str]
    """Nodes that an administrator wants drained, also while they are not there."""
    asserted: list[str]
    """Incarnations that an administrator says run no more."""


class Weight(msgspec.Struct):
    """How much a module belongs to a core: the eligible one with the greatest weight owns it.
    64 bits as 16 hexadecimal digits."""

    node: str
    weight: str
    eligible: bool


class OwnedModule(msgspec.Struct, omit_defaults=True):
    """A module and the node that owns it; None while nobody is eligible."""

    id: str
    name: str
    driver_id: str
    running: bool
    connected: bool
    node: str | None
    exception: bool = False
    custom_name: str | None = None
    control_system_id: str | None = None


class Explanation(msgspec.Struct, kw_only=True):
    """Why a module is where it is."""

    module: OwnedModule
    view: int
    completed: bool
    weights: list[Weight]
    """Of all members, the greatest first."""
    runs_on: list[str]
    """Nodes that say that it runs there."""
    why: list[str]
    waiting_for: list[str]
    errors: list[str]


def routes() -> list[Route]:
    """All routes of the view."""
    common: dict[str, Any] = {"tag": "Cluster", "role": Role.ADMIN, "scopes": ("cluster",)}
    node = Parameter("node", str, "only the modules of this node")
    return [
        Route(method="GET", path="/cluster/view", handler=show, returns=ViewState,
              summary="The view, and what it waits for", **common),
        Route(method="GET", path="/cluster/modules", handler=modules, query=(node, *PAGING),
              returns=list[OwnedModule], summary="Which node owns which module", **common),
        Route(method="GET", path="/cluster/explain/{module_id}", handler=explain,
              returns=Explanation, summary="Why a module is where it is", **common),
    ]  # fmt: skip


# -- the view -----------------------------------------------------------------------------------


async def show(call: Call) -> Reply:
    """By what etcd holds now; while it is away by what this service knows."""
    found, asked, owned = await asyncio.gather(_read(call), _ask_everybody(call), count_owned(call))
    view = found.seen.view if found is not None else call.services.router.view
    nodes = [node for node, _ in asked]
    told = orders.drained(found) if found is not None else {}
    return reply(
        ViewState(
            number=view.number if view is not None else 0,
            version=version(view) if view is not None else "",
            completed=view is not None and view.completed,
            current=found is not None,
            members=_members(view, found, nodes),
            base=list(view.base) if view is not None else [],
            exceptions=dict(view.exceptions) if view is not None else {},
            waiting_for=waiting_for(view, found, [stats for _, stats in asked]),
            cores=[
                CoreState(
                    id=node.identity,
                    uri=node.address,
                    **place(node, stats, view, owned),
                    answers=stats is not None,
                    drained=node.identity in told if found is not None else None,
                )
                for node, stats in asked
            ],
            drained=sorted(told),
            asserted=list(found.seen.asserted) if found is not None else [],
        )
    )


def waiting_for(
    view: View | None, found: Reading | None, stats: Iterable[Stats | None]
) -> list[str]:
    """Why a view is not completed: by what etcd holds, and in the words of the cores."""
    if view is None:
        reasons = ["there is no view yet"]
    elif view.completed:
        reasons = [] if view.eligible else [_why_dark(found)]
    else:
        reasons = _unreleased(view, found) if found is not None else []
    for one in stats:
        told = (one or {}).get("membership") or {}
        if _is_up_to_date(view, told.get("view", 0)):
            reasons += told.get("waiting_for", ())
    if view is not None and not view.completed and not reasons:
        reasons.append(f"view {view.number} was written a moment ago")
    return list(dict.fromkeys(reasons))


def _is_up_to_date(view: View | None, number: int) -> bool:
    """Whether a core that knows the view of this number may have something to say of this one:
    it has read it, or does not believe it."""
    if view is None or number == 0:
        return True
    return number > view.number or (number == view.number and not view.completed)


def _why_dark(found: Reading | None) -> str:
    told = sorted(orders.drained(found)) if found is not None else []
    return "no core takes modules" + (f"; told to be drained: {', '.join(told)}" if told else "")


def _unreleased(view: View, found: Reading) -> list[str]:
    """Told as `cluster.reasons` tells it, so that it is shown once."""
    there = {one.incarnation for one in found.seen.live}
    released = dict(found.seen.released)
    reasons = [
        f"{one.identity} has not released view {view.number}"
        for one in view.members
        if released.get(one.incarnation) != view.name
    ]
    absent = [one.identity for one in view.members if one.incarnation not in there]
    return reasons + [f"{one} is not registered any more" for one in absent]


def _members(
    view: View | None, found: Reading | None, nodes: Sequence[NodeInfo]
) -> list[MemberState]:
    if view is None:
        return []
    if found is not None:
        there = {one.incarnation for one in found.seen.live}
        released = dict(found.seen.released)
    else:
        there, released = {node.incarnation for node in nodes}, {}
    return [
        MemberState(
            *msgspec.structs.astuple(one),
            registered=one.incarnation in there,
            released=None if found is None else released.get(one.incarnation) == view.name,
        )
        for one in view.members
    ]


async def _read(call: Call) -> Reading | None:
    try:
        return reading.read(await call.services.etcd.list(PREFIX))
    except EtcdError as error:
        log.info("cluster shown without etcd", extra={"reason": str(error)})
        return None


async def _ask_everybody(call: Call) -> list[tuple[NodeInfo, Stats | None]]:
    """Every registered node, with what it says of itself if it answers."""
    nodes = sorted(call.services.router.nodes(), key=lambda node: node.identity)
    answers = await asyncio.gather(*(ask_stats(call, node.identity) for node in nodes))
    return list(zip(nodes, answers, strict=True))


# -- modules ------------------------------------------------------------------------------------


async def modules(call: Call) -> Reply:
    """A page of modules with their owners."""
    limit = call.number("limit", DEFAULT_LIMIT, highest=MAX_LIMIT)
    offset = call.number("offset", 0, highest=MAX_OFFSET)
    view, wanted = call.services.router.view, call.text("node")
    if wanted is not None:
        _check_node(call, view, wanted)
    text = queries.search(Module, call.text("q") or "")
    ids = await queries.ids(call.database, Module, *(() if text is None else (text,)))
    if wanted is not None:
        found = await owners_of(view, ids) if view is not None else []
        ids = [id for id, one in zip(ids, found, strict=False) if one == wanted]
    page = await call.database.some(Module, ids[offset : offset + limit])
    headers = page_headers(call, "mod", offset, len(page), len(ids), limit)
    return reply(await _owned(call, view, page), headers=headers)


def _check_node(call: Call, view: View | None, identity: str) -> None:
    """Raises 404 for a node that neither is registered nor a member."""
    known = {node.identity for node in call.services.router.nodes()}
    if view is not None:
        known |= {member.identity for member in view.members}
    if identity not in known:
        raise not_registered(identity)


async def _owned(call: Call, view: View | None, found: Sequence[Module]) -> list[OwnedModule]:
    shown = await module_views(call, found)
    return [
        OwnedModule(
            id=module.id,
            name=module.name,
            driver_id=module.driver_id,
            running=module.running,
            connected=bool(one["connected"]),
            node=owner(view, module.id) if view is not None else None,
            exception=view is not None and _exception(view, module.id) is not None,
            custom_name=module.custom_name,
            control_system_id=module.control_system_id,
        )
        for module, one in zip(found, shown, strict=True)
    ]


def _exception(view: View, module: str) -> str | None:
    """The node that an exception in force names."""
    wanted = dict(view.exceptions).get(module)
    return wanted if wanted in view.eligible else None


# -- one module ---------------------------------------------------------------------------------


async def explain(call: Call) -> Reply:
    """Owner, weights, where it runs, and what it waits for."""
    id = call.path("module_id")
    module = await call.database.get(Module, id)
    if module is None:
        raise errors.not_found(f"could not find module {id!r}")
    view = call.services.router.view
    found, stats = await asyncio.gather(_read(call), stats_of_nodes(call))
    [shown] = await _owned(call, view, [module])
    weights = weigh(view, id) if view is not None else []
    runs_on = sorted(
        node.identity
        for node, one in stats
        if any(id in process.get("modules", ()) for process in one.get("processes", ()))
    )
    told = [text for _, one in stats for text in one.get("errors", {}).get(id, ())]
    wishes = {node.identity: node.wish for node in call.services.router.nodes()}
    waits = _waits(shown, view, runs_on, {node.identity for node, _ in stats})
    if view is None or not view.completed:
        waits += waiting_for(view, found, [one for _, one in stats])
    return reply(
        Explanation(
            module=shown,
            view=view.number if view is not None else 0,
            completed=view is not None and view.completed,
            weights=weights,
            runs_on=runs_on,
            why=why(view, shown, weights, wishes),
            waiting_for=waits,
            errors=told,
        )
    )


def weigh(view: View, module: str) -> list[Weight]:
    """The weights of a module on all members, the greatest first."""
    hashed = ownership.text_hash(module)
    found = sorted(
        (
            (ownership.weight(hashed, ownership.text_hash(one.identity)), one.identity, one)
            for one in view.members
        ),
        reverse=True,
    )
    return [Weight(name, f"{weight:016x}", one.eligible) for weight, name, one in found]


def why(
    view: View | None, module: OwnedModule, weights: Sequence[Weight], wishes: Mapping[str, str]
) -> list[str]:
    """Why the owner is the owner, in words."""
    if view is None:
        return ["there is no view yet, so nobody owns anything"]
    if module.node is None:
        return ["no core takes modules at present, so nobody owns it"]
    if module.exception:
        return [f"an exception of view {view.number} gives it to {module.node}"]
    count = len(view.eligible)
    if count == 1:
        reasons = [f"{module.node} is the only core that takes modules"]
    else:
        reasons = [f"of the {count} cores that take modules it weighs most on {module.node}"]
    for one in weights:
        if one.node == module.node:
            break
        state = wishes.get(one.node, "not registered")
        reasons.append(f"it weighs more on {one.node}, which takes no modules: it is {state}")
    return reasons


def _waits(
    module: OwnedModule, view: View | None, runs_on: Sequence[str], answering: set[str]
) -> list[str]:
    """What keeps it from running where it should."""
    if not module.running:
        return [f"{one} to stop it" for one in runs_on] or ["being started: it is stopped"]
    reasons = [f"{one} to stop it" for one in runs_on if one != module.node]
    if module.node is None or view is None or not view.completed:
        return reasons
    if module.node not in answering:
        reasons.append(f"{module.node}, which does not answer")
    elif module.node not in runs_on:
        reasons.append(f"{module.node} to start it")
    return reasons
