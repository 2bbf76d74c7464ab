"""Writing the lookup tables of the systems this node owns: whole, at once, and when different.

The script that writes one carries the view number: a node that lost the system is refused.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from typing import Final

from redis.asyncio import Redis

from placeos.core.claims import carried_number
from placeos.state import scripts
from placeos.state.client import UNAVAILABLE, checkpoint

log = logging.getLogger("placeos.core")

RETRY: Final = 0.5  # seconds


class LookupWriter:
    """The owner runs `run()`.

    `table(system)` gives the table as it should be, None when there is no such system;
    `owns(system)` whether this node writes it, `view_number()` by which view.
    """

    def __init__(
        self,
        redis: Redis,
        *,
        table: Callable[[str], dict[str, str] | None],
        owns: Callable[[str], bool],
        view_number: Callable[[], int],
    ) -> None:
        self._redis = redis
        self._table = table
        self._owns = owns
        self._view_number = view_number
        self._written: dict[str, dict[str, str]] = {}
        self._touched: dict[str, None] = {}
        self._wake = asyncio.Event()

    def touch(self, systems: Iterable[str]) -> None:
        """The tables of these systems may have to differ now."""
        self._touched.update(dict.fromkeys(systems))
        if self._touched:
            self._wake.set()

    def rewrite(self) -> None:
        """Redis may have lost data: compare and write again."""
        known, self._written = self._written, {}
        self.touch(known)

    async def run(self) -> None:
        """Write until cancelled."""
        while True:
            checkpoint()
            await self._wake.wait()
            self._wake.clear()
            while self._touched:
                checkpoint()
                system = next(iter(self._touched))
                del self._touched[system]
                try:
                    await self._look(system)
                except UNAVAILABLE:
                    self._touched[system] = None
                    await asyncio.sleep(RETRY)

    async def _look(self, system: str) -> None:
        if not self._owns(system):
            self._written.pop(system, None)
            return
        table = self._table(system)
        if table is not None and self._written.get(system) == table:
            return
        number = carried_number(self._view_number())
        if await self._write(system, number, table) and table is not None:
            self._written[system] = table
        else:
            self._written.pop(system, None)

    async def _write(self, system: str, number: int, table: dict[str, str] | None) -> bool:
        """Make Redis hold the table; None: there is none any more. False: it is another's."""
        places = [text for place in (table or {}).items() for text in place]
        outcome = await scripts.TABLE.run(self._redis, system, number, int(table is None), *places)
        if outcome == -1:
            log.warning("lookup is another's", extra={"system": system})
        elif outcome:
            log.debug("lookup written", extra={"system": system, "places": len(places) // 2})
        return outcome != -1
