"""What a simulated device saw, as JSON lines: the witness in tests of faults.

A device cannot be talked into agreeing with the platform: gaps in polling, doubled connections
and lost commands are read from here and not from the platform's own figures.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import TextIO, TypedDict

MAX_BYTES = 32 * 1024 * 1024
"""A journal that would grow over this is first renamed to `….1`, replacing the one before."""


class Entry(TypedDict, total=False):
    """One line. `at` is unix time in seconds, `connection` counts from 1 since the start."""

    at: float
    event: str
    connection: int
    text: str
    reply: str
    reason: str


class Journal:
    """Appends entries to a file, or throws them away when it has none."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._file: TextIO | None = None
        self._size = 0
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._open(path)

    def write(self, event: str, **fields: int | str) -> None:
        """Append one entry. It is in the file, not in a buffer, when this returns."""
        if self._file is None or self._path is None:
            return
        line = json.dumps({"at": round(time.time(), 4), "event": event, **fields}) + "\n"
        if self._size + len(line) > MAX_BYTES:
            self._file.close()
            self._path.replace(self._path.with_name(self._path.name + ".1"))
            self._open(self._path)
        self._size += self._file.write(line)

    def close(self) -> None:
        """Close the file. May be called twice."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _open(self, path: Path) -> None:
        self._file = path.open("a", buffering=1, encoding="utf-8")
        self._size = self._file.tell()


def read(path: Path) -> list[Entry]:
    """All entries of a journal, oldest first. A line still being written is left out."""
    with path.open(encoding="utf-8") as file:
        return [json.loads(line) for line in file if line.endswith("\n")]


def commands(entries: Iterable[Entry], prefix: str = "") -> Iterator[Entry]:
    """The commands among the entries whose text starts with `prefix`."""
    for entry in entries:
        if entry["event"] == "command" and entry["text"].startswith(prefix):
            yield entry


def widest_gap(moments: Iterable[float], start: float, end: float) -> tuple[float, float]:
    """The longest time in [start, end] (unix seconds) without one of the moments.

    Returns its length in seconds and when it began. The ends of the window count as moments,
    so that a device which was never spoken to shows one gap as long as the window.
    """
    inside = sorted(moment for moment in moments if start < moment < end)
    edges = [start, *inside, end]
    return max((later - earlier, earlier) for earlier, later in pairwise(edges))
