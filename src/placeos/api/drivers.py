"""Drivers: Python files of repositories."""

from __future__ import annotations

import asyncio
from typing import Any

from msgspec.structs import replace

from placeos.api import errors
from placeos.api.call import Call, Reply, nothing, reply
from placeos.api.repositories import ask
from placeos.api.resource import Change, Filter, Resource, Roles, View, view
from placeos.api.routes import Parameter, Role, Route
from placeos.model.driver import RECOMPILE, Driver
from placeos.model.driver import Role as DriverRole
from placeos.model.module import Module
from placeos.model.repository import Repository, RepositoryType
from placeos.store import Database, queries, records
from placeos.store.tables import driver, mod
from placeos.wire.errors import CallError
from placeos.wire.frame import Command, Header
from placeos.wire.repositories import RepositoryQuery

ONE = "/drivers/{id}"
RECOMPILE_TIMEOUT = 60.0  # seconds
LOAD_TIMEOUT = 10.0  # seconds
POLL = 0.1  # seconds between looks at the record while a core works


def _role(call: Call) -> queries.Condition | None:
    text = call.text("role")
    if text is None:
        return None
    for role in DriverRole:
        if text.lower() in (role.name.lower(), str(role.value)):
            return driver.c.role == role.value
    return None


def _update_available(call: Call) -> queries.Condition | None:
    condition: queries.Condition | None = None
    if call.flag("update_available"):
        condition = driver.c.update_available.is_(True)
    return condition


async def prepare(change: Change[Driver]) -> None:
    """The role is fixed, and the repository must hold drivers."""
    before, after = change.before, change.after
    if before is not None and before.role != after.role:
        raise errors.invalid("role", "should not change")
    if before is None or before.repository_id != after.repository_id:
        repository = await change.session.get(Repository, after.repository_id)
        if repository is None:
            raise errors.invalid("repository_id", "does not exist")
        if repository.repo_type != RepositoryType.DRIVER:
            raise errors.invalid("repository", "should be a driver repository")


async def show_view(call: Call, one: Driver) -> View:
    """With `compilation_status`: on which nodes it is ready."""
    shown = view(one)
    if call.flag("compilation_status", default=True):
        ready = not _is_waiting(one) and one.compilation_output is None
        nodes = call.services.router.nodes()
        shown["compilation_status"] = {node.identity: ready for node in nodes}
    return shown


resource = Resource(
    kind=Driver,
    path="drivers",
    tag="Drivers",
    roles=Roles(Role.SUPPORT, Role.USER, Role.ADMIN, Role.ADMIN, Role.ADMIN),
    filters=(
        Filter("role", str, _role, "name or number"),
        Filter("update_available", bool, _update_available),
    ),
    show_query=(Parameter("compilation_status", bool, "on which nodes it is ready (default)"),),
    prepare=prepare,
    show_view=show_view,
)


def routes() -> list[Route]:
    """All routes of drivers."""
    common: dict[str, Any] = {"tag": "Drivers", "role": Role.ADMIN}
    return [
        *resource.routes(),
        Route(method="POST", path=f"{ONE}/recompile", handler=recompile, returns=str,
              summary="Build again and load everywhere", **common),
        Route(method="POST", path=f"{ONE}/reload", handler=reload, returns=str,
              summary="Load again everywhere", **common),
        Route(method="GET", path=f"{ONE}/compiled", handler=compiled,
              summary="Whether the last build succeeded", **common),
        Route(method="GET", path=f"{ONE}/readme", handler=readme, returns=str, tag="Drivers",
              role=Role.SUPPORT, scopes=("drivers",),
              summary="The text beside the driver's file, or in it"),
    ]  # fmt: skip


async def readme(call: Call) -> Reply:
    """`<file>_readme.md` at the driver's commit, else the docstring of its file; or 404."""
    one = await resource.load(call)
    commit = one.commit.removeprefix(RECOMPILE)
    query = RepositoryQuery("readme", one.repository_id, file=one.file_name, commit=commit)
    return await ask(call, query)


async def compiled(call: Call) -> Reply:
    """Empty when it is built; 404 while it is not; 503 with the output of a failed build."""
    one = await resource.load(call)
    if one.compilation_output is not None:
        raise errors.ApiError(503, {"compilation_output": one.compilation_output})
    if _is_waiting(one):
        raise errors.not_found(f"driver {one.id!r} is not built yet")
    return nothing()


async def recompile(call: Call) -> Reply:
    """Ask for a build by marking the commit; core builds, takes the mark away and loads."""
    one = await resource.load(call)
    async with call.database.transaction() as session:
        before = await session.get(Driver, one.id, lock=True)
        if before is None:
            raise resource.missing(one.id)
        await records.update(session, before, marked(before))
    modules = await _running(call.database, one.id)
    if modules and call.services.router.nodes():
        one = await _built(call.database, one.id)
        if one.compilation_output is not None:
            raise errors.ApiError(422, {"error": one.compilation_output})
    return reply("recompiled" if modules else "will be built when a module starts")


async def reload(call: Call) -> Reply:
    """Ask the cores to load the modules of the driver again."""
    one = await resource.load(call)
    modules = await _running(call.database, one.id)
    outcomes = await asyncio.gather(*(_load(call, module) for module in modules))
    failed = [outcome for outcome in outcomes if outcome is not None]
    if failed:
        status = 422 if len(failed) == len(outcomes) else 417
        raise errors.ApiError(status, {"error": failed[0]})
    return reply("reloaded")


def marked(one: Driver) -> Driver:
    """The driver, with the mark that asks for a build."""
    return one if _is_waiting(one) else replace(one, commit=RECOMPILE + one.commit)


def _is_waiting(one: Driver) -> bool:
    return one.commit.startswith(RECOMPILE)


async def _running(database: Database, driver_id: str) -> list[Module]:
    return await queries.listed(
        database, Module, mod.c.driver_id == driver_id, mod.c.running.is_(True)
    )


async def _load(call: Call, module: Module) -> str | None:
    """Why loading failed, or None."""
    header = Header(Command.LOAD, module=module.id, user=call.claims.sub)
    try:
        await call.services.router.request(header, b"", timeout=LOAD_TIMEOUT)
    except CallError as error:
        return error.message
    return None


async def _built(database: Database, driver_id: str) -> Driver:
    """Wait until a core has taken the mark away."""
    try:
        async with asyncio.timeout(RECOMPILE_TIMEOUT):
            while True:
                one = await database.get(Driver, driver_id)
                if one is None:
                    raise resource.missing(driver_id)
                if not _is_waiting(one):
                    return one
                await asyncio.sleep(POLL)
    except TimeoutError:
        message = f"no core built the driver within {RECOMPILE_TIMEOUT:g} s"
        raise errors.ApiError(408, {"error": message}) from None
