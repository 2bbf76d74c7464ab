"""One round: a fault under load, from the first line of history to the verdict."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import load
from checker import Promise, Verdict, check
from rig import Rig

CALM = 2.5  # seconds without a change at any device after which a fault counts as over
BEFORE = 1.0  # seconds of load before the fault


@dataclass(frozen=True)
class Phase:
    """One thing that is done to the platform, and when it is over.

    `act` does it; the phase ends once `over` holds and the devices have been calm, or after
    `within` seconds: then the verdict tells who is missing.
    """

    name: str
    promise: Promise
    act: Callable[[Rig], Awaitable[None]]
    over: Callable[[Rig], bool] = lambda rig: True
    within: float = 40.0
    hurt: tuple[str, ...] = ()
    """The cores that are hurt, if only their modules may notice."""
    rest: float = 0.0
    """Seconds of load after the act, for what may take so long to be told (state in Redis)."""
    slow: float = 0.0
    """Seconds that a few of the calls take."""


@dataclass(frozen=True)
class Result:
    """What came of a phase."""

    phase: str
    verdict: Verdict
    seconds: float  # from the act to the end


async def observe(rig: Rig, phase: Phase, *, rate: float = 20.0) -> Result:
    """Carry out a phase under load and judge it."""
    async with load.running(rig.site, rate=rate, slow=phase.slow) as loading:
        start = time.monotonic_ns()
        events = rig.devices.log.begin(start)
        spared = rig.devices_of_others(phase.hurt) if phase.hurt else ()
        await asyncio.sleep(BEFORE)
        await phase.act(rig)
        acted = time.monotonic()
        await asyncio.sleep(phase.rest)
        await rig.until(
            lambda: phase.over(rig) and rig.calm(CALM), phase.within, phase.name, fail=False
        )
    end = time.monotonic_ns()
    events += rig.devices.log.take()
    verdict = check(
        [event for event in events if event.at <= end],
        loading.calls,
        loading.told,
        devices=range(rig.devices.count),
        start=start,
        end=end,
        promise=phase.promise,
        spared=spared,
    )
    return Result(phase.name, verdict, time.monotonic() - acted)
