"""Systems: rooms, what is in them, and calling what is in them."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from sqlalchemy import func

from placeos.api import collation, errors, execution, grants
from placeos.api.call import Call, Reply, nothing, reply
from placeos.api.execution import place, resolve
from placeos.api.grants import Verb
from placeos.api.live import module_views
from placeos.api.resource import Change, Filter, Resource, Roles, View, unpaged, view
from placeos.api.routes import Parameter, Role, Route
from placeos.model.driver import Driver
from placeos.model.module import Module
from placeos.model.settings import Settings
from placeos.model.system import System
from placeos.model.text import is_email
from placeos.model.validation import check, draft
from placeos.model.zone import Zone
from placeos.state import values
from placeos.state.lookups import Lookups
from placeos.store import queries, records
from placeos.store.tables import sys

ONE = "/systems/{id}"
CONTROL = ("systems", "control")
UNSEEN = 5 * 3600  # seconds since a new sign was seen


async def find(call: Call, id: str) -> System | None:
    """A system by its id, or the first with an e-mail address."""
    if is_email(id):
        return await queries.system_by_email(call.database, id)
    return await call.database.get(System, id)


async def show_view(call: Call, system: System) -> View:
    """With `complete`: its zones and modules in full."""
    shown = view(system)
    if call.flag("complete"):
        shown["zone_data"] = [view(one) for one in await _zones(call, system)]
        modules = await queries.modules_of(call.database, system)
        drivers = await _drivers(call, modules)
        views = await module_views(call, [one for one in modules if one.driver_id in drivers])
        for one in views:
            one["driver"] = drivers[str(one["driver_id"])]
        shown["module_data"] = views
    return shown


async def prepare(change: Change[System]) -> None:
    """A new sign counts as not seen for a while."""
    change.after.signage_last_seen = int(time.time()) - UNSEEN


async def zones_of(call: Call, system: System) -> Sequence[str]:
    """The zones whose grants decide."""
    return system.zones


resource = Resource(
    kind=System,
    path="systems",
    tag="Systems",
    roles=Roles(Role.USER, Role.USER, Role.SUPPORT, Role.SUPPORT, Role.ADMIN),
    granted=True,
    filters=(
        Filter("bookable", bool, lambda call: _flag(call, "bookable")),
        Filter("capacity", int, lambda call: _capacity(call), "at least so many people"),
        Filter("email", str, lambda call: _emails(call, "email"), "any of a comma list"),
        Filter("features", str, lambda call: _all(call, "features"), "all of a comma list"),
        Filter("module_id", str, lambda call: _has(call, "module_id", "modules")),
        Filter("zone_id", str, lambda call: _all(call, "zone_id", "zones"), "all of a comma list"),
        Filter("public", bool, lambda call: sys.c.public if call.flag("public") else None),
        Filter("signage", bool, lambda call: _flag(call, "signage")),
    ),
    show_query=(Parameter("complete", bool, "with zone_data and module_data"),),
    without=frozenset({"update"}),
    find=find,
    show_view=show_view,
    prepare=prepare,
    zones=zones_of,
)


def routes() -> list[Route]:
    """All routes of systems."""
    common: dict[str, Any] = {"tag": "Systems"}
    version = Parameter("version", int, "the version that was read", required=True)
    single = Parameter("single_occurrence", bool, "only modules in no other system (default)")
    control = {"scopes": CONTROL, **common}
    gated = {"scopes": ("systems",), **common}
    return [
        *(_guests(route) for route in resource.routes()),
        *(
            Route(method=method, path=ONE, handler=update, role=Role.USER, body=System,
                  returns=System, query=(version,), summary="Change a system", **gated)
            for method in ("PUT", "PATCH")
        ),
        Route(method="GET", path="/systems/with_emails", handler=with_emails, role=Role.USER,
              query=(Parameter("in", str, "comma list", required=True),), returns=list[System],
              summary="Systems with any of these e-mail addresses", **gated),
        Route(method="GET", path=f"{ONE}/zones", handler=zones, role=Role.ADMIN,
              scopes=("systems", "guest"), returns=list[Zone],
              summary="The zones of a system, in its order", **common),
        Route(method="GET", path=f"{ONE}/settings", handler=settings, role=Role.ADMIN,
              returns=list[Settings], summary="Its settings, lowest precedence first", **common),
        Route(method="GET", path=f"{ONE}/types", handler=types, role=Role.USER,
              returns=dict[str, int], summary="How many modules of each name", **control),
        Route(method="GET", path=f"{ONE}/functions/{{slug}}", handler=functions, role=Role.USER,
              returns=dict[str, object], summary="The functions of a module", **control),
        Route(method="PUT", path=f"{ONE}/module/{{module_id}}", handler=add_module,
              role=Role.USER, returns=System, summary="Add a module", **common),
        Route(method="DELETE", path=f"{ONE}/module/{{module_id}}", handler=remove_module,
              role=Role.USER, returns=System, status=202, summary="Remove a module", **gated),
        Route(method="POST", path=f"{ONE}/start", handler=start, role=Role.USER, query=(single,),
              summary="Start its modules", **gated),
        Route(method="POST", path=f"{ONE}/stop", handler=stop, role=Role.USER, query=(single,),
              summary="Stop its modules", **gated),
        Route(method="GET", path=f"{ONE}/{{slug}}", handler=state, role=Role.USER,
              returns=dict[str, str], summary="Live state of a module as JSON texts", **control),
        Route(method="GET", path=f"{ONE}/{{slug}}/{{key}}", handler=state_key, role=Role.USER,
              returns=object, summary="One live value of a module", **control),
        Route(method="POST", path=f"{ONE}/{{slug}}/{{key}}", handler=execute, role=Role.USER,
              body=list[object], returns=object,
              summary="Call the function `key` of a module", **control),
    ]  # fmt: skip


def _guests(route: Route) -> Route:
    """Guests may look at the system they were invited to."""
    if route.method == "GET" and route.path == ONE:
        return replace(route, scopes=("systems", "guest"), handler=show)
    return route


async def show(call: Call) -> Reply:
    """One system; a guest only their own."""
    if call.claims.is_guest and call.path("id") not in call.claims.u.r:
        raise errors.forbidden()
    return await resource.show(call)


async def update(call: Call) -> Reply:
    """Change a system whose version is still the one the caller has read."""
    system = await resource.load(call)
    version = call.need_number("version")
    body = await call.object("System")
    async with call.database.transaction() as session:
        before = await session.get(System, system.id, lock=True)
        if before is None:
            raise resource.missing(system.id)
        await resource.permit(call, Verb.UPDATE, Role.SUPPORT, before)
        if version != before.version:
            raise errors.conflict("Attempting to edit an old System version")
        after = draft(System, body, before)
        after.version = before.version + 1
        check(after)
        after = await records.update(session, before, after)
    return reply(view(after))


async def with_emails(call: Call) -> Reply:
    """Systems by e-mail address."""
    call.need("in")
    condition = _emails(call, "in")
    found = [] if condition is None else await queries.listed(call.database, System, condition)
    return unpaged("sys", [view(system) for system in found])


async def zones(call: Call) -> Reply:
    """The zones in the order of the system."""
    system = await resource.load(call)
    return unpaged("zone", [view(zone) for zone in await _zones(call, system)])


async def settings(call: Call) -> Reply:
    """Collated settings."""
    system = await resource.load(call)
    return reply([view(one) for one in await collation.of_system(call, system)])


async def types(call: Call) -> Reply:
    """`{"Display": 2, …}`."""
    system = await resource.load(call)
    modules = await queries.modules_of(call.database, system)
    return reply(Counter(module.resolved_name for module in modules))


async def functions(call: Call) -> Reply:
    """What can be called, without what needs more clearance than the caller has."""
    system_id, slug = call.path("id"), call.path("slug")
    await _operate(call, system_id, Verb.OPERATE)
    module_id = await resolve(call, system_id, slug)
    metadata = module_id and await values.read_interface(call.services.redis, module_id)
    if not metadata:
        raise errors.not_found(f"could not find module {slug!r} of system {system_id!r}")
    return reply(execution.describe(metadata, call.claims.clearance))


async def state(call: Call) -> Reply:
    """All live values of a module."""
    module_id = await _module_for_reading(call)
    if module_id is None:
        return reply({})
    return reply(await values.read_all(call.services.redis, module_id))


async def state_key(call: Call) -> Reply:
    """One live value; null when it is not set."""
    module_id = await _module_for_reading(call)
    if module_id is None:
        return Reply(b"null")
    value = await call.services.state.read(module_id, call.path("key"))
    return Reply(b"null" if value is None else value)


async def execute(call: Call) -> Reply:
    """Call a function."""
    system_id, slug = call.path("id"), call.path("slug")
    await _operate(call, system_id, Verb.OPERATE)
    module_id = await resolve(call, system_id, slug)
    if module_id is None:
        await resource.load(call)  # an unknown system is a 404 of its own
    return await execution.execute(call, module_id, call.path("key"), place(system_id, slug))


async def add_module(call: Call) -> Reply:
    """List a module in the system; adding it again changes nothing."""
    return await _change_modules(call, add=True)


async def remove_module(call: Call) -> Reply:
    """Take a module out; one that is in no other system is destroyed."""
    return await _change_modules(call, add=False)


async def start(call: Call) -> Reply:
    """Start the modules that follow their system."""
    return await _start_stop(call, running=True)


async def stop(call: Call) -> Reply:
    """Stop the modules that follow their system."""
    return await _start_stop(call, running=False)


# -- parts ------------------------------------------------------------------------------------


async def _change_modules(call: Call, *, add: bool) -> Reply:
    system = await resource.load(call)
    verb = Verb.UPDATE if add else Verb.DELETE
    await resource.permit(call, verb, Role.ADMIN, system)
    module_id = call.path("module_id")
    async with call.database.transaction() as session:
        module = await session.get(Module, module_id)
        if module is None:
            raise errors.not_found(f"could not find module {module_id!r}")
        if add:
            await queries.append_module(session, system.id, module_id)
        else:
            before = await session.get(System, system.id, lock=True)
            await queries.take_module(session, system.id, module)
            taken = before is not None and module_id in before.modules
            if taken and not await queries.is_listed(session, module_id):
                await records.destroy(session, module)
        after = await session.get(System, system.id)
    if after is None:
        raise resource.missing(system.id)
    return reply(view(after), 200 if add else 202)


async def _start_stop(call: Call, *, running: bool) -> Reply:
    system = await resource.load(call)
    await resource.permit(call, Verb.OPERATE, Role.SUPPORT, system)
    single = call.flag("single_occurrence", default=True)
    await queries.start_stop(call.database, system.id, running=running, single=single)
    return nothing()


async def _operate(call: Call, system_id: str, verb: Verb) -> None:
    """Support may; others need a grant on the system's zones (which needs its record)."""
    if not call.claims.is_support:
        system = await resource.load(call, system_id)
        await grants.require(call, Role.SUPPORT, verb, system.zones)


async def _module_for_reading(call: Call) -> str | None:
    """The module whose state is asked for. A system in the live tables exists; only others
    are looked for in the database."""
    system_id = call.path("id")
    await _operate(call, system_id, Verb.READ)
    lookups: Lookups = call.services.lookups
    modules = lookups.known(system_id)
    if modules is None:
        modules = await lookups.modules(system_id)
    if not modules:
        await resource.load(call)
    where = place(system_id, call.path("slug"))
    return modules.get(f"{where['module_name']}/{where['index']}")


async def _zones(call: Call, system: System) -> list[Zone]:
    return await call.database.some(Zone, system.zones)


async def _drivers(call: Call, modules: Sequence[Module]) -> dict[str, View]:
    found = await call.database.some(Driver, [module.driver_id for module in modules])
    return {one.id: driver_summary(one) for one in found}


def driver_summary(driver: Driver) -> View:
    """What a complete module shows of its driver."""
    return {
        "name": driver.name,
        "description": driver.description,
        "module_name": driver.module_name,
    }


def _flag(call: Call, name: str) -> queries.Condition | None:
    wanted = call.optional_flag(name)
    condition: queries.Condition | None = None if wanted is None else sys.c[name].is_(wanted)
    return condition


def _capacity(call: Call) -> queries.Condition | None:
    wanted = call.optional_number("capacity")
    return None if wanted is None else sys.c.capacity >= wanted


def _emails(call: Call, parameter: str) -> queries.Condition | None:
    wanted = [email.lower() for email in call.words(parameter)]
    return func.lower(sys.c.email).in_(wanted) if wanted else None


def _all(call: Call, parameter: str, column: str = "") -> queries.Condition | None:
    wanted = call.words(parameter)
    return sys.c[column or parameter].contains(wanted) if wanted else None


def _has(call: Call, parameter: str, column: str) -> queries.Condition | None:
    wanted = call.text(parameter)
    return sys.c[column].contains([wanted]) if wanted else None
