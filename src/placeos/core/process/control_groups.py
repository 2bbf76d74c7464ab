"""Control groups: limits that the kernel keeps, one group per driver process.

They are made below the group that core itself is in, and only where it may: version 1 by
controller; version 2 where a subtree was delegated (systemd: `Delegate=yes`). Where not,
`reached` says so. Source: the kernel's documentation of both versions.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import signal
import time
from pathlib import Path
from typing import Final

import msgspec

from placeos.core.process.limits import THREADS, Limits

log = logging.getLogger("placeos.core")

CONTROLLERS: Final = ("memory", "pids", "cpu")
SLOW: Final = 0.1  # weight of a process that keeps a processor busy, of that of others
PREFIX: Final = "placeos-"
_REMOVE: Final = 20  # tries, 50 ms apart: the last process may still be ending


class Hierarchy(msgspec.Struct, frozen=True):
    """Where core's own group is, for the controllers that are kept there."""

    folder: Path
    version: int
    controllers: tuple[str, ...]


def hierarchies(own: str, mounts: str) -> list[Hierarchy]:
    """From the texts of `/proc/self/cgroup` and `/proc/self/mountinfo`."""
    groups = {
        controller: path
        for line in own.splitlines()
        for _, controllers, path in [line.split(":", 2)]
        for controller in controllers.split(",")
    }
    found: dict[Path, Hierarchy] = {}
    for line in mounts.splitlines():
        mount, _, kind = line.partition(" - ")
        root, point = mount.split()[3:5]
        system, _, options = kind.split(" ", 2)
        if system == "cgroup2" and "" in groups:
            folder = _below(point, root, groups[""])
            found[folder] = Hierarchy(folder, 2, CONTROLLERS)
        elif system == "cgroup":
            kept = [one for one in CONTROLLERS if one in options.split(",") and one in groups]
            if kept:
                folder = _below(point, root, groups[kept[0]])
                found[folder] = Hierarchy(folder, 1, tuple(kept))
    return list(found.values())


def _below(point: str, root: str, path: str) -> Path:
    inner = path[len(root) :] if path.startswith(root) else ""
    return Path(point, inner.lstrip("/"))


class Group:
    """The groups of one driver process."""

    def __init__(self, places: list[tuple[Hierarchy, Path]]) -> None:
        self._places = places

    @property
    def entrances(self) -> list[str]:
        """Files by which a process enters."""
        return [str(folder / "cgroup.procs") for _, folder in self._places]

    def out_of_memory(self) -> bool:
        """Whether the kernel ended something in it for want of memory."""
        for place, folder in self._places:
            name = "memory.oom_control" if place.version == 1 else "memory.events"
            with contextlib.suppress(OSError):
                text = (folder / name).read_text()
                return any(
                    line.startswith("oom_kill ") and line != "oom_kill 0"
                    for line in text.splitlines()
                )
        return False

    def weigh(self, share: float) -> bool:
        """Give it so much less of a busy processor than others get; whether that is possible."""
        for place, folder in self._places:
            if "cpu" in place.controllers:
                name, full = ("cpu.shares", 1024) if place.version == 1 else ("cpu.weight", 100)
                return _write(folder / name, str(int(full * share)))
        return False

    def remove(self) -> None:
        """End whatever is left in it, and it. Takes up to a second."""
        for _, folder in self._places:
            for _ in range(_REMOVE):
                try:
                    folder.rmdir()
                except FileNotFoundError:
                    break
                except OSError:
                    _kill_in(folder)
                    time.sleep(0.05)
                else:
                    break
            else:
                log.warning("control group is left", extra={"path": str(folder)})


class ControlGroups:
    """Makes groups. `open` before anything else; its file I/O is a moment's."""

    def __init__(self, limits: Limits, places: list[Hierarchy] | None = None) -> None:
        self._limits = limits
        self._places = places
        self._usable: list[Hierarchy] = []
        self._count = 0
        self.reached: dict[str, str] = {}
        """By controller: the version that keeps it, or why there is none."""

    def open(self) -> None:
        """Find out what can be had here; remove what cores that are gone have left."""
        if self._places is None:
            try:
                own = Path("/proc/self/cgroup").read_text()
                self._places = hierarchies(own, Path("/proc/self/mountinfo").read_text())
            except (OSError, ValueError) as error:
                log.warning("control groups unreadable", extra={"reason": str(error)})
                self._places = []
        self.reached = dict.fromkeys(CONTROLLERS, "no control groups")
        for place in self._places:
            _clean(place.folder)
            self._try(place)

    def make(self) -> Group:
        """The groups of a new process, with the limits set."""
        self._count += 1
        name = f"{_mark(os.getpid())}-{self._count}"
        made = []
        for place in self._usable:
            folder = place.folder / name
            try:
                folder.mkdir()
            except OSError as error:
                log.warning("no control group", extra={"path": str(folder), "reason": str(error)})
                continue
            self._set(place, folder)
            made.append((place, folder))
        return Group(made)

    def _try(self, place: Hierarchy) -> None:
        """Make a group and set its limits, to see whether that is possible."""
        folder = place.folder / f"{_mark(os.getpid())}-0"
        try:
            if place.version == 2:
                place = msgspec.structs.replace(place, controllers=_delegate(place.folder))
            folder.mkdir()
        except OSError as error:
            for controller in place.controllers:
                if self.reached[controller] == "no control groups":
                    self.reached[controller] = f"no control group: {error.strerror}"
            return
        try:
            kept = [one for one in place.controllers if self._set(place, folder, one)]
        finally:
            folder.rmdir()
        if kept:
            self._usable.append(msgspec.structs.replace(place, controllers=tuple(kept)))
            self.reached.update(dict.fromkeys(kept, f"control group v{place.version}"))

    def _set(self, place: Hierarchy, folder: Path, only: str = "") -> bool:
        limits, first = self._limits, place.version == 1
        memory = str(limits.memory << 20) if limits.memory else ("-1" if first else "max")
        files = {
            "memory": ("memory.limit_in_bytes" if first else "memory.max", memory),
            "pids": ("pids.max", str(THREADS)),
            "cpu": (
                ("cpu.cfs_quota_us", str(limits.cpu * 1000 or -1))
                if first
                else ("cpu.max", f"{limits.cpu * 1000 or 'max'} 100000")
            ),
        }
        wanted = (only,) if only else place.controllers
        written = [_write(folder / files[one][0], files[one][1]) for one in wanted]
        return all(written)


def _delegate(folder: Path) -> tuple[str, ...]:
    """Version 2: have the groups below keep what can be kept. Raises OSError.

    A group with groups below it holds no process: core moves to one of its own.
    """
    offered = (folder / "cgroup.controllers").read_text().split()
    wanted = [one for one in CONTROLLERS if one in offered]
    if not wanted:
        raise OSError(errno.ENOTSUP, "no controller is delegated")
    text = " ".join(f"+{one}" for one in wanted)
    try:
        (folder / "cgroup.subtree_control").write_text(text)
    except OSError as error:
        if error.errno != errno.EBUSY:
            raise
        leaf = folder / f"{PREFIX}core"
        leaf.mkdir(exist_ok=True)
        (leaf / "cgroup.procs").write_text("0")
        try:
            (folder / "cgroup.subtree_control").write_text(text)
        except OSError as again:
            (folder / "cgroup.procs").write_text("0")
            raise OSError(again.errno, "other processes are in the group of core") from again
    return tuple(wanted)


def _mark(pid: int) -> str:
    """Of a core: numbers of processes are used again, but not with the same start."""
    return f"{PREFIX}{pid}-{_start_of(pid)}"


def _start_of(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]


def _clean(folder: Path) -> None:
    """Remove groups whose core is gone."""
    for left in folder.glob(f"{PREFIX}[0-9]*-[0-9]*-[0-9]*"):
        pid, start, _ = left.name.removeprefix(PREFIX).split("-", 2)
        with contextlib.suppress(OSError):
            if _start_of(int(pid)) == start:
                continue
        with contextlib.suppress(OSError):
            left.rmdir()


def _kill_in(folder: Path) -> None:
    with contextlib.suppress(OSError, ValueError):
        for pid in (folder / "cgroup.procs").read_text().split():
            os.kill(int(pid), signal.SIGKILL)


def _write(file: Path, text: str) -> bool:
    try:
        file.write_text(text)
    except OSError as error:
        if error.errno != errno.ENOENT:
            log.warning("limit not set", extra={"path": str(file), "reason": str(error)})
        return False
    return True
