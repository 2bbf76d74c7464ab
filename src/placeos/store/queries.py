"""Reading lists: pages, search and the questions that span tables. All SQL of reading is here
or in `rows`."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, TypeVar

from sqlalchemy import ColumnElement, func, literal, or_, select
from sqlalchemy.dialects.postgresql import TSQUERY

from placeos.model.module import Module
from placeos.model.rules import Entity
from placeos.model.settings import Settings
from placeos.model.system import System
from placeos.store import rows
from placeos.store.database import Database, Session
from placeos.store.tables import ORDER, TABLES, driver, mod, sets, sys, zone

E = TypeVar("E", bound=Entity)
Condition = ColumnElement[bool]

MAX_QUERY = 512  # characters of `q` that are looked at
MAX_TOKENS = 16

_FIELD_PREFIX = re.compile(r"(?<!\S)[A-Za-z_]+:(?=\S)")
_PREFIXES = "|".join(table.name for table in TABLES.values())
_ID = re.compile(rf"(?:{_PREFIXES})-(?=\S*[0-9A-Z])[0-9A-Za-z\-_~]{{6,40}}")
"""An id has digits or capitals; words like `meeting-room` and `user-friendly` are words."""
_EMAIL = re.compile(r"[^\s@<>\"',;:()]+@[^\s@<>\"',;:()]+")
_WORD = re.compile(r"[^\W_]+")


async def page(
    database: Database,
    kind: type[E],
    conditions: Sequence[Condition],
    *,
    limit: int,
    offset: int,
    order: Sequence[ColumnElement[Any]] = (),
) -> tuple[list[E], int]:
    """One page of a list, and how many records there are in all."""
    table = TABLES[kind]
    query = (
        select(*rows.columns(kind))
        .where(*conditions)
        .order_by(*(order or ORDER[kind]))
        .limit(limit)
        .offset(offset)
    )
    found = [rows.load(kind, row) for row in await database.fetch(query)] if limit else []
    if found and len(found) < limit:
        return found, offset + len(found)
    counted = await database.fetch_row(select(func.count()).select_from(table).where(*conditions))
    return found, counted[0] if counted is not None else 0


async def ids(
    database: Database, kind: type[E], *conditions: Condition, ordered: bool = True
) -> list[str]:
    """The ids of all records that fulfil the conditions, in the order of their kind."""
    query = select(TABLES[kind].c.id).where(*conditions)
    if ordered:
        query = query.order_by(*ORDER[kind])
    return [row["id"] for row in await database.fetch(query)]


async def listed(
    database: Database,
    kind: type[E],
    *conditions: Condition,
    order: Sequence[ColumnElement[Any]] = (),
    limit: int = 10_000,
) -> list[E]:
    """An unpaged list, in the order of its kind unless another is given."""
    query = select(*rows.columns(kind)).where(*conditions).order_by(*(order or ORDER[kind]))
    return [rows.load(kind, row) for row in await database.fetch(query.limit(limit))]


def tokens(text: str) -> list[str]:
    """What a free text asks for, in lower case: e-mail addresses, ids, and words."""
    found: list[str] = []
    for chunk in _FIELD_PREFIX.sub("", text[:MAX_QUERY]).split():
        if _EMAIL.fullmatch(chunk) or _ID.fullmatch(chunk):
            found.append(chunk.lower())
        else:
            found += [word.lower() for word in _WORD.findall(chunk)]
    return [token for token in found if token not in ("and", "or", "not")][:MAX_TOKENS]


def search(kind: type[Entity], text: str) -> Condition | None:
    """The condition of `q`: any of the words, the last as a prefix. None: no filter."""
    wanted = tokens(text)
    if not wanted:
        return None
    quoted = [_lexeme(token) for token in wanted]
    query = literal(" | ".join(quoted) + ":*").cast(TSQUERY)
    found: Condition = TABLES[kind].c.search.op("@@")(query)
    if kind is Module:
        drivers = select(driver.c.id).where(driver.c.search.op("@@")(query))
        return or_(found, mod.c.driver_id.in_(drivers))
    return found


def _lexeme(token: str) -> str:
    escaped = token[:250].replace("\\", "\\\\").replace("'", "''")
    return f"'{escaped}'"


# -- questions --------------------------------------------------------------------------------


async def modules_of(database: Database, system: System) -> list[Module]:
    """The modules of a system in its order."""
    return await database.some(Module, system.modules)


async def systems_with(database: Database, module_id: str) -> list[System]:
    """The systems that list a module."""
    return await listed(database, System, sys.c.modules.contains([module_id]))


async def systems_in(database: Database, zone_id: str) -> list[System]:
    """The systems of a zone."""
    return await listed(database, System, sys.c.zones.contains([zone_id]))


async def system_by_email(database: Database, email: str) -> System | None:
    """The first system with an e-mail address."""
    found = await listed(
        database, System, func.lower(sys.c.email) == email.strip().lower(), limit=1
    )
    return found[0] if found else None


async def settings_of(database: Database, parents: Sequence[str]) -> dict[str, list[Settings]]:
    """The settings of several parents, per parent from level none to never_display."""
    found = await listed(
        database,
        Settings,
        sets.c.parent_id.in_(parents),
        sets.c.settings_id.is_(None),
        order=(sets.c.encryption_level, sets.c.id),
    )
    by_parent: dict[str, list[Settings]] = {parent: [] for parent in parents}
    for record in found:
        by_parent[record.parent_id].append(record)
    return by_parent


async def children_counts(database: Database, zones: Sequence[str]) -> dict[str, int]:
    """How many children each zone has."""
    query = (
        select(zone.c.parent_id, func.count().label("children"))
        .where(zone.c.parent_id.in_(zones))
        .group_by(zone.c.parent_id)
    )
    return {row["parent_id"]: row["children"] for row in await database.fetch(query)}


async def zone_tags(database: Database) -> list[str]:
    """All tags of all zones."""
    found = await database.fetch("SELECT DISTINCT btrim(unnest(tags)) AS tag FROM zone ORDER BY 1")
    return [row["tag"] for row in found if row["tag"]]


async def would_loop(session: Session, zone_id: str, parent_id: str) -> bool:
    """Whether a zone would become its own ancestor."""
    row = await session.fetch_row(_IS_ABOVE, zone_id, parent_id)
    return row is not None


async def start_stop(database: Database, system_id: str, *, running: bool, single: bool) -> None:
    """Set `running` of a system's modules: all, or only those in no other system."""
    await database.execute(_START_STOP_SINGLE if single else _START_STOP, system_id, running)


async def append_module(session: Session, system_id: str, module_id: str) -> None:
    """List a module at the end of a system, once."""
    await session.execute(APPEND_MODULE, system_id, module_id)


async def take_module(session: Session, system_id: str, module: Module) -> None:
    """Take a module, and its names among the features, out of a system."""
    names = [module.name, module.resolved_name]
    await session.execute(TAKE_FROM_SYSTEM, system_id, module.id, names)


async def is_listed(session: Session, module_id: str) -> bool:
    """Whether any system lists a module."""
    row = await session.fetch_row("SELECT 1 FROM sys WHERE modules @> ARRAY[$1]", module_id)
    return row is not None


_IS_ABOVE = """
WITH RECURSIVE above AS (
    SELECT id, parent_id FROM zone WHERE id = $2
    UNION SELECT zone.id, zone.parent_id FROM zone JOIN above ON zone.id = above.parent_id
) SELECT 1 FROM above WHERE id = $1"""

_NOW = "extract(epoch FROM clock_timestamp())::bigint"

_START_STOP = f"""
UPDATE mod SET running = $2, updated_at = {_NOW},
    has_runtime_error = has_runtime_error AND $2,
    error_timestamp = CASE WHEN $2 THEN error_timestamp END
FROM sys WHERE sys.id = $1 AND sys.modules @> ARRAY[mod.id]
AND NOT mod.ignore_startstop AND mod.running <> $2"""  # noqa: S608 - our own words

_START_STOP_SINGLE = f"""{_START_STOP}
AND NOT EXISTS (SELECT FROM sys AS other WHERE other.id <> $1 AND other.modules @> ARRAY[mod.id])
"""

APPEND_MODULE = f"""
UPDATE sys SET modules = array_append(modules, $2), version = version + 1, updated_at = {_NOW}
WHERE id = $1 AND NOT modules @> ARRAY[$2]"""  # noqa: S608

TAKE_FROM_SYSTEM = f"""
UPDATE sys SET
    modules = array_remove(modules, $2),
    features = ARRAY(
        SELECT feature FROM unnest(features) WITH ORDINALITY AS listed (feature, n)
        WHERE NOT feature = ANY($3) ORDER BY n
    ),
    version = version + 1, updated_at = {_NOW}
WHERE id = $1 AND modules @> ARRAY[$2]"""  # noqa: S608
