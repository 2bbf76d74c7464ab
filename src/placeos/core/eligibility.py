"""When a core that starts may be given modules: once it could run them, or when nobody else can,
and not after a crash while others can do without it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Final

from placeos.core.jobs import JobCancelled
from placeos.core.node import Node, Parts
from placeos.core.process.environments import Environments
from placeos.driver.environment import EnvironmentProblem

log = logging.getLogger("placeos.core")

PATIENCE: Final = 60.0  # seconds for the preparations, after which it takes part without
UNSERVED: Final = 1.0  # the same while no core runs the modules: some is better than none
LOOK: Final = 0.05  # seconds between looks


class Preparation:
    """Brings what the drivers in use need to this core, before modules come."""

    def __init__(self, node: Node, parts: Parts, environments: Environments) -> None:
        self._node = node
        self._parts = parts
        self._environments = environments
        self._over = asyncio.Event()

    async def done(self, unserved: Callable[[], bool]) -> None:
        """Prepare, until all is here or a minute is over. `unserved` tells whether nobody else
        runs the modules: then what takes longer than a second is waited for by its modules
        alone."""
        loop = asyncio.get_running_loop()
        began = loop.time()
        while not self._over.is_set():
            if loop.time() - began >= UNSERVED and unserved():
                log.info("not all drivers are prepared, but nobody else serves")
                return
            try:
                async with asyncio.timeout(LOOK):
                    await self._over.wait()
            except TimeoutError:
                pass

    async def run(self) -> None:
        """Wait until files and environments of all drivers in use are here, or cannot be had;
        at most a minute."""
        try:
            await self._prepare()
        finally:
            self._over.set()

    async def _prepare(self) -> None:
        await self._parts.configuration.loaded.wait()
        self._parts.repositories.look(self._parts.configuration.repositories)
        try:
            async with asyncio.timeout(PATIENCE):
                while self._missing():  # noqa: ASYNC110 - three parts would have to tell
                    await asyncio.sleep(LOOK)
                await asyncio.gather(*map(self._build, self._used() & set(self._node.versions)))
        except TimeoutError:
            log.warning("not all drivers are prepared", extra={"missing": sorted(self._missing())})

    def _used(self) -> set[str]:
        modules = self._parts.configuration.modules.values()
        return {module.driver_id for module in modules if module.running}

    def _missing(self) -> set[str]:
        return self._used() - set(self._node.versions) - set(self._parts.repositories.problems)

    async def _build(self, driver: str) -> None:
        version = self._parts.executor.versions.get(self._node.versions[driver])
        if version is None:
            return
        try:
            async with self._environments.of(version.path, version.title):
                pass
        except (EnvironmentProblem, JobCancelled, OSError) as error:  # its launch tells it again
            log.info("driver not prepared", extra={"driver": version.title, "reason": str(error)})
