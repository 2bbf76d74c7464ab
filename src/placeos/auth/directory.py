"""The authorities, in memory: which domain a request is for, also while PostgreSQL is away."""

from __future__ import annotations

import asyncio
import logging

from placeos.model.authority import Authority, host_of
from placeos.store import Database, Unavailable

RETRY: float = 1.0  # seconds between tries to read the database

log = logging.getLogger("placeos.auth")


class Directory:
    """Holds all authorities; its owner runs `run` and feeds it with `changed` and `resync`."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._by_domain: dict[str, Authority] = {}
        self._stale = asyncio.Event()
        self._stale.set()
        self.loaded = asyncio.Event()

    def find(self, host: str) -> Authority | None:
        """The authority of a host name without port.

        An unknown name means the only authority while there is one. Raises Unavailable as long
        as nothing could be read yet.
        """
        if not self.loaded.is_set():
            raise Unavailable("the database could not be read yet")
        found = self._by_domain.get(host.lower())
        if found is None and len(self._by_domain) == 1:
            return next(iter(self._by_domain.values()))
        return found

    def changed(self, table: str, id: str) -> None:
        """A record changed; only authorities matter here."""
        if table == "authority":
            self._stale.set()

    def resync(self) -> None:
        """Anything may have changed."""
        self._stale.set()

    async def run(self) -> None:
        """Read again what became stale, until cancelled."""
        while True:
            await self._stale.wait()
            self._stale.clear()
            try:
                authorities = await self._database.all(Authority)
            except Unavailable as error:
                log.warning("authorities not read", extra={"why": str(error)})
                self._stale.set()
                await asyncio.sleep(RETRY)
                continue
            self._by_domain = {host_of(one.domain): one for one in authorities}
            self.loaded.set()
