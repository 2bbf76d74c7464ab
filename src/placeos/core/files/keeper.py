"""What core remembers of one repository while it keeps its drivers at what is wanted."""

from __future__ import annotations

import asyncio

from placeos.core.files.sources import RepositoryError, Source


class Keeper:
    """What is remembered of one repository."""

    def __init__(self) -> None:
        self.wake = asyncio.Event()
        self.looked = asyncio.Event()
        """Set each time that its drivers are known, or why not."""
        self.looked_for: tuple[object, ...] | None = None  # the record's fields that counted then
        self.source: Source | None = None
        self.place: object = None  # which source that is
        self.task: asyncio.Task[None] | None = None
        self.watch: asyncio.Task[None] | None = None
        self.pulls: list[asyncio.Future[str]] = []
        self.served: list[asyncio.Future[str]] = []  # pulls that are under way
        self.commit = ""  # what is deployed
        self.error: str | None = None

    def answer(self) -> None:
        """Tell those who wait for a pull how it went."""
        error = self.error or (self.source.problem if self.source is not None else None)
        for future in self.served:
            if future.done():
                continue
            if error is not None:
                future.set_exception(RepositoryError(error))
            else:
                future.set_result(self.commit)
        self.served = []

    def leave(self) -> None:
        """The source is not used any more."""
        if self.watch is not None:
            self.watch.cancel()
        self.watch = self.source = self.place = None
