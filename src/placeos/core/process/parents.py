"""Fork parents: that of the base, and one for each environment while it is used."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

from placeos.core.process.environments import Environments
from placeos.core.process.parent import MODULE, ForkParent
from placeos.driver.environment_build import Environment

log = logging.getLogger("placeos.core")

LINGER: Final = 30.0  # seconds a parent is kept without children: they may come back

Make = Callable[[Sequence[str]], ForkParent]
"""Makes a fork parent that is started by a command line."""


class _Parent:
    """The parent of one environment."""

    def __init__(self, fork_parent: ForkParent) -> None:
        self.fork_parent = fork_parent
        self.users = 0
        self.task: asyncio.Task[None] | None = None


class Parents:
    """The owner runs `run()`; a parent begins with its first user, the base's at once."""

    def __init__(self, base: ForkParent, make: Make, environments: Environments) -> None:
        self.base = base
        self._make = make
        self._environments = environments
        self._parents: dict[str, _Parent] = {}
        self._tasks: asyncio.TaskGroup | None = None
        self._up = asyncio.Event()

    async def run(self) -> None:
        """Keep parents until cancelled."""
        await asyncio.to_thread(self._environments.clear)
        async with asyncio.TaskGroup() as self._tasks:
            self._up.set()
            await self.base.run()

    @asynccontextmanager
    async def of(self, path: Path, title: str) -> AsyncIterator[ForkParent]:
        """The parent for a driver file, kept while in the block.

        Waits until its environment is built; raises what `Environments.of` raises.
        """
        await self._up.wait()
        async with self._environments.of(path, title) as environment:
            if environment is None:
                yield self.base
                return
            parent = self._parent(environment)
            parent.users += 1
            try:
                yield parent.fork_parent
            finally:
                parent.users -= 1
                if not parent.users:
                    loop = asyncio.get_running_loop()
                    loop.call_later(LINGER, self._end_unused, environment.key)

    def _parent(self, environment: Environment) -> _Parent:
        found = self._parents.get(environment.key)
        if found is None:
            assert self._tasks is not None
            # -I: nothing but the environment and the base is on the path.
            made = self._make((str(environment.python), "-I", "-m", MODULE))
            found = self._parents[environment.key] = _Parent(made)
            found.task = self._tasks.create_task(made.run(), name=f"parent: {environment.key}")
        return found

    def _end_unused(self, key: str) -> None:
        found = self._parents.get(key)
        if found is not None and not found.users and found.task is not None:
            found.task.cancel()
            del self._parents[key]
