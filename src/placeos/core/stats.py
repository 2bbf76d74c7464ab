"""Numbers about this node and its driver processes, for the cluster pages."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Iterable

import msgspec
import psutil

from placeos.core.plan import Phase
from placeos.core.processes import DriverProcess


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
    problem: str = ""


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


class Stats:
    """Keeps samplers between questions, so that CPU is that of the time between them."""

    def __init__(self, identity: str) -> None:
        self._identity = identity
        self._began = time.monotonic()
        self._own = psutil.Process()
        self._own.cpu_percent()
        psutil.cpu_percent()
        self._samplers: dict[int, psutil.Process] = {}

    async def collect(
        self,
        processes: Iterable[DriverProcess],
        modules_of: Callable[[str], list[str]],
        *,
        modules: int,
        running: int,
        errors: dict[str, list[str]],
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
            )
            for process in processes
        ]
        return await asyncio.to_thread(self._measure, found, modules, running, errors)

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
            core_cpu=self._own.cpu_percent(),
            total_cpu=psutil.cpu_percent(),
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
            sampler = self._samplers.get(pid)
            if sampler is None:
                sampler = self._samplers[pid] = psutil.Process(pid)
            process.percentage_cpu = sampler.cpu_percent()
            process.memory_usage = sampler.memory_info().rss // 1024
        except psutil.Error:
            self._samplers.pop(pid, None)  # it ended meanwhile
