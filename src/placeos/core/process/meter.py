"""What driver processes use, once per second, and what follows from it.

Too much memory or too many threads: the process is replaced. A processor kept busy, or output
without end: it is named until that is over, and gets less of a processor where that can be had.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Final

import msgspec

from placeos.core.process.control_groups import SLOW
from placeos.core.process.limits import THREADS, Limits
from placeos.core.process.parent import Child
from placeos.core.process.processes import DriverProcess, Processes

PERIOD: Final = 1.0  # seconds
BUSY: Final = 0.9  # of a processor, used or waited for
LITTLE: Final = 0.3  # of a processor: who uses less is not the one for whom others wait
BUSY_FOR: Final = 10.0  # seconds of which the mean counts
FLOOD: Final = 131_072  # bytes of output per second
FLOOD_FOR: Final = 1.5  # seconds until it is told: two readings
QUIET_FOR: Final = 10.0  # seconds below until it is well again
_TICKS: Final = os.sysconf("SC_CLK_TCK")
_PAGE: Final = os.sysconf("SC_PAGE_SIZE")
_NICE: Final = 10


class Reading(msgspec.Struct, frozen=True):
    """Of one process with all that it started: since its start, and now."""

    cpu: float  # seconds
    memory: int  # bytes, resident
    threads: int
    waited: float = 0.0  # seconds in which its main thread could have run but had no processor


class Excess:
    """Whether something is too much for long enough, and when that is over. Pure."""

    def __init__(self, limit: float, told_after: float) -> None:
        self._limit = limit
        self._told_after = told_after
        self._since: float | None = None  # start of the present stretch, above or below
        self.told = False

    def observe(self, value: float, now: float) -> bool:
        """Take a value; whether `told` has changed."""
        if (value >= self._limit) == self.told:
            self._since = None
            return False
        if self._since is None:
            self._since = now
        if now - self._since < (QUIET_FOR if self.told else self._told_after):
            return False
        self.told = not self.told
        self._since = None
        return True


def verdict(reading: Reading, limits: Limits) -> str:
    """Why a process must be replaced; empty if it need not."""
    memory = reading.memory >> 20
    if limits.memory and memory > limits.memory:
        return f"used {memory} MiB of memory, more than its limit of {limits.memory} MiB"
    if reading.threads >= THREADS:  # a control group lets it have no more
        return f"ran {reading.threads} threads: {THREADS} are its limit"
    return ""


def wanted(used: float, waited: float, *, slowed: bool) -> float:
    """How much of a processor a process would use, had it one of its own. Pure.

    One that uses little waits for others, and may want little. `slowed`: it gets less than it
    wants because of us.
    """
    return used + waited if used >= LITTLE or slowed else used


class _Life:
    """What is remembered of one process."""

    def __init__(self, limits: Limits) -> None:
        busy = min(BUSY, BUSY * limits.cpu / 100) if limits.cpu else BUSY
        self.cpu = Excess(busy, 0.0)
        self.flood = Excess(FLOOD, FLOOD_FOR)
        self.last: deque[tuple[float, Reading, int]] = deque(maxlen=int(BUSY_FOR / PERIOD))
        """The latest readings, with their times and the bytes of output until then."""


class Meter:
    """The owner runs `run()`.

    `on_problem(process, cause, message)` tells of what begins, `on_well(process, cause)` of its
    end; both for the causes `cpu` and `flood`.
    """

    def __init__(
        self,
        processes: Processes,
        limits: Limits,
        *,
        on_problem: Callable[[DriverProcess, str, str], None],
        on_well: Callable[[DriverProcess, str], None],
    ) -> None:
        self._processes = processes
        self._limits = limits
        self._on_problem = on_problem
        self._on_well = on_well
        self._lives: dict[Child, tuple[DriverProcess, _Life]] = {}

    async def run(self) -> None:
        """Measure until cancelled; the reading of /proc happens in a thread."""
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(PERIOD)
            children = {
                child: process
                for process in self._processes.by_key.values()
                if (child := process.child) is not None
            }
            pids = [child.pid for child in children]
            readings = await asyncio.to_thread(read_all, pids, family=self._limits.programs)
            for child in [child for child in self._lives if child not in children]:
                self._over(*self._lives.pop(child))
            now = loop.time()
            for child, process in children.items():
                if child.pid in readings and not child.exited.done():
                    self._judge(process, child, readings[child.pid], now)

    def _over(self, process: DriverProcess, life: _Life) -> None:
        for cause, excess in (("cpu", life.cpu), ("flood", life.flood)):
            if excess.told:
                self._on_well(process, cause)

    def _judge(self, process: DriverProcess, child: Child, reading: Reading, now: float) -> None:
        reason = verdict(reading, self._limits)
        if reason:
            process.kill(reason)
            return
        _, life = self._lives.setdefault(child, (process, _Life(self._limits)))
        written = child.output.received
        before = life.last[-1] if life.last else None
        if before is not None and now > before[0]:
            rate = (written - before[2]) / (now - before[0])
            if life.flood.observe(rate, now):
                text = (
                    f"writes too much to its output: {rate / 1e6:.1f} MB/s; most of it is dropped"
                )
                self._tell(process, "flood", text, told=life.flood.told)
        if len(life.last) == life.last.maxlen:
            self._judge_cpu(process, child, life, reading, now)
        life.last.append((now, reading, written))

    def _judge_cpu(
        self, process: DriverProcess, child: Child, life: _Life, reading: Reading, now: float
    ) -> None:
        """By the mean of the time that is remembered: dips do not hide who is busy."""
        since, first, _ = life.last[0]
        seconds = max(now - since, PERIOD)
        used = (reading.cpu - first.cpu) / seconds
        waited = (reading.waited - first.waited) / seconds
        if life.cpu.observe(wanted(used, waited, slowed=life.cpu.told), now):
            slowed = slow(child, busy=life.cpu.told)
            rest = "; it gets less of it until that is over" if slowed else ""
            use = f"{used:.0%} used, {waited:.0%} waited for"
            text = f"keeps a processor busy for {BUSY_FOR:g} s: {use}{rest}"
            self._tell(process, "cpu", text, told=life.cpu.told)

    def _tell(self, process: DriverProcess, cause: str, text: str, *, told: bool) -> None:
        if told:
            self._on_problem(process, cause, text)
        else:
            self._on_well(process, cause)


def slow(child: Child, *, busy: bool) -> bool:
    """Give it less of a busy processor, or as much as others again; whether that is possible."""
    if child.cell is not None and child.cell.group.weigh(SLOW if busy else 1.0):
        return True
    if os.geteuid() != 0:
        return False  # what we take we could not give back
    with contextlib.suppress(OSError):
        for thread in Path(f"/proc/{child.pid}/task").iterdir():
            os.setpriority(os.PRIO_PROCESS, int(thread.name), _NICE if busy else 0)
    return True


def read_all(pids: list[int], *, family: bool) -> dict[int, Reading]:
    """Readings of those that there are; with `family` including what they started."""
    found: dict[int, Reading] = {}
    for pid in pids:
        members = [pid]
        for member in members:
            reading = _read(member)
            if reading is None:
                continue
            before = found.get(pid, Reading(0.0, 0, 0))
            found[pid] = Reading(
                before.cpu + reading.cpu,
                before.memory + reading.memory,
                before.threads + reading.threads,
                before.waited + reading.waited,
            )
            if family:
                members += _children(member)
    return found


def _read(pid: int) -> Reading | None:
    try:
        fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
    except OSError:
        return None
    return Reading(
        cpu=(int(fields[11]) + int(fields[12])) / _TICKS,
        memory=int(fields[21]) * _PAGE,
        threads=int(fields[17]),
        waited=_waited(pid),
    )


def _waited(pid: int) -> float:
    """0 where the kernel does not count it."""
    try:
        return int(Path(f"/proc/{pid}/schedstat").read_bytes().split()[1]) / 1e9
    except (OSError, ValueError, IndexError):
        return 0.0


def _children(pid: int) -> list[int]:
    found: list[int] = []
    with contextlib.suppress(OSError):
        for thread in Path(f"/proc/{pid}/task").iterdir():
            found += map(int, (thread / "children").read_bytes().split())
    return found
