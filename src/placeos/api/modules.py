"""Modules: their records, running them, calling them directly."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
from sqlalchemy import or_

from placeos.api import collation, errors, execution, grants
from placeos.api.call import Call, Reply, nothing, reply
from placeos.api.cluster import stats_of_nodes
from placeos.api.grants import Verb
from placeos.api.live import module_views
from placeos.api.ping import ping as send_pings
from placeos.api.resource import Change, Filter, Resource, Roles, View, unpaged, view
from placeos.api.routes import Parameter, Role, Route
from placeos.api.systems import driver_summary
from placeos.model.driver import Driver
from placeos.model.driver import Role as DriverRole
from placeos.model.module import Module, adopt, hostname
from placeos.model.settings import Settings
from placeos.model.system import System
from placeos.model.zone import Zone
from placeos.state import values
from placeos.store import queries, records
from placeos.store.tables import mod
from placeos.wire.errors import CallError
from placeos.wire.frame import Command, Header

ONE = "/modules/{id}"
LOAD_TIMEOUT = 10.0  # seconds


async def zones_of(call: Call, module: Module) -> Sequence[str]:
    """The zones of all systems that contain the module."""
    found = await queries.systems_with(call.database, module.id)
    return [zone for system in found for zone in system.zones]


async def prepare(change: Change[Module]) -> None:
    """Take over from the driver what a module has in common with it."""
    module = change.after
    driver = await change.session.get(Driver, module.driver_id)
    if driver is None:
        raise errors.invalid("driver_id", "does not exist")
    adopt(module, driver)
    if change.before is None and change.body.get("alert_level") is None:
        module.alert_level = driver.alert_level


async def show_view(call: Call, module: Module) -> View:
    """With its node; with `complete` also its driver and, for logic, its system."""
    [shown] = await module_views(call, [module])
    node = call.services.router.owner(module.id)
    if node is not None:
        shown["core_node"] = node
    if not call.flag("complete"):
        return shown
    driver = await call.database.get(Driver, module.driver_id)
    if driver is not None:
        shown["driver"] = driver_summary(driver)
    if module.control_system_id is not None:
        system = await call.database.get(System, module.control_system_id)
        if system is not None:
            zones = await call.database.some(Zone, system.zones)
            shown["control_system"] = {
                "name": system.name,
                "zone_data": [view(zone) for zone in zones],
            }
    return shown


def _without_logic(call: Call) -> queries.Condition | None:
    return mod.c.role != DriverRole.LOGIC if call.flag("no_logic") else None


def _running(call: Call) -> queries.Condition | None:
    wanted = call.optional_flag("running")
    condition: queries.Condition | None = None if wanted is None else mod.c.running.is_(wanted)
    return condition


def _as_of(call: Call) -> queries.Condition | None:
    second = call.optional_number("as_of")
    return None if second is None else mod.c.updated_at <= second


def _driver(call: Call) -> queries.Condition | None:
    wanted = call.text("driver_id")
    return None if wanted is None else mod.c.driver_id == wanted


resource = Resource(
    kind=Module,
    path="modules",
    tag="Modules",
    roles=Roles(Role.SUPPORT, Role.SUPPORT, Role.SUPPORT, Role.SUPPORT, Role.SUPPORT),
    granted=True,
    filters=(
        Filter("driver_id", str, _driver),
        Filter("no_logic", bool, _without_logic),
        Filter("running", bool, _running),
        Filter("as_of", int, _as_of, "updated at or before this second"),
        Filter("control_system_id", str, lambda call: None, "the modules of a system, unpaged"),
    ),
    show_query=(Parameter("complete", bool, "with driver and control_system"),),
    without=frozenset({"index"}),
    views=module_views,
    show_view=show_view,
    prepare=prepare,
    zones=zones_of,
)


def routes() -> list[Route]:
    """All routes of modules."""
    common: dict[str, Any] = {"tag": "Modules"}
    admin = {"role": Role.ADMIN, **common}
    filters = tuple(Parameter(one.name, one.type, one.summary) for one in resource.filters)
    return [
        *resource.routes(),
        Route(method="GET", path="/modules", handler=index, role=Role.USER, scopes=("modules",),
              query=filters, returns=list[Module], summary="List modules", **common),
        Route(method="POST", path=f"{ONE}/start", handler=start, role=Role.USER,
              summary="Start a module", **common),
        Route(method="POST", path=f"{ONE}/stop", handler=stop, role=Role.USER,
              summary="Stop a module", **common),
        Route(method="GET", path=f"{ONE}/settings", handler=settings, returns=list[Settings],
              summary="Its settings, lowest precedence first", **admin),
        Route(method="GET", path=f"{ONE}/state", handler=state, role=Role.SUPPORT,
              returns=dict[str, str], summary="Live state as JSON texts", **common),
        Route(method="GET", path=f"{ONE}/state/{{key}}", handler=state_key, returns=str,
              summary="JSON text of one live value", **admin),
        Route(method="GET", path=f"{ONE}/error", handler=error, returns=list[str],
              summary="What went wrong with it lately", **admin),
        Route(method="POST", path=f"{ONE}/exec/{{method}}", handler=execute,
              body=list[object], returns=object, summary="Call a function", **admin),
        Route(method="POST", path=f"{ONE}/load", handler=load, returns=bool,
              summary="Load settings and code again", **admin),
        Route(method="POST", path=f"{ONE}/ping", handler=ping, role=Role.SUPPORT,
              returns=dict[str, object], summary="Whether its host answers", **common),
    ]  # fmt: skip


async def index(call: Call) -> Reply:
    """A page of modules, or all of one system."""
    system_id = call.text("control_system_id")
    if system_id is None:
        return await resource.index(call)
    await resource.permit(call, Verb.READ, Role.SUPPORT)
    system = await call.database.get(System, system_id)
    listed = mod.c.id.in_(system.modules) if system is not None else mod.c.id.is_(None)
    found = await queries.listed(
        call.database, Module, or_(mod.c.control_system_id == system_id, listed)
    )
    order = {id: n for n, id in enumerate(system.modules if system is not None else ())}
    found.sort(key=lambda module: order.get(module.id, len(order)))
    return unpaged("mod", [view(module) for module in found])


async def start(call: Call) -> Reply:
    """Set it running; core does the rest."""
    return await _set_running(call, True)


async def stop(call: Call) -> Reply:
    """Set it stopped; core does the rest."""
    return await _set_running(call, False)


async def settings(call: Call) -> Reply:
    """Collated settings."""
    module = await resource.load(call)
    return reply([view(one) for one in await collation.of_module(call, module)])


async def state(call: Call) -> Reply:
    """All live values."""
    module = await resource.load(call)
    return reply(await values.read_all(call.services.redis, module.id))


async def state_key(call: Call) -> Reply:
    """A JSON string that holds the JSON text of one value."""
    module = await resource.load(call)
    key = call.path("key")
    value = await call.services.state.read(module.id, key)
    if value is None:
        raise errors.not_found(f"module {module.id!r} has no value {key!r}")
    return reply(value.decode("utf-8", "replace"))


async def error(call: Call) -> Reply:
    """What its core remembers of its errors; 404 when there are none."""
    module = await resource.load(call)
    found = [
        text
        for _, stats in await stats_of_nodes(call)
        for text in stats.get("errors", {}).get(module.id, ())
    ]
    if not found and not module.has_runtime_error:
        raise errors.not_found(f"module {module.id!r} has no errors")
    return reply(found)


async def execute(call: Call) -> Reply:
    """Call a function by module id. The id need not be looked up: its core knows it."""
    module_id = call.path("id")
    where = {"sys_id": None, "module_name": module_id, "index": 1}
    return await execution.execute(call, module_id, call.path("method"), where)


async def load(call: Call) -> Reply:
    """Ask the module's core to load its settings and driver again."""
    module = await resource.load(call)
    header = Header(Command.LOAD, module=module.id, user=call.claims.sub)
    try:
        _, payload = await call.services.router.request(header, b"", timeout=LOAD_TIMEOUT)
    except CallError as error:
        where = {"sys_id": module.control_system_id, "module_name": module.resolved_name}
        raise execution.failed(error, where) from error
    return Reply(payload or b"true")


async def ping(call: Call) -> Reply:
    """Three echo requests to the module's host."""
    module = await resource.load(call)
    if module.role == DriverRole.LOGIC:
        raise errors.invalid("role", "a logic module has no host")
    driver = await call.database.get(Driver, module.driver_id)
    host = hostname(module, driver)
    if host is None:
        raise errors.invalid("uri", "names no host")
    return reply(await send_pings(host))


async def _set_running(call: Call, running: bool) -> Reply:
    module = await resource.load(call)
    if module.running != running:
        zones = () if call.claims.is_support else await zones_of(call, module)
        await grants.require(call, Role.SUPPORT, Verb.OPERATE, zones)
        async with call.database.transaction() as session:
            before = await session.get(Module, module.id, lock=True)
            if before is None:
                raise resource.missing(module.id)
            after = msgspec.structs.replace(before, running=running)
            after.tidy()
            await records.update(session, before, after)
    return nothing()
