"""What a driver file declares, learnt by loading it once in a driver process of its own."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Final

from placeos.core.files import snapshots
from placeos.core.files.sources import RepositoryError
from placeos.core.process.processes import DriverProcess, Events, Version
from placeos.wire.frame import Header
from placeos.wire.link import Link
from placeos.wire.messages import DriverDefaults

AT_ONCE: Final = 2  # files loaded side by side
TIMEOUT: Final = 300.0  # seconds, with the building of its environment

Make = Callable[[Version, Events], DriverProcess]


class Unloadable(RepositoryError):
    """The file is there, but no driver that can be loaded; the message says why."""


class Inspection:
    """Loads files that no module needs to run. They run confined, as every driver does."""

    def __init__(self, make: Make, folder: Path) -> None:
        self._make = make
        self._folder = folder
        self._slots = asyncio.Semaphore(AT_ONCE)
        self._in_use: set[Path] = set()
        self._numbers = itertools.count(1)

    async def load(self, content: bytes, lock: bytes | None, file: str) -> DriverDefaults:
        """What the file says of itself. Raises Unloadable with file, line and reason."""
        async with self._slots:
            key, path = await asyncio.to_thread(
                snapshots.store, content, lock, Path(file).name, self._folder, set(self._in_use)
            )
            self._in_use.add(path.parent)
            try:
                version = Version(f"details@{key}.{next(self._numbers)}", "", path, file)
                return await self._load(version)
            finally:
                self._in_use.discard(path.parent)

    async def _load(self, version: Version) -> DriverDefaults:
        answer = _Answer()
        process = self._make(version, answer)
        process.launch()
        try:
            async with asyncio.timeout(TIMEOUT):
                return await answer.future
        except TimeoutError:
            raise Unloadable(f"{version.title}: not loaded within {TIMEOUT:g} s") from None
        finally:
            await process.end()


class _Answer:
    """Takes the first thing that a process tells."""

    def __init__(self) -> None:
        self.future: asyncio.Future[DriverDefaults] = asyncio.get_running_loop().create_future()

    def process_ready(self, process: DriverProcess, defaults: DriverDefaults) -> None:
        """It was loaded."""
        if not self.future.done():
            self.future.set_result(defaults)

    def process_unusable(self, process: DriverProcess, message: str) -> None:
        """It cannot be loaded."""
        if not self.future.done():
            self.future.set_exception(Unloadable(message))

    def process_gone(self, process: DriverProcess, link: Link, reason: str) -> None:
        """It ended, before or after what was waited for."""
        if not self.future.done():
            self.future.set_exception(Unloadable(f"its process {reason}"))

    def process_frame(self, process: DriverProcess, header: Header, payload: bytes) -> None:
        """Nothing is asked of it and nothing taken."""

    def process_cancel(self, process: DriverProcess, sequence: int) -> None:
        """It has nothing open."""
