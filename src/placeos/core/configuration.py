"""The configuration as core knows it: cached, followed by the change feed.

Records are read by id whenever a notification names them, and compared by PostgreSQL's row
version (`xmin`) at each connect and every minute, so that looking again costs little. While
PostgreSQL is away the cache serves.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Collection, Iterable
from typing import Final

import msgspec

from placeos.core.desired import Change
from placeos.model.driver import Driver
from placeos.model.module import Module
from placeos.model.repository import Repository
from placeos.model.rules import Entity
from placeos.model.secrecy import Unreadable, decrypt
from placeos.model.settings import Settings
from placeos.model.system import System
from placeos.model.zone import Zone
from placeos.store import ChangeFeed, Database, Unavailable

log = logging.getLogger("placeos.core")

KINDS: Final[dict[str, type[Entity]]] = {
    "repo": Repository,
    "driver": Driver,
    "zone": Zone,
    "sys": System,
    "mod": Module,
    "sets": Settings,
}
WITHOUT_EFFECT: Final[dict[str, tuple[str, ...]]] = {
    "repo": ("updated_at", "has_runtime_error", "error_message"),
    "driver": (
        "updated_at",
        "description",
        "compilation_output",
        "json_schema",
        "update_available",
        "update_info",
    ),
    "sys": ("updated_at", "version", "signage_last_seen"),
    "mod": ("updated_at", "connected", "has_runtime_error", "error_timestamp"),
}
"""Fields of bookkeeping: changing them alone touches nothing that runs."""
BATCH: Final = 100  # records decoded between two turns of the loop
GATHER: Final = 0.005  # seconds in which notifications are taken together
CONFIRMED: Final = 1.0  # seconds for which a confirmed record is not read again for a caller
MAX_DOUBTED: Final = 1_000  # modules being confirmed at once
RETRY: Final = (0.2, 5.0)  # seconds: first and longest pause while PostgreSQL is away


class Configuration:
    """Drivers, modules, systems, zones, settings and repositories. The owner runs `run()`.

    `on_change` gets what differs, after the cache holds it: kind (table) and id. A change of
    settings is told as a change of their parent. `on_confirmed` gets the ids of modules that
    were read again because of `confirm`.
    """

    def __init__(
        self,
        database: Database,
        database_url: str,
        *,
        secret: bytes,
        on_change: Callable[[set[Change]], None],
        on_confirmed: Callable[[str], None],
    ) -> None:
        self.drivers: dict[str, Driver] = {}
        self.modules: dict[str, Module] = {}
        self.systems: dict[str, System] = {}
        self.zones: dict[str, Zone] = {}
        self.repositories: dict[str, Repository] = {}
        self.loaded = asyncio.Event()
        self._settings: dict[str, Settings] = {}
        self._by_parent: dict[str, dict[str, Settings]] = {}
        self._tables: dict[str, dict[str, Entity]] = {
            "repo": self.repositories,  # type: ignore[dict-item]
            "driver": self.drivers,  # type: ignore[dict-item]
            "zone": self.zones,  # type: ignore[dict-item]
            "sys": self.systems,  # type: ignore[dict-item]
            "mod": self.modules,  # type: ignore[dict-item]
            "sets": self._settings,  # type: ignore[dict-item]
        }
        self._versions: dict[str, dict[str, int]] = {kind: {} for kind in KINDS}
        self._database = database
        self._secret = secret
        self._on_change = on_change
        self._on_confirmed = on_confirmed
        self._doubted: set[str] = set()
        self._confirmed: dict[str, float] = {}
        self._touched: set[Change] = set()
        self._look_at_all = False
        self._wake = asyncio.Event()
        self._feed = ChangeFeed(database_url, self._notified, self._resync)

    @property
    def is_connected(self) -> bool:
        """Whether changes arrive at present."""
        return self._feed.connected

    def settings_of(self, parent_id: str) -> Collection[Settings]:
        """Decrypted settings records of a driver, zone, system or module."""
        return self._by_parent.get(parent_id, {}).values()

    def confirm(self, module: str) -> bool:
        """Whether what is cached of a module was read within the last second.

        If not it is read now and `on_confirmed` follows: a caller may know of a change whose
        notification is still on its way.
        """
        if self._confirmed.get(module, -CONFIRMED) > time.monotonic() - CONFIRMED:
            return True
        if module not in self._doubted and len(self._doubted) < MAX_DOUBTED:
            self._doubted.add(module)
            self._notified("mod", module)
        return False

    async def run(self) -> None:
        """Load, follow and look again until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._feed.run(), name="configuration: feed")
            tasks.create_task(self._work(), name="configuration: read")

    def _notified(self, table: str, record: str) -> None:
        if table in KINDS:
            self._touched.add((table, record))
            self._wake.set()

    def _resync(self) -> None:
        self._look_at_all = True
        self._wake.set()

    async def _work(self) -> None:
        pause = RETRY[0]
        while True:
            await self._wake.wait()
            await asyncio.sleep(GATHER)
            self._wake.clear()
            touched, self._touched = self._touched, set()
            everything, self._look_at_all = self._look_at_all, False
            try:
                if everything:
                    touched |= await self._differences()
                changes = await self._read(touched)
            except Unavailable as error:
                log.warning("configuration is stale", extra={"reason": str(error)})
                self._touched |= touched
                self._look_at_all |= everything
                self._wake.set()
                await asyncio.sleep(pause)
                pause = min(pause * 2, RETRY[1])
                continue
            pause = RETRY[0]
            if everything and not self.loaded.is_set():
                self.loaded.set()
                log.info("configuration loaded", extra={"modules": len(self.modules)})
            if changes:
                self._on_change(changes)
            self._confirm(touched)

    def _confirm(self, touched: set[Change]) -> None:
        """Tell of doubted modules that were among what was read."""
        read = {record for kind, record in touched if kind == "mod"} & self._doubted
        self._doubted -= read
        now = time.monotonic()
        if len(self._confirmed) > MAX_DOUBTED:
            self._confirmed.clear()
        for module in read:
            self._confirmed[module] = now
            self._on_confirmed(module)

    async def _differences(self) -> set[Change]:
        """What changed since it was read, by row versions."""
        found: set[Change] = set()
        versions: dict[str, dict[str, int]] = {}
        for kind, known in self._versions.items():
            masters = " WHERE settings_id IS NULL" if kind == "sets" else ""
            rows = await self._database.fetch(
                f'SELECT id, xmin::text::bigint AS version FROM "{kind}"{masters}'  # noqa: S608
            )
            present = {row["id"]: row["version"] for row in rows}
            found.update((kind, one) for one in present if known.get(one) != present[one])
            found.update((kind, one) for one in self._tables[kind] if one not in present)
            versions[kind] = present
        self._versions = versions  # only now: a failure half way must find all again
        return found

    async def _read(self, touched: Iterable[Change]) -> set[Change]:
        """Read records by id into the cache; what differs."""
        by_kind: dict[str, list[str]] = {}
        for kind, record in touched:
            by_kind.setdefault(kind, []).append(record)
        changes: set[Change] = set()
        for kind, entity in KINDS.items():
            wanted = by_kind.get(kind, [])
            for start in range(0, len(wanted), BATCH):
                part = wanted[start : start + BATCH]
                present = {one.id: one for one in await self._database.some(entity, part)}
                for record in part:
                    changes |= self._store(kind, record, present.get(record))
        return changes

    def _store(self, kind: str, record: str, new: Entity | None) -> set[Change]:
        if isinstance(new, Settings):
            if new.settings_id is not None:
                return set()  # history
            new = self._decrypted(new)
        table = self._tables[kind]
        old = table.get(record)
        if old == new:
            return set()
        if new is None:
            del table[record]
            self._versions[kind].pop(record, None)
        else:
            table[record] = new
        if kind == "sets":
            return self._store_settings(record, old, new)
        if old is not None and new is not None and _same(kind, old, new):
            return set()
        return {(kind, record)}

    def _store_settings(self, record: str, old: Entity | None, new: Entity | None) -> set[Change]:
        changes: set[Change] = set()
        if isinstance(old, Settings):
            self._by_parent.get(old.parent_id, {}).pop(record, None)
            changes.add((_table_of(old.parent_id), old.parent_id))
        if isinstance(new, Settings):
            self._by_parent.setdefault(new.parent_id, {})[record] = new
            changes.add((_table_of(new.parent_id), new.parent_id))
        return changes

    def _decrypted(self, settings: Settings) -> Settings:
        try:
            plain = decrypt(
                settings.settings_string,
                secret=self._secret,
                parent_id=settings.parent_id,
                level=settings.encryption_level,
            )
        except Unreadable as error:
            log.error("settings unreadable", extra={"settings": settings.id, "reason": str(error)})  # noqa: TRY400
            plain = "{}"
        return msgspec.structs.replace(settings, settings_string=plain)


def _same(kind: str, old: Entity, new: Entity) -> bool:
    """Whether two forms of a record differ in bookkeeping only."""
    fields = WITHOUT_EFFECT.get(kind, ())
    return msgspec.structs.replace(old, **{one: getattr(new, one) for one in fields}) == new


def _table_of(parent_id: str) -> str:
    return parent_id.partition("-")[0]
