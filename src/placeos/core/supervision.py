"""What follows from the lives of driver processes, and what callers are told of them."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable
from typing import Final

import msgspec

from placeos.core.calls import Absence
from placeos.core.node import Node, Parts
from placeos.core.plan import Phase
from placeos.core.process.processes import DriverProcess
from placeos.core.stats import Stats
from placeos.model.driver import Role
from placeos.wire.errors import CallError, Failure
from placeos.wire.frame import Header
from placeos.wire.gate import LinkCounts
from placeos.wire.link import Link
from placeos.wire.messages import DriverDefaults

log = logging.getLogger("placeos.core")

HOUR: Final = 3_600.0  # seconds in which the ends of a process are counted
MAX_COUNTED: Final = 100


class Supervision:
    """Takes the events of processes and the watchdog. `connect(parts)` before anything runs."""

    def __init__(self, node: Node, identity: str) -> None:
        self._node = node
        self._parts: Parts
        self._stats = Stats(identity)
        self.links = LinkCounts()
        """Of this core's listener."""
        self.membership: Callable[[], object] = lambda: None
        """Tells this core's place in the cluster."""
        self._ends: dict[str, deque[float]] = {}

    def connect(self, parts: Parts) -> None:
        """Take the parts; from now on their events arrive here."""
        self._parts = parts

    # -- processes ------------------------------------------------------------------------------

    def process_ready(self, process: DriverProcess, defaults: DriverDefaults) -> None:
        """A driver was loaded: its modules can start."""
        version = process.version
        self._parts.drivers.opened(process)
        if self._is_newest(process):
            reports = self._parts.reports
            reports.driver_output(version.driver_id, self._role_problem(process, defaults))
            schema = msgspec.json.encode(defaults.json_schema).decode()
            reports.driver_schema(version.driver_id, schema)
            self._parts.repositories.built(version.driver_id)
        log.info("driver ready", extra={"driver": version.title, "pid": process.pid})
        self._parts.executor.process_ready(version.key)
        self._parts.executor.probed(version.key)

    def process_unusable(self, process: DriverProcess, message: str) -> None:
        """A driver could not be loaded: whatever ran before goes on."""
        version = process.version
        log.warning("driver unusable", extra={"driver": version.title, "reason": message})
        if self._is_newest(process):
            self._parts.reports.driver_output(version.driver_id, message)
            self._parts.repositories.built(version.driver_id)
        for module, want in self._parts.executor.desired.items():
            if want.version == version.key:
                self._parts.switch.look_again(module)
                if module not in self._parts.executor.instances:
                    self._node.module_unusable(module, message)
        self._parts.executor.probed(version.key)

    def process_gone(self, process: DriverProcess, link: Link, reason: str) -> None:
        """A process died with its modules; they restart in the next one."""
        version = process.version
        parts = self._parts
        parts.drivers.closed(process)
        process.troubles.pop("blocked", None)
        parts.switch.ended(link, reason.partition("\n")[0])
        gone = parts.executor.process_gone(version.key)
        if not gone:
            return
        process.last_end = reason = self._how_often(version.key, reason)
        log.warning(
            "driver process died",
            extra={"driver": version.title, "reason": reason, "modules": len(gone)},
        )
        for module in gone:
            if module in parts.executor.desired:
                parts.reports.module_error(module, "crash", f"its driver process {reason}")
            else:
                self._node.module_stopped(module)

    def _how_often(self, key: str, reason: str) -> str:
        """The reason of an end, with how often it happened lately in its first line."""
        now = time.monotonic()
        if len(self._ends) > 10 * MAX_COUNTED:
            self._ends.clear()
        ends = self._ends.setdefault(key, deque(maxlen=MAX_COUNTED))
        ends.append(now)
        count = sum(end > now - HOUR for end in ends)
        if count == 1:
            return reason
        first, separator, rest = reason.partition("\n")
        often = f"{count} times" if count < MAX_COUNTED else f"{count} times or more"
        return f"{first} ({often} within an hour){separator}{rest}"

    def process_frame(self, process: DriverProcess, header: Header, payload: bytes) -> None:
        """A frame from a driver process."""
        self._parts.drivers.frame(process, header, payload)

    def process_cancel(self, process: DriverProcess, sequence: int) -> None:
        """A driver no longer waits for an answer."""
        self._parts.drivers.cancel(process, sequence)

    def process_blocked(self, process: DriverProcess, message: str) -> None:
        """The watchdog found a blocked event loop."""
        process.troubles["blocked"] = message
        for module in self._parts.executor.modules_in(process.version.key):
            self._parts.reports.module_error(module, "blocked", message)

    def process_free(self, process: DriverProcess) -> None:
        """The blockage is over; its report stays until the driver is another one."""
        process.troubles.pop("blocked", None)
        log.info("driver loop runs again", extra={"driver": process.version.title})

    def process_troubles(self, process: DriverProcess, cause: str, message: str) -> None:
        """The meter found that a process takes more than its part."""
        title = process.version.title
        log.warning("driver process troubles others", extra={"driver": title, "reason": message})
        process.troubles[cause] = message
        for module in self._parts.executor.modules_in(process.version.key):
            self._parts.reports.module_error(module, cause, f"its driver process {message}")

    def process_well(self, process: DriverProcess, cause: str) -> None:
        """That is over."""
        title = process.version.title
        log.info("driver process is well again", extra={"driver": title, "cause": cause})
        process.troubles.pop(cause, None)
        for module, want in self._parts.executor.desired.items():
            if want.version == process.version.key:  # also those that wait for its next life
                self._parts.reports.module_well(module, cause)

    def _is_newest(self, process: DriverProcess) -> bool:
        version = process.version
        return self._node.versions.get(version.driver_id) == version.key

    def _role_problem(self, process: DriverProcess, defaults: DriverDefaults) -> str | None:
        """The record of a driver must name a role that its code can play."""
        record = self._parts.configuration.drivers.get(process.version.driver_id)
        roles = defaults.roles or [defaults.role]
        if record is None or int(record.role) in roles:
            return None
        able = " or ".join(f"role {role} ({_role_name(role)})" for role in dict.fromkeys(roles))
        return (
            f"{process.version.title}: the record of the driver says role "
            f"{record.role.value} ({record.role.name.lower()}), but its code has the transport of "
            f"{able}; its modules cannot start"
        )

    # -- callers --------------------------------------------------------------------------------

    def absence(self, module: str) -> Absence:
        """Why a module does not run here; None while it is expected soon."""
        parts = self._parts
        configuration = parts.configuration
        if not self._node.has_view or not configuration.loaded.is_set():
            return None
        record = configuration.modules.get(module)
        if not self._node.owns(module):
            return self._moved()
        if record is None or not record.running:
            if not configuration.confirm(module):
                return None
            stopped = ": it is stopped" if record is not None else ""
            return CallError(Failure.MODULE_NOT_FOUND, f"could not find module{stopped}")
        problem = parts.executor.problem(module)
        if problem is not None:
            return problem
        reason = self._driver_problem(record.driver_id)
        if reason is None:
            return None
        return CallError(Failure.NOT_RUN, f"the driver of this module cannot be used: {reason}")

    def _moved(self) -> CallError:
        view = self._node.view_number
        return CallError(Failure.MOVED, "another core runs this module", view=view)

    def _driver_problem(self, driver: str) -> str | None:
        key = self._node.versions.get(driver)
        if key is None:
            return self._parts.repositories.problems.get(driver)
        process = self._parts.processes.by_key.get(key)
        if process is None or process.phase is Phase.READY or not process.problem:
            return None
        return process.problem.partition("\n")[0]

    async def load(self, header: Header, _: bytes = b"") -> bytes:
        """LOAD: give a module its settings once more, look at its driver's file again."""
        module = header.module
        record = self._parts.configuration.modules.get(module)
        if record is None:
            raise CallError(Failure.MODULE_NOT_FOUND, "could not find module")
        if not self._node.owns(module):
            raise self._moved()
        driver = self._parts.configuration.drivers.get(record.driver_id)
        if driver is not None:
            self._parts.repositories.look([driver.repository_id])
        self._parts.processes.retry(self._node.versions.get(record.driver_id, ""))
        self._parts.executor.reload(module)
        return b"true"

    async def terminate(self, header: Header, _: bytes = b"") -> bytes:
        """TERMINATE: end the processes of a driver (its id, or the key of one version); their
        modules start again in new ones. Answers how many there were."""
        asked = header.function
        ended = 0
        for process in self._parts.processes.by_key.values():
            version = process.version
            if asked in (version.driver_id, version.key) and process.child is not None:
                log.warning("driver process is terminated", extra={"driver": version.title})
                process.kill("was terminated by an administrator")
                ended += 1
        return msgspec.json.encode(ended)

    async def stats(self, _: Header, __: bytes = b"") -> bytes:
        """STATS: this node and its processes."""
        parts = self._parts
        found = await self._stats.collect(
            list(parts.processes.by_key.values()),
            parts.executor.modules_in,
            modules=len(parts.executor.desired),
            running=len(parts.switch.running),
            errors=parts.reports.all_errors(),
            links=self.links.snapshot(),
        )
        found.membership = self.membership()
        return msgspec.json.encode(found)


def _role_name(role: int) -> str:
    try:
        return Role(role).name.lower()
    except ValueError:
        return "unknown"
