"""Zones: the tree of places."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from sqlalchemy import or_

from placeos.api import errors, execution
from placeos.api.call import Call, Reply, reply
from placeos.api.execution import resolve, timeout_of
from placeos.api.resource import Change, Filter, Resource, Roles, View, view
from placeos.api.routes import Parameter, Role, Route
from placeos.model.system import System
from placeos.model.zone import Zone
from placeos.store import queries
from placeos.store.tables import zone
from placeos.wire.errors import CallError
from placeos.wire.frame import Command, Header

ONE = "/zones/{id}"
ROOT = "root"
CONCURRENT_CALLS = 64  # of one zone execute


def _parents(call: Call) -> queries.Condition | None:
    wanted = call.words("parent_id")
    if not wanted:
        return None
    condition = zone.c.parent_id.in_([id for id in wanted if id != ROOT])
    return or_(condition, zone.c.parent_id.is_(None)) if ROOT in wanted else condition


def _tags(call: Call) -> queries.Condition | None:
    wanted = call.words("tags")
    return zone.c.tags.contains(wanted) if wanted else None


async def views(call: Call, zones: Sequence[Zone]) -> list[View]:
    """With `include_children_count`: how many children each has."""
    shown = [view(one) for one in zones]
    if call.flag("include_children_count"):
        counts = await queries.children_counts(call.database, [one.id for one in zones])
        for one in shown:
            one["children_count"] = counts.get(str(one["id"]), 0)
    return shown


async def prepare(change: Change[Zone]) -> None:
    """A zone cannot move below itself."""
    parent_id = change.after.parent_id
    if change.before is None or not parent_id or parent_id == change.before.parent_id:
        return
    await change.session.execute("SELECT pg_advisory_xact_lock(hashtext('zone tree'))")
    if await queries.would_loop(change.session, change.after.id, parent_id):
        raise errors.invalid("parent_id", "is the zone itself or below it")


async def zones_of(call: Call, one: Zone) -> Sequence[str]:
    """The zone itself decides; for one that does not exist yet, its parent."""
    return [one.id or one.parent_id or ""]


resource = Resource(
    kind=Zone,
    path="zones",
    tag="Zones",
    roles=Roles(Role.USER, Role.USER, Role.SUPPORT, Role.SUPPORT, Role.SUPPORT),
    granted=True,
    filters=(
        Filter("parent_id", str, _parents, "any of a comma list; `root`: without a parent"),
        Filter("tags", str, _tags, "all of a comma list"),
        Filter("include_children_count", bool, lambda call: None),
    ),
    without=frozenset({"index"}),
    views=views,
    prepare=prepare,
    zones=zones_of,
)


def routes() -> list[Route]:
    """All routes of zones."""
    common: dict[str, Any] = {"tag": "Zones"}
    filters = tuple(Parameter(one.name, one.type, one.summary) for one in resource.filters)
    return [
        *resource.routes(),
        Route(method="GET", path="/zones", handler=index, role=Role.USER, scopes=("zones",),
              query=filters, returns=list[Zone], summary="List zones", **common),
        Route(method="GET", path="/zones/tags", handler=tags, role=Role.USER, returns=list[str],
              summary="All tags in use", **common),
        Route(method="POST", path=f"{ONE}/exec/{{slug}}/{{method}}", handler=execute,
              role=Role.SUPPORT, body=list[object], returns=dict[str, list[str]],
              summary="Call a function in every system of the zone", **common),
    ]  # fmt: skip


async def index(call: Call) -> Reply:
    """A page of zones; the whole list is for support only."""
    if not (call.words("parent_id") or call.words("tags")) and not call.claims.is_support:
        raise errors.forbidden()
    return await resource.index(call)


async def tags(call: Call) -> Reply:
    """All tags in use."""
    return reply(await queries.zone_tags(call.database))


async def execute(call: Call) -> Reply:
    """Call a function of the same module in every system of the zone, side by side."""
    one = await resource.load(call)
    arguments, timeout = await execution.read_arguments(call), timeout_of(call)
    systems = await queries.systems_in(call.database, one.id)
    outcome: dict[str, list[str]] = {"success": [], "failure": [], "module_missing": []}
    turns = asyncio.Semaphore(CONCURRENT_CALLS)

    async def run(system: System) -> None:
        async with turns:
            kind = await _execute(call, system.id, arguments, timeout)
        outcome[kind].append(system.id)

    async with asyncio.TaskGroup() as group:
        for system in systems:
            group.create_task(run(system))
    return reply(outcome)


async def _execute(call: Call, system_id: str, arguments: bytes, timeout: float) -> str:
    module_id = await resolve(call, system_id, call.path("slug"))
    if module_id is None:
        return "module_missing"
    header = Header(
        Command.EXECUTE,
        module=module_id,
        function=call.path("method"),
        user=call.claims.sub,
        clearance=call.claims.clearance,
    )
    try:
        await call.services.router.request(header, arguments, timeout=timeout)
    except CallError:
        return "failure"
    return "success"
