"""The data folder of one core, and the proof that its predecessors are gone.

Every process of a core – itself, fork parent, driver processes – holds the descriptor of one
locked file, so that under one kernel the lock is free only when all of them are gone, in
whichever namespaces they were. After another boot of the same machine they are gone anyway.
So whoever gets the lock may speak for all earlier incarnations that ran on this machine.
"""

from __future__ import annotations

import asyncio
import fcntl
import itertools
import logging
import os
import time
from pathlib import Path
from types import TracebackType
from typing import Final

import msgspec

log = logging.getLogger("placeos.core")

RETRY: Final = 0.05  # seconds between tries to get the lock
SAY_SO: Final = 3.0  # seconds between complaints about a folder in use
KEPT: Final = 16  # earlier lives remembered
HEALTHY: Final = 600.0  # seconds of life after which an unclean end is the first one again
HOLD: Final = (10.0, 300.0)  # seconds: first and longest time to be spared after unclean ends
_BOOT: Final = Path("/proc/sys/kernel/random/boot_id")
_MACHINES: Final = (Path("/sys/class/dmi/id/product_uuid"), Path("/etc/machine-id"))
_CONTAINERS: Final = (Path("/.dockerenv"), Path("/run/.containerenv"))


class Life(msgspec.Struct, frozen=True):
    """One run of a core."""

    incarnation: str
    boot: str  # of the machine, empty if unknown
    machine: str
    began: float  # Unix time
    ended: float = 0.0  # likewise; 0: it did not end cleanly, or not yet


class DataFolder:
    """Locked from `__aenter__` on; `earlier` are the lives before this one, oldest first."""

    def __init__(self, path: Path, incarnation: str) -> None:
        self.path = path
        self.earlier: list[Life] = []
        self.life = Life(incarnation, _read(_BOOT), _machine(), time.time())
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

    @property
    def dead(self) -> tuple[str, ...]:
        """Earlier incarnations that are proven to run no more."""
        return tuple(one.incarnation for one in self.earlier if proves(self.life, one))

    @property
    def hold(self) -> float:
        """Seconds for which this core should be spared while others can do without it."""
        return hold(self.earlier, self.life)

    def ended(self) -> None:
        """This life ends cleanly: nothing of it runs any more."""
        self.life = msgspec.structs.replace(self.life, ended=time.time())
        self._write()

    async def __aenter__(self) -> DataFolder:
        self._file = await asyncio.to_thread(self._open)
        loop = asyncio.get_running_loop()
        complain_at = loop.time() + SAY_SO
        while not self._try_lock():
            if loop.time() >= complain_at:
                complain_at = loop.time() + SAY_SO
                log.error("data folder is in use by another core", extra={"path": str(self.path)})
            await asyncio.sleep(RETRY)
        await asyncio.to_thread(self._note)
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

    @property
    def _lives(self) -> Path:
        return self.path / "lives.json"

    def _note(self) -> None:
        try:
            self.earlier = msgspec.json.decode(self._lives.read_bytes(), type=list[Life])[-KEPT:]
        except FileNotFoundError:
            pass
        except msgspec.MsgspecError as error:  # nothing is proven then
            log.warning("earlier lives unreadable", extra={"reason": str(error)})
        self._write()

    def _write(self) -> None:
        partial = self._lives.with_suffix(".new")
        with partial.open("wb") as file:
            file.write(msgspec.json.encode([*self.earlier, self.life]))
            file.flush()
            os.fsync(file.fileno())  # it is evidence after a power cut
        partial.replace(self._lives)


def proves(present: Life, earlier: Life) -> bool:
    """Whether getting the lock proves that an earlier life has ended: it was under the same
    kernel, or under an earlier one of the same machine."""
    if present.boot and present.boot == earlier.boot:
        return True
    return bool(present.machine) and present.machine == earlier.machine and bool(earlier.boot)


def hold(earlier: list[Life], present: Life) -> float:
    """Seconds: none after a clean end; ten, doubling to five minutes, after ends of any other
    kind that came soon after each other."""
    first, longest = HOLD
    seconds = 0.0
    for life, following in itertools.pairwise([*earlier, present]):
        if life.ended:
            seconds = 0.0
            continue
        long_lived = following.began - life.began > HEALTHY
        seconds = first if long_lived or not seconds else min(2 * seconds, longest)
    return seconds


def _machine() -> str:
    """What tells this machine from all others; empty if that is not known. An id that comes
    with a container's image tells nothing."""
    if any(path.exists() for path in _CONTAINERS):
        return ""
    return next((found for path in _MACHINES if (found := _read(path))), "")


def _read(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""
