"""The faults: what is done to the cores, and what is promised for it (design: budgets).

Each is a list of phases that leaves the platform as it found it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from checker import Promise
from rig import Rig
from rounds import Phase

TTL = 5.0  # seconds: the lease of a core
CRASH = Promise(worst=TTL + 4, median=TTL + 2.5)
MOVE = Promise(worst=3.0, median=1.0, calls_succeed=True)
"""A hand-over between two cores that are well: for a drain, and for a join just as well."""
SETTLED = 40.0  # seconds: after an unclean end a core may stay without modules for a while


def holds(*names: str) -> Callable[[Rig], bool]:
    """Whether each of these cores has modules."""
    return lambda rig: all(rig.shares()[name] for name in names)


def holds_none(*names: str) -> Callable[[Rig], bool]:
    """Whether none of these cores has modules, and all are connected."""
    return lambda rig: rig.all_connected and not any(rig.shares()[name] for name in names)


def back(*names: str) -> Phase:
    """Start cores that were gone: a join."""

    async def act(rig: Rig) -> None:
        for name in names:
            rig.core(name)

    return Phase("join", MOVE, act, holds(*names), SETTLED)


def kill(*names: str) -> list[Phase]:
    """`kill -9`, and nobody starts it again; then it comes back."""

    async def act(rig: Rig) -> None:
        for name in names:
            rig.cores[name].kill()

    what = "kill -9" if len(names) == 1 else f"kill -9 of {len(names)} at once"
    return [Phase(what, CRASH, act, holds_none(*names)), back(*names)]


def drain(name: str) -> list[Phase]:
    """SIGTERM: it hands over and goes; then it comes back."""

    async def act(rig: Rig) -> None:
        rig.cores[name].terminate()

    def over(rig: Rig) -> bool:
        return not rig.cores[name].alive and holds_none(name)(rig)

    return [Phase("SIGTERM drain", MOVE, act, over), back(name)]


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

    def over(rig: Rig) -> bool:
        return rig.all_connected

    async def again(rig: Rig) -> None:
        if not await asyncio.to_thread(rig.cores[name].wait, 1.0):
            rig.cores[name].terminate()
            await asyncio.to_thread(rig.cores[name].wait, 10.0)
        rig.core(name)

    what = f"SIGSTOP {seconds:g} s{' of the core alone' if alone else ''}"
    return [Phase(what, CRASH, act, over), Phase("return", MOVE, again, holds(name), SETTLED)]


def restart(name: str) -> list[Phase]:
    """`kill -9`, and the same identity starts at once on the same data."""

    async def act(rig: Rig) -> None:
        rig.cores[name].kill()
        await asyncio.to_thread(rig.cores[name].wait, 5.0)
        rig.core(name)

    return [Phase("restart, same identity", CRASH, act, holds(name), SETTLED)]


def join(name: str) -> list[Phase]:
    """A core that was never there comes, and leaves again."""

    async def leave(rig: Rig) -> None:
        rig.cores[name].terminate()

    def gone(rig: Rig) -> bool:
        return not rig.cores[name].alive and holds_none(name)(rig)

    return [back(name), Phase("leave", MOVE, leave, gone)]
