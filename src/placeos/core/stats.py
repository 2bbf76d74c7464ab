"""Numbers about this node and its driver processes, for the cluster pages."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Iterable
from typing import Final

import msgspec
import psutil

from placeos.core.plan import Phase
from placeos.core.process.processes import DriverProcess

LEAST: Final = 0.5  # seconds between two readings of a processor's use


class ProcessStats(msgspec.Struct, omit_defaults=True):
    """One driver process. Memory in KiB, CPU in percent of one core since the last question."""

    driver: str  # driver id
    version: str
    file: str
    running: bool
    pid: int | None = None
    modules: list[str] = []
    launch_count: int = 0
    launch_time: int = 0
    last_exit_code: int | None = None
    percentage_cpu: float | None = None
    memory_usage: int | None = None
    problem: str = ""  # why it could not be loaded
    last_end: str = ""  # how its last life ended, if that was not wanted
    troubles: dict[str, str] = {}  # what its present life does to others, by cause
    isolation: dict[str, str] = {}  # the walls around it, and how far each was reached


class NodeStats(msgspec.Struct):
    """One core. Memory in KiB, CPU in percent."""

    identity: str
    hostname: str
    cpu_count: int
    core_cpu: float
    total_cpu: float
    memory_total: int
    memory_usage: int
    core_memory: int
    modules: int
    modules_running: int
    uptime: int
    errors: dict[str, list[str]]
    processes: list[ProcessStats]
    links: dict[str, object] = {}  # open, and refused by reason
    membership: object = None  # its place in the cluster, as it sees it


class _Cpu:
    """Percent of a processor between two questions; of shorter times the counter tells nothing."""

    def __init__(self, measure: Callable[[], float]) -> None:
        self._measure = measure
        self._value = measure()  # begins to count: 0
        self._at = time.monotonic()

    def percent(self) -> float:
        """Since the last question, or of the time before it. Raises psutil.Error."""
        now = time.monotonic()
        if now - self._at >= LEAST:
            self._value, self._at = self._measure(), now
        return self._value


class Stats:
    """Keeps samplers between questions, so that CPU is that of the time between them."""

    def __init__(self, identity: str) -> None:
        self._identity = identity
        self._began = time.monotonic()
        self._own = psutil.Process()
        self._cpu = _Cpu(self._own.cpu_percent)
        self._total = _Cpu(psutil.cpu_percent)
        self._samplers: dict[int, tuple[psutil.Process, _Cpu]] = {}

    async def collect(
        self,
        processes: Iterable[DriverProcess],
        modules_of: Callable[[str], list[str]],
        *,
        modules: int,
        running: int,
        errors: dict[str, list[str]],
        links: dict[str, object] | None = None,
    ) -> NodeStats:
        """A snapshot; the reading of /proc happens in a thread."""
        found = [
            ProcessStats(
                driver=process.version.driver_id,
                version=process.version.key,
                file=process.version.title,
                running=process.phase is Phase.READY,
                pid=process.pid,
                modules=modules_of(process.version.key),
                launch_count=process.launch_count,
                launch_time=process.launch_time,
                last_exit_code=process.last_exit,
                problem=process.problem,
                last_end=process.last_end,
                troubles=dict(process.troubles),
                isolation=process.isolation,
            )
            for process in processes
        ]
        stats = await asyncio.to_thread(self._measure, found, modules, running, errors)
        stats.links = links or {}
        return stats

    def _measure(
        self, found: list[ProcessStats], modules: int, running: int, errors: dict[str, list[str]]
    ) -> NodeStats:
        for process in found:
            if process.pid is not None:
                self._measure_process(process, process.pid)
        alive = {process.pid for process in found}
        for pid in [pid for pid in self._samplers if pid not in alive]:
            del self._samplers[pid]
        memory = psutil.virtual_memory()
        return NodeStats(
            identity=self._identity,
            hostname=os.uname().nodename,
            cpu_count=os.cpu_count() or 1,
            core_cpu=self._cpu.percent(),
            total_cpu=self._total.percent(),
            memory_total=memory.total // 1024,
            memory_usage=(memory.total - memory.available) // 1024,
            core_memory=self._own.memory_info().rss // 1024,
            modules=modules,
            modules_running=running,
            uptime=int(time.monotonic() - self._began),
            errors=errors,
            processes=found,
        )

    def _measure_process(self, process: ProcessStats, pid: int) -> None:
        try:
            if pid not in self._samplers:
                sampler = psutil.Process(pid)
                self._samplers[pid] = sampler, _Cpu(sampler.cpu_percent)
            sampler, cpu = self._samplers[pid]
            process.percentage_cpu = cpu.percent()
            process.memory_usage = sampler.memory_info().rss // 1024
        except psutil.Error:
            self._samplers.pop(pid, None)  # it ended meanwhile
