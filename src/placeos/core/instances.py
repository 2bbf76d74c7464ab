"""Modules as they are on this node, and how many need which driver version."""

from __future__ import annotations

import asyncio
from collections import Counter

from placeos.wire.errors import CallError
from placeos.wire.link import Link


class Instance:
    """A module as it is on this node."""

    __slots__ = (
        "busy",
        "failures",
        "good",
        "hand_over",
        "link",
        "payload",
        "problem",
        "retry",
        "step",
        "touched",
        "version",
    )

    def __init__(self, version: str) -> None:
        self.version = version
        self.payload = b""  # last given, successfully or not
        self.good = b""  # last accepted
        self.link: Link | None = None  # where it runs
        self.busy = False
        self.failures = 0
        self.problem: CallError | None = None  # why the last start failed
        self.touched = asyncio.Event()  # ends a pause early
        self.retry = False  # somebody asked for another try now
        self.hand_over = False  # another core will run it
        self.step: asyncio.Task[None] | None = None  # a start or an update under way


class Needs:
    """How many modules want or have each version."""

    def __init__(self) -> None:
        self._count: Counter[str] = Counter()

    def add(self, version: str) -> None:
        self._count[version] += 1

    def drop(self, version: str) -> None:
        self._count[version] -= 1
        if self._count[version] <= 0:
            del self._count[version]

    def __contains__(self, version: object) -> bool:
        return version in self._count
