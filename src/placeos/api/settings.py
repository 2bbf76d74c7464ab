"""Settings records, shown in clear only to whom their level allows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from placeos.api import collation, errors
from placeos.api.call import Call, Reply, reply
from placeos.api.grants import Verb
from placeos.api.resource import Change, Filter, Resource, Roles, View, page_headers, view
from placeos.api.routes import Parameter, Role, Route
from placeos.model.driver import Driver
from placeos.model.module import Module
from placeos.model.rules import Entity
from placeos.model.secrecy import Unreadable, decrypt, encrypt, is_encrypted
from placeos.model.settings import (
    MAX_TEXT,
    EncryptionLevel,
    InvalidSettings,
    ParentType,
    Settings,
    parse,
)
from placeos.model.system import System
from placeos.model.zone import Zone
from placeos.store import queries
from placeos.store.tables import sets

ONE = "/settings/{id}"
MAX_FOR_PARENTS = 100
HISTORY_LIMIT = 15

_PARENTS: dict[ParentType, type[Entity]] = {
    ParentType.CONTROL_SYSTEM: System,
    ParentType.DRIVER: Driver,
    ParentType.MODULE: Module,
    ParentType.ZONE: Zone,
}


async def views(call: Call, records: Sequence[Settings]) -> list[View]:
    """As the caller may see them."""
    return [view(record) for record in collation.for_viewer(call, records)]


async def prepare(change: Change[Settings]) -> None:
    """Read the text, note its keys, and encrypt it for its level and parent."""
    record, before = change.after, change.before
    if before is not None and before.settings_id is not None:
        reason = f"is an earlier version, which stays as it was: change {before.settings_id}"
        raise errors.invalid("id", reason)
    # A text that comes back unchanged, perhaps as ciphertext, belongs to the old place.
    kept = before is not None and record.settings_string == before.settings_string
    source = before if before is not None and kept else record
    plain = _readable(change.call, source)
    if len(plain) > MAX_TEXT:
        raise errors.invalid("settings_string", f"is too long (maximum is {MAX_TEXT} characters)")
    try:
        keys = list(parse(plain))
    except InvalidSettings as error:
        raise errors.invalid("settings_string", str(error)) from None
    if any("\0" in key for key in keys):
        raise errors.invalid("settings_string", "should not contain the character U+0000")
    if kept and before is not None and _reveals(before, record):
        reason = "should not be lowered without a new settings_string: nobody may read the old one"
        raise errors.invalid("encryption_level", reason)
    await _parent_exists(change)
    stored = record.settings_string
    if not kept or _place(source) != _place(record):
        stored = encrypt(
            plain,
            secret=change.call.services.server_secret,
            parent_id=record.parent_id,
            level=record.encryption_level,
        )
    change.after = msgspec.structs.replace(
        record, settings_string=stored, keys=keys, modified_by_id=change.call.claims.sub
    )


def _reveals(before: Settings, after: Settings) -> bool:
    """Whether a text that nobody may read would become readable."""
    hidden = EncryptionLevel.NEVER_DISPLAY
    return before.encryption_level == hidden and after.encryption_level != hidden


def _place(record: Settings) -> tuple[str, EncryptionLevel]:
    """What a text is encrypted for."""
    return record.parent_id, record.encryption_level


def _readable(call: Call, record: Settings) -> str:
    """The plain text of a record. Raises 422 if nobody can read it."""
    try:
        plain = decrypt(
            record.settings_string,
            secret=call.services.server_secret,
            parent_id=record.parent_id,
            level=record.encryption_level,
        )
    except Unreadable:
        raise errors.invalid("settings_string", "cannot be decrypted") from None
    if is_encrypted(plain):
        raise errors.invalid("settings_string", "cannot be decrypted")
    return plain


async def _parent_exists(change: Change[Settings]) -> None:
    record = msgspec.structs.replace(change.after)
    record.tidy()
    kind = None if record.parent_type is None else _PARENTS[record.parent_type]
    if kind is not None and await change.session.get(kind, record.parent_id) is None:
        raise errors.invalid("parent_id", "does not exist")


resource = Resource(
    kind=Settings,
    path="settings",
    tag="Settings",
    roles=Roles(Role.SUPPORT, Role.SUPPORT, Role.ADMIN, Role.ADMIN, Role.ADMIN),
    granted=True,
    filters=(Filter("parent_id", str, lambda call: None, "comma list; then decrypted, unpaged"),),
    noun="settings",
    without=frozenset({"index"}),
    views=views,
    prepare=prepare,
)


def routes() -> list[Route]:
    """All routes of settings."""
    common: dict[str, Any] = {"tag": "Settings", "scopes": ("settings",)}
    parents = (Parameter("parent_id", str, "comma list; then decrypted and unpaged"),)
    pages = (Parameter("limit", int), Parameter("offset", int))
    return [
        *resource.routes(),
        Route(method="GET", path="/settings", handler=index, role=Role.USER, query=parents,
              returns=list[Settings], summary="List settings", **common),
        Route(method="GET", path=f"{ONE}/history", handler=history, role=Role.ADMIN, query=pages,
              returns=list[Settings], summary="Earlier versions, newest first", **common),
    ]  # fmt: skip


async def index(call: Call) -> Reply:
    """The settings of some parents in clear, or a page of all as they are stored."""
    await resource.permit(call, Verb.READ, Role.SUPPORT)
    parents = call.words("parent_id")
    if parents:
        found = await queries.listed(
            call.database,
            Settings,
            sets.c.parent_id.in_(parents),
            sets.c.settings_id.is_(None),
            order=(sets.c.encryption_level.desc(), sets.c.id),
            limit=MAX_FOR_PARENTS,
        )
        return reply(await views(call, found))
    return await stored.paged(call, [])


async def history(call: Call) -> Reply:
    """Versions as they were stored, newest first."""
    record = await resource.load(call)
    limit = call.number("limit", HISTORY_LIMIT, highest=100)
    offset = call.number("offset", 0, highest=1000)
    found, total = await queries.page(
        call.database,
        Settings,
        [sets.c.settings_id == record.id],
        limit=limit,
        offset=offset,
        order=(sets.c.created_at.desc(), sets.c.id),
    )
    headers = page_headers(call, "sets", offset, len(found), total, limit)
    return reply([view(one) for one in found], headers=headers)


stored: Resource[Settings] = Resource(
    kind=Settings, path="settings", tag="Settings", roles=resource.roles, granted=True
)
"""The same records without decryption."""
