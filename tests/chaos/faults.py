"""The faults: what is done to the cores, and what is promised for it (design: budgets).

Each is a list of phases that leaves the platform as it found it.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

from checker import Promise
from rig import Rig
from rounds import Phase

TTL = 5.0  # seconds: the lease of a core
CRASH = Promise(worst=TTL + 4, median=TTL + 2.5)
MOVE = Promise(worst=3.0, median=1.0, calls_succeed=True)
"""A hand-over between two cores that are well: for a drain, and for a join just as well."""
UNDISTURBED = Promise(worst=0.0, calls_succeed=True)
SETTLED = 40.0  # seconds: after an unclean end a core may stay without modules for a while


def holds(*names: str) -> Callable[[Rig], bool]:
    """Whether each of these cores has modules."""
    return lambda rig: all(rig.shares()[name] for name in names)


def holds_none(*names: str) -> Callable[[Rig], bool]:
    """Whether none of these cores has modules, and all are connected."""
    return lambda rig: rig.all_connected and not any(rig.shares()[name] for name in names)


def all_connected(rig: Rig) -> bool:
    """Whether all are connected, to whomever."""
    return rig.all_connected


def back(*names: str) -> Phase:
    """Start cores that were gone: a join."""

    async def act(rig: Rig) -> None:
        for name in names:
            rig.core(name)

    return Phase("join", MOVE, act, holds(*names), SETTLED)


def leave(name: str) -> Phase:
    """A core hands over and goes."""

    async def act(rig: Rig) -> None:
        rig.cores[name].terminate()

    def over(rig: Rig) -> bool:
        return not rig.cores[name].alive and holds_none(name)(rig)

    return Phase("SIGTERM drain", MOVE, act, over, hurt=(name,))


def kill(*names: str) -> list[Phase]:
    """`kill -9`, and nobody starts it again; then it comes back."""

    async def act(rig: Rig) -> None:
        for name in names:
            rig.cores[name].kill()

    what = "kill -9" if len(names) == 1 else f"kill -9 of {len(names)} at once"
    return [Phase(what, CRASH, act, holds_none(*names), hurt=names), back(*names)]


def drain(name: str) -> list[Phase]:
    """SIGTERM: it hands over and goes; then it comes back."""
    return [leave(name), back(name)]


def drain_beside_slow_calls(name: str, seconds: float = 2.0) -> list[Phase]:
    """SIGTERM while some calls take their time: neither do they fail, nor do the others wait."""
    what = f"SIGTERM drain, calls of {seconds:g} s"
    return [replace(leave(name), name=what, slow=seconds), back(name)]


def freeze(name: str, *, alone: bool = False, seconds: float = 3 * TTL) -> list[Phase]:
    """SIGSTOP for 3 x TTL, then SIGCONT: of all its processes, or of the core `alone`.

    If the kernel's timer has ended it meanwhile, as it should, it is started again.
    """

    async def act(rig: Rig) -> None:
        rig.cores[name].stop(alone=alone)
        try:
            await asyncio.sleep(seconds)
        finally:
            rig.cores[name].go_on()

    async def again(rig: Rig) -> None:
        await _end_and_start(rig, name)

    what = f"SIGSTOP {seconds:g} s{' of the core alone' if alone else ''}"
    return [
        Phase(what, CRASH, act, all_connected, hurt=(name,)),
        Phase("return", MOVE, again, holds(name), SETTLED),
    ]


def restart(name: str) -> list[Phase]:
    """`kill -9`, and the same identity starts at once on the same data."""

    async def act(rig: Rig) -> None:
        rig.cores[name].kill()
        await asyncio.to_thread(rig.cores[name].wait, 5.0)
        rig.core(name)

    return [Phase("restart, same identity", CRASH, act, holds(name), SETTLED, hurt=(name,))]


def join(name: str) -> list[Phase]:
    """A core that was never there comes, and leaves again."""

    return [back(name), leave(name)]


def join_beside_frozen(new: str, frozen: str, seconds: float = 3.0) -> list[Phase]:
    """A core comes while another stands still for less than its lease: it has to be waited for."""

    async def act(rig: Rig) -> None:
        rig.core(new)
        await asyncio.sleep(0.3)
        rig.cores[frozen].stop()
        try:
            await asyncio.sleep(seconds)
        finally:
            rig.cores[frozen].go_on()

    what = f"join, another frozen {seconds:g} s"
    return [Phase(what, CRASH, act, holds(new), SETTLED), leave(new)]


def hung_loop(new: str, hung: str, seconds: float = 2 * TTL) -> list[Phase]:
    """A core comes while the loop of another hangs, whose lease goes on for 2 s."""

    async def act(rig: Rig) -> None:
        helper = await asyncio.to_thread(rig.cores[hung].hang, seconds)
        rig.core(new)
        await asyncio.to_thread(helper.wait)

    async def again(rig: Rig) -> None:
        await _end_and_start(rig, hung)

    promise = Promise(worst=2 + CRASH.worst, median=2 + CRASH.median)
    return [
        Phase(f"join, loop of another hangs {seconds:g} s", promise, act, holds(new), SETTLED),
        Phase("return", MOVE, again, holds(hung), SETTLED),
        leave(new),
    ]


def double(name: str, seconds: float = 3 * TTL) -> list[Phase]:
    """The same identity starts on a second data folder while the first is frozen."""
    second = f"{name}-again"

    async def act(rig: Rig) -> None:
        rig.cores[name].stop()
        try:
            rig.core(name, data=second, key=second)
            await asyncio.sleep(seconds)
        finally:
            rig.cores[name].go_on()

    async def one_of_them(rig: Rig) -> None:
        rig.cores[second].terminate()
        if not await asyncio.to_thread(rig.cores[second].wait, 10.0):
            rig.cores[second].kill()
        await _end_and_start(rig, name)

    return [
        Phase("identity twice, the first frozen", CRASH, act, all_connected, hurt=(name,)),
        Phase("return", Promise(worst=CRASH.worst), one_of_them, holds(name), SETTLED),
    ]


def crash_loop(name: str, times: int = 3, every: float = 10.0) -> list[Phase]:
    """A core that crashes every 10 s and is started at once."""

    async def act(rig: Rig) -> None:
        for _ in range(times):
            rig.cores[name].kill()
            await asyncio.to_thread(rig.cores[name].wait, 5.0)
            rig.core(name, forgiven=False)
            await asyncio.sleep(every)

    what = f"crash every {every:g} s"
    return [Phase(what, CRASH, act, holds(name), 6 * SETTLED, hurt=(name,))]


def power_cut() -> list[Phase]:
    """Everything is killed at once and started again: engines, api, auth, cores."""

    async def act(rig: Rig) -> None:
        names = [name for name, core in rig.cores.items() if core.alive]
        for name in names:
            rig.cores[name].kill()
        for item in rig.supervisor:
            item.signal(signal.SIGKILL, whole_group=True)
        for name in names:
            await asyncio.to_thread(rig.cores[name].wait, 5.0)
            rig.core(name)

    async def served(rig: Rig) -> None:
        return None

    return [
        Phase("power cut", Promise(), act, all_connected, 120.0),
        Phase("after the power cut", Promise(worst=MOVE.worst), served, all_connected, 60.0),
    ]


def rolling(names: Sequence[str]) -> list[Phase]:
    """Every core in turn is drained and started."""

    async def act(rig: Rig) -> None:
        for name in names:
            await _end_and_start(rig, name)
            await rig.until(partial(holds(name), rig), SETTLED, f"{name} has modules again")

    return [Phase("rolling restart of the cores", MOVE, act, all_connected)]


def engine_frozen(name: str, seconds: float = 3 * TTL) -> list[Phase]:
    """An engine stands still for a while: nothing that runs may notice."""

    async def act(rig: Rig) -> None:
        with rig.engine_stopped(name):
            await asyncio.sleep(seconds)

    return [Phase(f"{name} frozen {seconds:g} s", UNDISTURBED, act, all_connected)]


def engine_killed(name: str) -> list[Phase]:
    """An engine is killed, and started again at once."""

    async def act(rig: Rig) -> None:
        rig.engine(name).signal(signal.SIGKILL)
        await asyncio.sleep(TTL)

    return [Phase(f"{name} killed", UNDISTURBED, act, all_connected)]


def restart_without_etcd(name: str, seconds: float = 5 * TTL) -> list[Phase]:
    """While etcd is away a core is killed and started again: the others go on.

    Its own modules wait for etcd.
    """

    async def act(rig: Rig) -> None:
        with rig.engine_stopped("etcd"):
            await asyncio.sleep(TTL)
            rig.cores[name].kill()
            await asyncio.to_thread(rig.cores[name].wait, 5.0)
            rig.core(name)
            await asyncio.sleep(seconds - TTL)

    promise = Promise(worst=seconds + CRASH.worst)
    what = "a core restarts without etcd"
    return [Phase(what, promise, act, holds(name), SETTLED, hurt=(name,))]


async def _end_and_start(rig: Rig, name: str) -> None:
    """Drain a core if it still runs, and start it."""
    core = rig.cores[name]
    core.terminate()
    if not await asyncio.to_thread(core.wait, 15.0):
        core.kill()
        await asyncio.to_thread(core.wait, 5.0)
    rig.core(name)
