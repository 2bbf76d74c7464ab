"""All of the chaos suite: `make chaos`, or `python tests/chaos/campaign.py --help`.

Prints each verdict as it falls and at the end a table; writes both beside the logs of all
processes. The exit code is 1 if any promise was broken, 2 if a round could not be carried out.
"""

from __future__ import annotations

import argparse
import asyncio
import fnmatch
import itertools
import os
import resource
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import apart
import faults
import members
import netns
import report
from checker import Promise
from rig import Rig, RigError, running
from rounds import Phase, Result, observe

Rounds = Callable[[int], list[Phase]]
Phases = Callable[[str, int], list[Phase]]
Platform = Callable[[Path], AbstractAsyncContextManager[tuple[Rig, Phases]]]
CORES = 3

FAULTS: dict[str, Rounds] = {
    "kill": lambda number: faults.kill(_core(number)),
    "drain": lambda number: faults.drain(_core(number)),
    "drain-slow-calls": lambda number: faults.drain_beside_slow_calls(_core(number)),
    "freeze": lambda number: faults.freeze(_core(number)),
    "freeze-core-alone": lambda number: faults.freeze(_core(number), alone=True),
    "join": lambda number: faults.join("core-4"),
    "join-beside-frozen": lambda number: faults.join_beside_frozen("core-4", _core(number)),
    "restart": lambda number: faults.restart(_core(number)),
    "two-at-once": lambda number: faults.kill(_core(number), _core(number + 1)),
    "hung-loop": lambda number: faults.hung_loop("core-4", _core(number)),
    "double": lambda number: faults.double(_core(number)),
    "crash-loop": lambda number: faults.crash_loop(_core(number)),
    "power-cut": lambda number: faults.power_cut(),
    "etcd-frozen": lambda number: faults.engine_frozen("etcd"),
    "redis-frozen": lambda number: faults.engine_frozen("redis"),
    "postgres-frozen": lambda number: faults.engine_frozen("postgres"),
    "etcd-killed": lambda number: faults.engine_killed("etcd"),
    "restart-without-etcd": lambda number: faults.restart_without_etcd(_core(number)),
    "rolling": lambda number: faults.rolling([f"core-{one}" for one in range(1, CORES + 1)]),
}
"""Each in turn hits another core."""


def _core(number: int) -> str:
    return f"core-{number % CORES + 1}"


class Campaign:
    """Runs rounds and keeps what came of them."""

    def __init__(self, folder: Path, rate: float) -> None:
        self.results: list[tuple[Result, Promise]] = []
        self.failures: list[str] = []
        self._folder = folder
        self._platforms = itertools.count(1)
        self._rate = rate

    async def run(self, faults: list[str], modules: int, rounds: int) -> None:
        """All faults in turn, so many times; a platform for each kind."""
        task = asyncio.current_task()
        assert task is not None
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
        local = [name for name in faults if name in FAULTS]
        far = [name for name in faults if name in apart.NETWORK_FAULTS]
        if reason := far and netns.possible():
            self._lost(f"{', '.join(far)}: {reason}")
            far = []
        await self._rounds(local, rounds, lambda folder: self._at_home(folder, modules))
        held = [name for name in faults if name in members.MEMBER_FAULTS]
        await self._rounds(held, rounds, lambda folder: self._of_members(folder, modules))
        await self._rounds(far, rounds, lambda folder: self._apart(folder, modules))

    async def _rounds(self, names: list[str], rounds: int, platform: Platform) -> None:
        """On one platform; on a new one after a round that could not be carried out."""
        work = [(number, name) for number in range(rounds) for name in names]
        while work:
            folder = self._folder / f"platform-{next(self._platforms)}"
            try:
                async with platform(folder) as (rig, phases):
                    while work:
                        number, name = work.pop(0)
                        await self._round(rig, name, phases(name, number), number)
            except* RigError as errors:
                for error in errors.exceptions:
                    self._lost(f"{error}")

    @asynccontextmanager
    async def _at_home(self, folder: Path, modules: int) -> AsyncIterator[tuple[Rig, Phases]]:
        async with running(folder, modules=modules, cores=CORES) as rig:
            yield rig, lambda name, number: FAULTS[name](number)

    @asynccontextmanager
    async def _apart(self, folder: Path, modules: int) -> AsyncIterator[tuple[Rig, Phases]]:
        async with apart.running(folder, modules=modules, cores=CORES) as far:
            yield far.rig, lambda name, number: apart.phases(far, name, number)

    @asynccontextmanager
    async def _of_members(self, folder: Path, modules: int) -> AsyncIterator[tuple[Rig, Phases]]:
        async with members.running(folder, modules=modules, cores=CORES) as at:
            yield at.rig, lambda name, number: members.phases(at, name)

    async def _round(self, rig: Rig, name: str, phases: list[Phase], number: int) -> None:
        rig.revive()
        await rig.balanced()
        for phase in phases:
            result = await observe(rig, phase, rate=self._rate)
            self.results.append((result, phase.promise))
            self._say(f"[{number + 1}] {name}: {phase.name}: {result.verdict.report(most=3)}")

    def _lost(self, words: str) -> None:
        self.failures.append(words)
        self._say(f"a round could not be carried out: {words}")

    @staticmethod
    def _say(text: str) -> None:
        sys.stdout.write(f"{time.strftime('%H:%M:%S')} {text}\n")
        sys.stdout.flush()


def _chosen(patterns: list[str]) -> list[str]:
    names = (*FAULTS, *members.MEMBER_FAULTS, *apart.NETWORK_FAULTS)
    return [name for name in names if any(fnmatch.fnmatch(name, one) for one in patterns)]


def _title(modules: int, rounds: int) -> str:
    return (
        f"{modules} modules on {CORES} cores, {rounds} rounds, {os.cpu_count()} processors, "
        f"{time.strftime('%Y-%m-%d')}; seconds"
    )


def main() -> None:
    """Run what the arguments ask for."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--modules", type=int, default=1000)
    parser.add_argument("--rate", type=float, default=20.0, help="calls a second")
    parser.add_argument("--faults", nargs="*", default=["*"], metavar="PATTERN")
    parser.add_argument("--results", type=Path, default=Path(".chaos"), metavar="FOLDER")
    given = parser.parse_args()
    chosen = _chosen(given.faults)
    if not chosen:
        parser.error(f"no such fault; there are {', '.join(_chosen(['*']))}")
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    folder = given.results / time.strftime("%Y%m%d-%H%M%S")
    campaign = Campaign(folder, given.rate)
    try:
        asyncio.run(campaign.run(chosen, given.modules, given.rounds))
    except (asyncio.CancelledError, KeyboardInterrupt):
        campaign.failures.append("it was stopped")
    finally:
        text = report.write(folder, campaign.results, _title(given.modules, given.rounds))
        sys.stdout.write(f"\n{text}\nAll of it is in {folder}\n")
    if campaign.failures:
        sys.exit(2)
    sys.exit(0 if all(result.verdict.ok for result, _ in campaign.results) else 1)


if __name__ == "__main__":
    main()
