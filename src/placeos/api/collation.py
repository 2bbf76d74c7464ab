"""Settings as one viewer may see them, and the collated settings of systems and modules."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import msgspec

from placeos.api.call import Call
from placeos.model.driver import Role as DriverRole
from placeos.model.module import Module
from placeos.model.secrecy import Unreadable, decrypt
from placeos.model.settings import Settings, visible
from placeos.model.system import System
from placeos.store import queries

log = logging.getLogger("placeos.api")


def for_viewer(call: Call, records: Sequence[Settings]) -> list[Settings]:
    """The records, decrypted where the caller's token allows; otherwise as ciphertext."""
    return [_for_viewer(call, record) for record in records]


def _for_viewer(call: Call, record: Settings) -> Settings:
    claims = call.claims
    if not visible(record.encryption_level, support=claims.is_support, admin=claims.is_admin):
        return record
    try:
        plain = decrypt(
            record.settings_string,
            secret=call.services.server_secret,
            parent_id=record.parent_id,
            level=record.encryption_level,
        )
    except Unreadable as error:
        log.warning("settings unreadable", extra={"settings": record.id, "why": str(error)})
        return record
    return msgspec.structs.replace(record, settings_string=plain)


async def of_system(call: Call, system: System) -> list[Settings]:
    """Zones from first to last, then the system: lowest precedence first."""
    return await _collated(call, [*system.zones, system.id])


async def of_module(call: Call, module: Module) -> list[Settings]:
    """Driver, for logic modules zones and system, then the module: lowest precedence first."""
    parents = [module.driver_id]
    if module.role == DriverRole.LOGIC and module.control_system_id is not None:
        system = await call.database.get(System, module.control_system_id)
        if system is not None:
            parents += [*system.zones, system.id]
    return await _collated(call, [*parents, module.id])


async def _collated(call: Call, parents: Sequence[str]) -> list[Settings]:
    found = await queries.settings_of(call.database, parents)
    return for_viewer(call, [record for parent in parents for record in found[parent]])
