"""The data folder of one core, and the proof that its predecessor is gone.

Every process of a core – itself, fork parent, driver processes – holds the descriptor of one
locked file, so that the lock is free only when all of them are gone. Whoever gets it may take
over the predecessor's registration, whose incarnation stands in the file.
"""

from __future__ import annotations

import asyncio
import fcntl
import logging
import os
from pathlib import Path
from types import TracebackType
from typing import Final

log = logging.getLogger("placeos.core")

RETRY: Final = 0.05  # seconds between tries to get the lock
SAY_SO: Final = 3.0  # seconds between complaints about a folder in use


class DataFolder:
    """Locked from `__aenter__` on; `predecessor` is the incarnation that held it before."""

    def __init__(self, path: Path, incarnation: str) -> None:
        self.path = path
        self.predecessor = ""
        self._incarnation = incarnation
        self._file = -1

    @property
    def drivers(self) -> Path:
        """Where copies of driver files are kept."""
        return self.path / "drivers"

    @property
    def environments(self) -> Path:
        """Where the packages of drivers are kept."""
        return self.path / "environments"

    @property
    def work(self) -> Path:
        """Where driver processes have their own folders."""
        return self.path / "work"

    @property
    def git(self) -> Path:
        """Where copies of git repositories are kept, and what git needs to run."""
        return self.path / "git"

    @property
    def descriptor(self) -> int:
        """The lock's descriptor, for child processes to inherit."""
        return self._file

    async def __aenter__(self) -> DataFolder:
        self._file = await asyncio.to_thread(self._open)
        loop = asyncio.get_running_loop()
        complain_at = loop.time() + SAY_SO
        while not self._try_lock():
            if loop.time() >= complain_at:
                complain_at = loop.time() + SAY_SO
                log.error("data folder is in use by another core", extra={"path": str(self.path)})
            await asyncio.sleep(RETRY)
        self.predecessor = os.pread(self._file, 100, 0).decode("ascii", "replace").strip()
        (self.path / "lock").write_text(f"{self._incarnation}\n")
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        os.close(self._file)

    def _open(self) -> int:
        self.path.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.drivers.mkdir(exist_ok=True)
        # Driver processes inherit it: they could write where it can be written.
        return os.open(self.path / "lock", os.O_RDONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)

    def _try_lock(self) -> bool:
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True
