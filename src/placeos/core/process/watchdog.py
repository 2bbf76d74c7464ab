"""Watching the event loops of driver processes: a blocked one is reported, then replaced."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Final

from placeos.core.process.processes import DriverProcess, Processes
from placeos.wire.errors import CallError
from placeos.wire.frame import Command, Header
from placeos.wire.link import Link

log = logging.getLogger("placeos.core")

PERIOD: Final = 0.5  # seconds between pings
BLOCKED: Final = 1.0  # seconds without an answer: report, with the stack
HOPELESS: Final = 30.0  # seconds without an answer: replace the process
DUMP: Final = 0.3  # seconds the stack may take to arrive


class _Probe:
    """The ping under way to one link."""

    __slots__ = ("answered", "link", "reported", "sent")

    def __init__(self, link: Link, now: float) -> None:
        self.link = link
        self.sent = now
        self.answered = False
        self.reported = False

    def __call__(self, answer: Header, body: bytes) -> None:
        self.answered = True


class Watchdog:
    """The owner runs `run()`.

    `on_blocked(process, where)` once per blockage, `on_free(process)` when it is over.
    """

    def __init__(
        self,
        processes: Processes,
        *,
        on_blocked: Callable[[DriverProcess, str], None],
        on_free: Callable[[DriverProcess], None],
    ) -> None:
        self._processes = processes
        self._on_blocked = on_blocked
        self._on_free = on_free
        self._probes: dict[DriverProcess, _Probe] = {}

    async def run(self) -> None:
        """Ping until cancelled."""
        loop = asyncio.get_running_loop()
        expected = loop.time()
        async with asyncio.TaskGroup() as tasks:
            while True:
                expected += PERIOD
                await asyncio.sleep(max(0.0, expected - loop.time()))
                now = loop.time()
                if now - expected > PERIOD:
                    # It was this loop that was late: the answers may wait in our sockets.
                    expected = now
                    continue
                alive = set(self._processes.by_key.values())
                for process in self._probes.keys() - alive:
                    del self._probes[process]
                for process in alive:
                    self._look(process, now, tasks)

    def _look(self, process: DriverProcess, now: float, tasks: asyncio.TaskGroup) -> None:
        link = process.link
        probe = self._probes.get(process)
        if link is None:
            self._probes.pop(process, None)
            return
        if probe is None or probe.link is not link or probe.answered:
            if probe is not None and probe.reported and probe.link is link:
                log.info("driver process is free again", extra={"driver": process.version.title})
                self._on_free(process)
            probe = self._probes[process] = _Probe(link, now)
            try:
                link.call(Header(Command.PING), b"", probe)
            except CallError:
                del self._probes[process]
            return
        silent = now - probe.sent
        if silent > HOPELESS:
            log.error("driver process is replaced", extra={"driver": process.version.title})
            process.kill(f"did nothing but block its event loop for {HOPELESS:g} s")
        elif silent > BLOCKED and not probe.reported:
            probe.reported = True
            tasks.create_task(self._report(process), name="watchdog: stack")

    async def _report(self, process: DriverProcess) -> None:
        began = asyncio.get_running_loop().time()
        process.dump_stack()
        await asyncio.sleep(DUMP)
        child = process.child
        where = child.output.stack(str(process.version.path), began) if child is not None else None
        message = f"event loop blocked at {where}" if where else "event loop blocked"
        log.error("driver process is blocked", extra={"driver": process.version.title, "at": where})
        self._on_blocked(process, message)
