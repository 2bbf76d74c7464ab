"""What this core decides and remembers: which modules are its own, and how each should run.

Connects the configuration, the view, repositories and driver processes with the executor.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final

import msgspec
from msgspec import Raw

from placeos.cluster import handover
from placeos.cluster import view as views
from placeos.cluster.handover import Memory
from placeos.cluster.ownership import Hashes, hash_modules
from placeos.core.calls import Switch
from placeos.core.configuration import Configuration
from placeos.core.desired import Change, affected, want
from placeos.core.drivers import Drivers
from placeos.core.executor import Executor
from placeos.core.files.repositories import Repositories
from placeos.core.listener import DebugLog
from placeos.core.lookups import LookupWriter
from placeos.core.process.processes import Processes, Version
from placeos.core.reports import Reports
from placeos.core.state_writer import StateWriter
from placeos.wire.messages import ModuleMetadata, SystemModule

log = logging.getLogger("placeos.core")

SLICE: Final = 0.003  # seconds of deciding between two turns of the loop
MAX_DESCRIPTIONS: Final = 1_000  # kinds of metadata remembered
DRAINED: Final = 1.0  # seconds in which Redis must take, or drop, the last state of what moves
MAX_OWNERS: Final = 500_000  # remembered answers of `owns`
OF_THE_CODE: Final = ("crash", "blocked", "cpu", "flood", "start")
"""Causes of errors that another version of the driver may have done away with."""


class Parts(msgspec.Struct):
    """What the node works with; built by the service."""

    configuration: Configuration
    processes: Processes
    repositories: Repositories
    switch: Switch
    executor: Executor
    state: StateWriter
    lookups: LookupWriter
    reports: Reports
    drivers: Drivers
    debug: DebugLog


class Node:
    """One core's mind. `connect(parts)` before anything runs; the owner runs `run()`.

    `settle(view)` is told when nothing runs here but what the view of that name gives to this
    core, and all that was written of the rest has reached Redis or was dropped.
    """

    def __init__(self, identity: str, settle: Callable[[str], None]) -> None:
        self._identity = identity
        self._settle = settle
        self._parts: Parts
        self._view: views.View | None = None
        self._may_start = False
        self._may_keep = False
        self._foreign: set[str] = set()  # modules that ran here and another core's are now
        self._settled = ""
        self._stopped = asyncio.Event()
        self._owned: dict[str, bool] = {}
        self._hashes: tuple[list[str], Hashes] | None = None  # of these records
        self._touched: dict[str, None] = {}
        self._deleted: set[str] = set()
        self._wake = asyncio.Event()
        self.versions: dict[str, str] = {}
        """Key of the newest version of each driver."""
        self._interfaces: dict[str, bytes] = {}
        self._descriptions: dict[bytes, tuple[list[str], list[str]]] = {}

    def connect(self, parts: Parts) -> None:
        """Take the parts; from now on their events arrive here."""
        self._parts = parts

    # -- ownership ------------------------------------------------------------------------------

    @property
    def has_view(self) -> bool:
        """Whether it is known what belongs to whom."""
        return self._view is not None

    @property
    def view_number(self) -> int:
        """Of the view that `owns` goes by; 0 while there is none."""
        return self._view.number if self._view is not None else 0

    def owns(self, record: str) -> bool:
        """Whether a module or system is this node's by the present view."""
        known = self._owned.get(record)
        if known is None:
            view = self._view
            known = view is not None and views.owner(view, record) == self._identity
            if len(self._owned) >= MAX_OWNERS:
                self._owned.clear()
            self._owned[record] = known
        return known

    def take(self, memory: Memory) -> None:
        """There is another view, or the same one is completed now.

        What it gives to others is stopped at once, what it leaves here goes on, and what is new
        is started when every core has let go of it: when the view is completed. Only a view
        that holds this very incarnation gives us anything.
        """
        view = memory.view
        if view is not None and handover.membership(memory) is None:
            view = msgspec.structs.replace(view, members=())
        self._may_start = handover.may_start(memory)
        self._may_keep = handover.may_keep(memory)
        if view == self._view:
            return
        same = view is not None and self._view is not None and view.name == self._view.name
        self._view = view
        number = view.number if view is not None else 0
        log.info("view taken", extra={"number": number, "completed": self._may_start})
        if not same:
            self._find_owned()
            if view is not None and view.members:  # else it is not ours to carry
                self._parts.state.view_number = number
        self._look_at_everything()

    def _find_owned(self) -> None:
        """Who owns what, of all there is, at once: by one it would take seconds for many."""
        view, configuration = self._view, self._parts.configuration
        records = [*configuration.modules, *configuration.systems]
        if view is None or not view.eligible:
            self._owned = dict.fromkeys(records, False)
            return
        if self._hashes is None or self._hashes[0] != records:
            self._hashes = (records, hash_modules(records))
        found = views.owners(view, records, self._hashes[1])
        identity = self._identity
        self._owned = {
            record: owner == identity for record, owner in zip(records, found, strict=True)
        }

    def _look_at_everything(self) -> None:
        parts = self._parts
        configuration = parts.configuration
        parts.executor.together.deciding()
        self.touch(parts.executor.instances)  # first what has to stop
        self.touch(configuration.modules)
        parts.lookups.touch(configuration.systems)
        parts.repositories.look(configuration.repositories)
        if self._may_start:
            self._probe_unused(self.versions)

    # -- configuration --------------------------------------------------------------------------

    def configuration_changed(self, changes: set[Change]) -> None:
        """Records changed; the cache holds them already."""
        parts = self._parts
        configuration = parts.configuration
        modules, systems = affected(configuration, changes)
        repositories: set[str] = set()
        for kind, record in changes:
            if kind == "repo":
                repositories.add(record)
            elif kind == "driver":
                driver = configuration.drivers.get(record)
                if driver is not None:
                    repositories.add(driver.repository_id)
            elif kind == "mod" and record not in configuration.modules:
                self._deleted.add(record)
        parts.repositories.look(repositories)
        self.touch(modules)
        parts.lookups.touch(systems)

    def version_found(self, driver: str, version: Version) -> None:
        """A driver's file has new content."""
        self._parts.executor.offer(version)
        self.versions[driver] = version.key
        log.info("driver version", extra={"driver": driver, "version": version.key})
        self.driver_changed(driver)
        self._probe_unused([driver])

    def driver_changed(self, driver: str) -> None:
        """What there is to say of a driver's file changed: look at its modules."""
        modules = self._parts.configuration.modules.values()
        self.touch([one.id for one in modules if one.driver_id == driver])

    def _probe_unused(self, drivers: Iterable[str]) -> None:
        """Load drivers that run nowhere here, so that their schema and faults are known."""
        if not self.has_view:
            return
        modules = self._parts.configuration.modules.values()
        used = {one.driver_id for one in modules if one.running and self.owns(one.id)}
        for driver in drivers:
            if driver not in used and self.owns(driver):
                self._parts.executor.probe(self.versions[driver])

    def paths_in_use(self) -> frozenset[Path]:
        """Folders of driver copies that must stay."""
        return frozenset(
            process.version.path.parent for process in self._parts.processes.by_key.values()
        )

    # -- deciding -------------------------------------------------------------------------------

    def touch(self, modules: Iterable[str]) -> None:
        """How these modules should run may be different now."""
        self._touched.update(dict.fromkeys(modules))
        self._wake.set()

    async def run(self) -> None:
        """Decide until cancelled, in slices that let the loop breathe."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._settle_views(), name="core: settling")
            await self._decide_all()

    async def _decide_all(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await self._wake.wait()
            self._wake.clear()
            until = loop.time() + SLICE
            while self._touched:
                module = next(iter(self._touched))
                del self._touched[module]
                self._decide(module)
                if loop.time() >= until:
                    await asyncio.sleep(0)
                    until = loop.time() + SLICE
            self._parts.executor.together.decided()
            self._stopped.set()

    def _decide(self, module: str) -> None:
        parts = self._parts
        ours = self.owns(module)
        # Until the view is completed its module may still run where it was; unless that is here.
        kept = self._may_keep and module in parts.executor.desired
        allowed = ours and (self._may_start or kept)
        wanted = want(parts.configuration, module, self.versions) if allowed else None
        if not ours and module in parts.executor.instances:
            self._foreign.add(module)
        parts.executor.want(module, wanted, hand_over=not ours)
        if wanted is None and module not in parts.executor.instances:
            self._left(module)
            if ours:
                self._does_not_run(module)
        parts.switch.look_again(module)

    async def _settle_views(self) -> None:
        """Tell of each view when all that it takes from here has ended, until cancelled."""
        while True:
            await self._stopped.wait()
            self._stopped.clear()
            view = self._view
            if view is None or view.name == self._settled or not self._is_settled():
                continue
            moved = list(self._foreign)
            await self._parts.state.drained(moved, DRAINED)
            if self._view is view and self._is_settled():
                self._foreign.difference_update(moved)
                self._settled = view.name
                self._settle(view.name)
            self._stopped.set()

    def _is_settled(self) -> bool:
        running = self._parts.executor.instances
        return not self._touched and (
            all(map(self.owns, running)) if self._may_keep else not running
        )

    def _left(self, module: str) -> None:
        """A module does not run here (any more)."""
        parts = self._parts
        if module in self._deleted:
            self._deleted.discard(module)
            parts.reports.module_gone(module)
            if self.owns(module):
                parts.state.remove(module)
            else:
                parts.state.forget(module)
        elif not self.owns(module):
            parts.state.forget(module)

    def _does_not_run(self, module: str) -> None:
        """A module of ours does not run, as it should be or since its driver is not at hand."""
        parts = self._parts
        record = parts.configuration.modules.get(module)
        problem = None
        if record is not None and record.running and record.driver_id not in self.versions:
            problem = parts.repositories.problems.get(record.driver_id)
        if problem is not None:
            self.module_unusable(module, problem)
        else:
            parts.reports.module_gone(module)

    # -- modules --------------------------------------------------------------------------------

    def module_unusable(self, module: str, reason: str) -> None:
        """A module should run, but its driver cannot be used, in any version."""
        summary = reason.partition("\n")[0]
        self._parts.reports.module_error(module, "start", f"its driver cannot be used: {summary}")
        self._parts.state.change(module, [("connected", Raw(b"false"))])

    def module_started(self, module: str, metadata: bytes) -> None:
        """A module accepted its start, or (without metadata) an update."""
        parts = self._parts
        record = parts.configuration.modules.get(module)
        instance = parts.executor.instances.get(module)
        if record is None or instance is None:
            return
        if metadata:
            self._interfaces[module] = metadata
            parts.drivers.interfaces[module] = self._described(module, metadata)
            parts.reports.module_well(module, "start", flagged=record.has_runtime_error)
        known = self._interfaces.get(module)
        if known is not None:
            notes = msgspec.json.encode(record.notes or None)
            parts.state.interface(module, known[:-1] + b',"notes":' + notes + b"}")

    def module_stopped(self, module: str) -> None:
        """A module was stopped, or its process ended when it should not run any more."""
        parts = self._parts
        self._stopped.set()
        parts.drivers.module_stopped(module)
        if module not in parts.executor.desired:
            self._interfaces.pop(module, None)
            parts.reports.module_gone(module)
            if self.owns(module) and module in parts.configuration.modules:
                parts.state.change(module, [("connected", Raw(b"false"))])
            self._left(module)
        else:  # it goes on with another version of its driver
            parts.reports.module_begins(module)
            parts.reports.module_well(module, *OF_THE_CODE)

    def _described(self, module: str, metadata: bytes) -> SystemModule:
        """What system views tell of a module; equal metadata is read once."""
        known = self._descriptions.get(metadata)
        if known is None:
            try:
                read = msgspec.json.decode(metadata, type=ModuleMetadata)
                known = (list(read.implements), list(read.interface))
            except msgspec.MsgspecError as error:
                log.warning("metadata unreadable", extra={"id": module, "reason": str(error)})
                known = ([], [])
            if len(self._descriptions) >= MAX_DESCRIPTIONS:
                self._descriptions.clear()
            self._descriptions[metadata] = known
        return SystemModule(module, "", 0, implements=known[0], functions=known[1])
