"""From records to what should run. Pure: reads a configuration, changes nothing."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Protocol

import msgspec
from msgspec import Raw

from placeos.core.plan import Want
from placeos.model.driver import Driver, Role
from placeos.model.module import Module
from placeos.model.repository import Repository
from placeos.model.settings import Settings, merge
from placeos.model.system import System, lookup
from placeos.model.zone import Zone
from placeos.wire.messages import ModuleStart, SystemModule, SystemRecord, SystemView

Change = tuple[str, str]
"""Kind of record (table name) and id."""

_encode = msgspec.json.encode


class Records(Protocol):
    """The part of a configuration that decisions are made from."""

    drivers: dict[str, Driver]
    modules: dict[str, Module]
    systems: dict[str, System]
    zones: dict[str, Zone]
    repositories: dict[str, Repository]

    def settings_of(self, parent_id: str) -> Collection[Settings]:
        """Decrypted settings records of a driver, zone, system or module."""
        ...


def want(records: Records, module_id: str, versions: Mapping[str, str]) -> Want | None:
    """How a module should run; None: it should not, or cannot yet.

    `versions` names the version of each driver whose file is at hand.
    """
    module = records.modules.get(module_id)
    if module is None or not module.running:
        return None
    version = versions.get(module.driver_id)
    if version is None:
        return None
    system: System | None = None
    if module.role == Role.LOGIC:
        system = records.systems.get(module.control_system_id or "")
        if system is None:
            return None
    start = ModuleStart(
        id=module.id,
        name=module.resolved_name,
        role=int(module.role),
        ip=module.ip,
        port=module.port,
        uri=module.uri,
        tls=module.tls,
        udp=module.udp,
        makebreak=module.makebreak,
        notes=module.notes,
        settings=effective_settings(records, module, system),
        system=system_record(system) if system is not None else None,
    )
    return Want(version, _encode(start))


def effective_settings(records: Records, module: Module, system: System | None) -> dict[str, Raw]:
    """Merged settings of a module: driver, zones and system for logic, then the module."""
    parents = [records.settings_of(module.driver_id)]
    if system is not None:
        parents.extend(records.settings_of(zone) for zone in system.zones)
        parents.append(records.settings_of(system.id))
    parents.append(records.settings_of(module.id))
    return {key: Raw(_encode(value)) for key, value in merge(parents).items()}


def system_record(system: System) -> SystemRecord:
    """What a driver may know of a system."""
    return SystemRecord(
        id=system.id,
        name=system.name,
        display_name=system.display_name,
        description=system.description,
        email=system.email,
        features=list(system.features),
        bookable=system.bookable,
        capacity=system.capacity,
        zones=list(system.zones),
        code=system.code,
        type=system.type,
        map_id=system.map_id,
        timezone=system.timezone,
        support_url=system.support_url,
        images=list(system.images),
        security_groups=list(system.security_groups),
    )


def lookup_table(records: Records, system_id: str) -> dict[str, str] | None:
    """`<name>/<index>` → module id; None when there is no such system."""
    system = records.systems.get(system_id)
    if system is None:
        return None
    modules = records.modules
    return lookup([modules[one] for one in system.modules if one in modules])


def system_view(
    records: Records, system_id: str, interfaces: Mapping[str, SystemModule]
) -> SystemView | None:
    """A system as a driver's system proxy sees it; None when there is none.

    `interfaces` holds what is known of modules that run: functions and what they implement.
    """
    system = records.systems.get(system_id)
    table = lookup_table(records, system_id)
    if system is None or table is None:
        return None
    found = []
    for place, module_id in table.items():
        name, _, index = place.rpartition("/")
        known = interfaces.get(module_id)
        found.append(
            SystemModule(
                id=module_id,
                name=name,
                index=int(index),
                implements=known.implements if known is not None else [],
                functions=known.functions if known is not None else [],
            )
        )
    return SystemView(record=system_record(system), modules=found)


def affected(records: Records, changes: Iterable[Change]) -> tuple[set[str], set[str]]:
    """Ids of modules whose `want`, and of systems whose lookup table, a change may touch.

    `records` already hold the changes; what was deleted is named by the change itself.
    """
    modules: set[str] = set()
    systems: set[str] = set()
    drivers: set[str] = set()
    zones: set[str] = set()
    for kind, record in changes:
        if kind == "mod":
            modules.add(record)
        elif kind == "sys":
            systems.add(record)
        elif kind == "driver":
            drivers.add(record)
        elif kind == "zone":
            zones.add(record)
    tables = systems | {
        one.id
        for one in records.systems.values()
        if modules and not modules.isdisjoint(one.modules)
    }
    if zones:
        systems |= {one.id for one in records.systems.values() if not zones.isdisjoint(one.zones)}
    if drivers or systems:
        modules |= {
            one.id
            for one in records.modules.values()
            if one.driver_id in drivers or one.control_system_id in systems
        }
    return modules, tables
