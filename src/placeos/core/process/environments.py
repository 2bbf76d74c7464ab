"""Environments of driver files: built as jobs, shared, and removed when long unused."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

from placeos.core.jobs import Job, Jobs
from placeos.driver.environment import Block, read
from placeos.driver.environment_build import Environment, Packages, Store

log = logging.getLogger("placeos.core")

KEPT: Final = 5  # environments kept on disk besides those in use


class _Build:
    """One build, for all who wait for it."""

    def __init__(self, task: asyncio.Task[Environment]) -> None:
        self.task = task
        self.waiting = 0


class Environments:
    """All environments of this core. A file that asks for no packages has none."""

    def __init__(self, folder: Path, packages: Packages, jobs: Jobs) -> None:
        self._store = Store(folder, packages)
        self._jobs = jobs
        self._builds: dict[str, _Build] = {}
        self._in_use: Counter[Path] = Counter()

    def clear(self) -> None:
        """Remove what builds that were interrupted left behind; before the first is begun."""
        self._store.clear()

    @asynccontextmanager
    async def of(self, path: Path, title: str) -> AsyncIterator[Environment | None]:
        """The environment of a driver file, kept while in the block; None: the base serves.

        Waits until it is built. Raises EnvironmentProblem, JobCancelled, or OSError when the
        file cannot be read.
        """
        block = await asyncio.to_thread(read, path)
        if block is None:
            yield None
            return
        environment = await asyncio.to_thread(self._store.find, block)
        if environment is None:
            environment = await self._built(block, title)
        self._in_use[environment.folder] += 1
        try:
            yield environment
        finally:
            self._in_use[environment.folder] -= 1

    async def _built(self, block: Block, title: str) -> Environment:
        """Build it, or wait for who does. The build ends when nobody waits for it any more."""
        build = self._builds.get(block.digest)
        if build is None:
            task = asyncio.get_running_loop().create_task(self._job(block, title))
            build = self._builds[block.digest] = _Build(task)
        build.waiting += 1
        try:
            return await asyncio.shield(build.task)
        finally:
            build.waiting -= 1
            if not build.waiting:
                del self._builds[block.digest]
                build.task.cancel()
                await asyncio.gather(build.task, return_exceptions=True)

    async def _job(self, block: Block, title: str) -> Environment:
        async def work(job: Job) -> Environment:
            built = await self._store.build(block, job.say)
            in_use = {path for path, users in self._in_use.items() if users} | {built.folder}
            await asyncio.to_thread(self._store.forget, frozenset(in_use), KEPT)
            return built

        return await self._jobs.run("build", title, f"Environment of {title}", work)
