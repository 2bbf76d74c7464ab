"""The place of each driver process: its folder, its control groups, its user.

The child confines itself (driver/confinement/); this is what core makes for it beforehand and
clears away afterwards.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import os
import secrets
import tempfile
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from placeos.core.process.control_groups import ControlGroups, Group
from placeos.core.process.limits import THREADS, Limits

log = logging.getLogger("placeos.core")

USERS: Final = range(61_184, 65_520)
"""Ids of the users that driver processes get under root: those that systemd gives to services
without a user. Where two get the same, the other walls still stand between them."""


def remove(folder: Path) -> None:
    """Remove a folder with all that a driver may have made in it, however deep and locked up.

    `shutil.rmtree` descends by recursion, which a deep enough tree ends with an error. Here what
    lies deeper is moved up, so that no path gets long. What cannot be removed is left.
    """
    numbers, mark = itertools.count(), secrets.token_hex(8)  # no name that is there already
    waiting = [folder] if folder.is_dir() and not folder.is_symlink() else []
    while waiting:
        here = waiting.pop()
        with contextlib.suppress(OSError):
            here.chmod(0o700)
        deeper = []
        with contextlib.suppress(OSError), os.scandir(here) as entries:
            for entry in entries:
                with contextlib.suppress(OSError):
                    if not entry.is_dir(follow_symlinks=False):
                        os.unlink(entry.path)  # noqa: PTH108 - there may be many
                    elif here == folder:
                        deeper.append(Path(entry.path))
                    else:
                        Path(entry.path).chmod(0o700)  # moving it changes it
                        deeper.append(Path(entry.path).rename(folder / f"{mark}-{next(numbers)}"))
        if here != folder:
            with contextlib.suppress(OSError):
                here.rmdir()
        waiting += deeper
    with contextlib.suppress(OSError):
        folder.rmdir()


class Cell:
    """What belongs to one driver process, from before its start until after its end."""

    def __init__(self, folder: Path, group: Group, confine: dict[str, object]) -> None:
        self.group = group
        self.confine = confine
        """As the fork parent takes it."""
        self._folder = folder

    def clear(self) -> None:
        """The process is gone. Blocks: for a thread."""
        self.group.remove()
        remove(self._folder)


class Isolation:
    """Makes cells. `open` before the first; the owner awaits `close` at the end."""

    def __init__(self, limits: Limits, work: Path, hidden: Iterable[Path]) -> None:
        self.limits = limits
        self._work = work
        self._hidden = [str(folder.absolute()) for folder in hidden]
        self._groups = ControlGroups(limits)
        self._clearing: set[asyncio.Task[None]] = set()

    def open(self) -> None:
        """Clear away what a predecessor left. Blocks: for a thread."""
        remove(self._work)
        self._work.mkdir(parents=True, exist_ok=True)
        self._work.chmod(0o711 if os.geteuid() == 0 else 0o700)
        self._groups.open()

    def cell(self, key: str) -> Cell:
        """For a new process of a driver version. Raises OSError."""
        name = key.rpartition("@")[0].replace("/", "_")[:40]
        folder = Path(tempfile.mkdtemp(prefix=f"{name}-", dir=self._work))
        group = self._groups.make()
        confine = {
            "folder": str(folder),
            "hidden": self._hidden,
            "groups": group.entrances,
            "memory": self.limits.memory,
            "programs": self.limits.programs,
            "uid": USERS[zlib.crc32(f"{self._work}/{name}".encode()) % len(USERS)],
        }
        return Cell(folder, group, confine)

    def end(self, cell: Cell) -> None:
        """Its process is gone: clear it away, in a thread."""
        task = asyncio.get_running_loop().create_task(asyncio.to_thread(cell.clear))
        self._clearing.add(task)
        task.add_done_callback(self._clearing.discard)

    async def close(self) -> None:
        """Wait until all is cleared away."""
        if self._clearing:
            await asyncio.wait(self._clearing, timeout=2)

    def level(self, reached: dict[str, str]) -> dict[str, str]:
        """All walls around a process that has told what it `reached` by itself."""
        entered = "control groups" not in reached
        groups = self._groups.reached
        limits = self.limits
        level = dict(reached)
        for name, wanted, otherwise in (
            ("memory", f"{limits.memory} MiB" if limits.memory else "", "measured every second"),
            ("pids", f"{THREADS}", "counted every second"),
            ("cpu", f"{limits.cpu} % of a processor" if limits.cpu else "", "not kept"),
        ):
            kept = groups.get(name, "")
            holds = kept if entered and kept.startswith("control group ") else otherwise
            shown = "threads" if name == "pids" else name
            level[shown] = f"{wanted} ({holds})" if wanted else "no limit"
        return level
