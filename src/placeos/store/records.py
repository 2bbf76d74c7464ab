"""Writing records: insert, update, destroy, each inside a transaction of the caller.

What a change does to other records is in `effects`.
"""

from __future__ import annotations

import secrets
import time
from typing import TypeVar

import msgspec

from placeos.model.api_key import ApiKey
from placeos.model.ids import new_id
from placeos.model.module import EDGE_SUFFIX, Module
from placeos.model.rules import Entity
from placeos.store import effects, rows
from placeos.store.database import Session
from placeos.store.tables import TABLES

E = TypeVar("E", bound=Entity)


async def insert(session: Session, entity: E) -> E:
    """Store a new record and return it as stored, with its id and times. Raises Refused."""
    now = int(time.time())
    entity = msgspec.structs.replace(
        entity, id=entity.id or _id_of(entity), created_at=now, updated_at=now
    )
    entity = await effects.before_insert(session, entity)
    await session.execute(TABLES[type(entity)].insert().values(rows.dump(entity)))
    await effects.after_insert(session, entity)
    return entity


async def update(session: Session, before: E, after: E) -> E:
    """Store what differs between two forms of a record. Raises Refused.

    `before` should have been read with a lock in the same transaction.
    """
    after = await effects.before_update(session, before, after)
    old, new = rows.dump(before), rows.dump(after)
    changes = {name: value for name, value in new.items() if value != old[name]}
    if not changes:
        return before
    after = msgspec.structs.replace(after, updated_at=int(time.time()))
    changes["updated_at"] = after.updated_at
    table = TABLES[type(after)]
    await session.execute(table.update().where(table.c.id == after.id).values(changes))
    await effects.after_update(session, before, after)
    return after


async def destroy(session: Session, entity: Entity) -> None:
    """Remove a record with all that hangs on it. Raises Refused."""
    await effects.destroy(session, type(entity), [entity.id])


def _id_of(entity: Entity) -> str:
    if isinstance(entity, ApiKey):
        return secrets.token_hex(16)
    postfix = EDGE_SUFFIX if isinstance(entity, Module) and entity.edge_id else ""
    return new_id(TABLES[type(entity)].name) + postfix
