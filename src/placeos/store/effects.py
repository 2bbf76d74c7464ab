"""What a change of one record does to others (cascades), in the same transaction.

Every effect is one set-based statement, so that destroying a repository with a thousand
modules is a handful of round trips.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

import msgspec

from placeos.model.api_key import ApiKey
from placeos.model.authority import Authority
from placeos.model.driver import Driver, Role
from placeos.model.module import Module
from placeos.model.repository import Repository
from placeos.model.rules import Entity
from placeos.model.settings import Settings
from placeos.model.system import System
from placeos.model.user import User
from placeos.model.zone import Zone
from placeos.store import queries
from placeos.store.database import Session
from placeos.store.errors import Refused

E = TypeVar("E", bound=Entity)
Ids = Sequence[str]

MAX_VERSIONS = 20  # kept of each settings record


async def before_insert(session: Session, entity: E) -> E:
    """Adapt a record to what exists."""
    if isinstance(entity, System):
        return await _known_modules(session, entity)
    return entity


async def after_insert(session: Session, entity: Entity) -> None:
    """Tell the neighbours of a new record."""
    if isinstance(entity, Module) and entity.role == Role.LOGIC:
        await queries.append_module(session, entity.control_system_id or "", entity.id)
    elif isinstance(entity, Settings):
        await _keep_version(session, entity)


async def before_update(session: Session, before: E, after: E) -> E:
    """Adapt a changed record to what exists."""
    if isinstance(after, System) and isinstance(before, System) and after.modules != before.modules:
        return await _known_modules(session, after)
    return after


async def after_update(session: Session, before: Entity, after: Entity) -> None:
    """Tell the neighbours of a changed record."""
    if isinstance(before, Module) and isinstance(after, Module):
        if before.control_system_id != after.control_system_id:
            await queries.take_module(session, before.control_system_id or "", before)
            await queries.append_module(session, after.control_system_id or "", after.id)
    elif isinstance(before, Driver) and isinstance(after, Driver):
        if before.module_name != after.module_name:
            await session.execute(_RENAME_MODULES, after.id, after.module_name)
    elif isinstance(after, Settings):
        await _keep_version(session, after)


async def destroy(session: Session, kind: type[Entity], ids: Ids) -> None:
    """Remove records of one kind with everything that hangs on them."""
    if ids:
        await _DESTROY[kind](session, ids)


# -- destroying -------------------------------------------------------------------------------


async def _repositories(session: Session, ids: Ids) -> None:
    found = await session.fetch("SELECT id FROM driver WHERE repository_id = ANY($1)", list(ids))
    await destroy(session, Driver, [row["id"] for row in found])
    await session.execute("DELETE FROM repo WHERE id = ANY($1)", list(ids))


async def _drivers(session: Session, ids: Ids) -> None:
    found = await session.fetch("SELECT id FROM mod WHERE driver_id = ANY($1)", list(ids))
    await destroy(session, Module, [row["id"] for row in found])
    await _settings_of(session, ids)
    await session.execute("DELETE FROM driver WHERE id = ANY($1)", list(ids))


async def _modules(session: Session, ids: Ids) -> None:
    await session.execute(_FORGET_MODULES, list(ids))
    await _settings_of(session, ids)
    await session.execute("DELETE FROM mod WHERE id = ANY($1)", list(ids))


async def _systems(session: Session, ids: Ids) -> None:
    found = await session.fetch(_MODULES_ONLY_IN, list(ids))
    await destroy(session, Module, [row["id"] for row in found])
    await _settings_of(session, ids)
    await session.execute("DELETE FROM sys WHERE id = ANY($1)", list(ids))


async def _zones(session: Session, ids: Ids) -> None:
    found = await session.fetch(_ZONES_BELOW, list(ids))
    below = [row["id"] for row in found]
    await session.execute(_FORGET_ZONES, below)
    await _settings_of(session, below)
    await session.execute("DELETE FROM zone WHERE id = ANY($1)", below)


async def _settings(session: Session, ids: Ids) -> None:
    await session.execute("DELETE FROM sets WHERE id = ANY($1)", list(ids))  # versions follow


async def _users(session: Session, ids: Ids) -> None:
    await session.execute('LOCK TABLE "user" IN SHARE ROW EXCLUSIVE MODE')
    admins = await session.fetch_row(
        "SELECT count(*) FILTER (WHERE NOT id = ANY($1)) AS left,"
        ' count(*) FILTER (WHERE id = ANY($1)) AS gone FROM "user" WHERE sys_admin',
        list(ids),
    )
    if admins is not None and admins["gone"] and not admins["left"]:
        raise Refused("id", "at least one admin must remain")
    await session.execute("DELETE FROM api_key WHERE user_id = ANY($1)", list(ids))
    await session.execute('DELETE FROM "user" WHERE id = ANY($1)', list(ids))


async def _authorities(session: Session, ids: Ids) -> None:
    found = await session.fetch('SELECT id FROM "user" WHERE authority_id = ANY($1)', list(ids))
    await destroy(session, User, [row["id"] for row in found])
    await session.execute("DELETE FROM authority WHERE id = ANY($1)", list(ids))


async def _api_keys(session: Session, ids: Ids) -> None:
    await session.execute("DELETE FROM api_key WHERE id = ANY($1)", list(ids))


async def _settings_of(session: Session, parents: Ids) -> None:
    await session.execute("DELETE FROM sets WHERE parent_id = ANY($1)", list(parents))


_DESTROY: dict[type[Entity], Callable[[Session, Ids], Awaitable[None]]] = {
    Authority: _authorities,
    User: _users,
    ApiKey: _api_keys,
    Repository: _repositories,
    Driver: _drivers,
    Module: _modules,
    System: _systems,
    Zone: _zones,
    Settings: _settings,
}


# -- parts ------------------------------------------------------------------------------------


async def _known_modules(session: Session, system: E) -> E:
    """Unknown module ids are dropped; the known ones are locked against being destroyed."""
    assert isinstance(system, System)
    if not system.modules:
        return system
    found = await session.fetch(
        "SELECT id FROM mod WHERE id = ANY($1) ORDER BY id FOR SHARE", system.modules
    )
    known = {row["id"] for row in found}
    modules = [id for id in system.modules if id in known]
    return msgspec.structs.replace(system, modules=modules)


async def _keep_version(session: Session, settings: Settings) -> None:
    """Store a copy of a settings record and drop the oldest beyond `MAX_VERSIONS`."""
    if settings.settings_id is None:
        await session.execute(_COPY_SETTINGS, settings.id)
        await session.execute(_DROP_OLD_VERSIONS, settings.id, MAX_VERSIONS)


_NOW = "extract(epoch FROM clock_timestamp())::bigint"

_RENAME_MODULES = f"""
UPDATE mod SET name = $2, updated_at = {_NOW} WHERE driver_id = $1 AND name <> $2"""  # noqa: S608

# A removed module takes its name and resolved name out of the features of its systems.
_FORGET_MODULES = f"""
UPDATE sys SET
    modules = ARRAY(
        SELECT id FROM unnest(modules) WITH ORDINALITY AS listed (id, n)
        WHERE NOT id = ANY($1) ORDER BY n
    ),
    features = ARRAY(
        SELECT feature FROM unnest(features) WITH ORDINALITY AS listed (feature, n)
        WHERE NOT EXISTS (
            SELECT FROM mod WHERE mod.id = ANY($1) AND mod.id = ANY(sys.modules)
            AND feature IN (mod.name, coalesce(nullif(mod.custom_name, ''), mod.name))
        ) ORDER BY n
    ),
    version = version + 1, updated_at = {_NOW}
WHERE modules && $1"""  # noqa: S608

_MODULES_ONLY_IN = """
SELECT mod.id FROM mod
WHERE (
    mod.control_system_id = ANY($1)
    OR EXISTS (SELECT FROM sys WHERE sys.id = ANY($1) AND sys.modules @> ARRAY[mod.id])
) AND NOT EXISTS (
    SELECT FROM sys WHERE NOT sys.id = ANY($1) AND sys.modules @> ARRAY[mod.id]
    AND mod.control_system_id IS NULL
)"""

_ZONES_BELOW = """
WITH RECURSIVE below AS (
    SELECT id FROM zone WHERE id = ANY($1)
    UNION SELECT zone.id FROM zone JOIN below ON zone.parent_id = below.id
) SELECT id FROM below"""

_FORGET_ZONES = f"""
UPDATE sys SET
    zones = ARRAY(
        SELECT id FROM unnest(zones) WITH ORDINALITY AS listed (id, n)
        WHERE NOT id = ANY($1) ORDER BY n
    ),
    version = version + 1, updated_at = {_NOW}
WHERE zones && $1"""  # noqa: S608

_COPY_SETTINGS = f"""
INSERT INTO sets (id, created_at, updated_at, parent_id, parent_type, encryption_level,
    settings_string, keys, settings_id, modified_by_id)
SELECT 'sets-' || replace(gen_random_uuid()::text, '-', ''), {_NOW}, {_NOW}, parent_id,
    parent_type, encryption_level, settings_string, keys, id, modified_by_id
FROM sets WHERE id = $1"""  # noqa: S608

_DROP_OLD_VERSIONS = """
DELETE FROM sets WHERE id IN (
    SELECT id FROM sets WHERE settings_id = $1 ORDER BY created_at DESC, ctid DESC OFFSET $2
)"""
