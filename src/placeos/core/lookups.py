"""Writing the lookup tables of the systems this node owns: whole, at once, and when different."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from typing import Final, cast

from redis.asyncio import Redis

from placeos.state import keys
from placeos.state.client import UNAVAILABLE, checkpoint

log = logging.getLogger("placeos.core")

RETRY: Final = 0.5  # seconds


class LookupWriter:
    """The owner runs `run()`.

    `table(system)` gives the table as it should be, None when there is no such system;
    `owns(system)` whether this node writes it.
    """

    def __init__(
        self,
        redis: Redis,
        *,
        table: Callable[[str], dict[str, str] | None],
        owns: Callable[[str], bool],
    ) -> None:
        self._redis = redis
        self._table = table
        self._owns = owns
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
        wanted = table or {}
        present = self._written.get(system)
        if present is None:
            present = await self._read(system)
        if wanted != present:
            await self._write(system, wanted)
        if table is None:
            self._written.pop(system, None)
        else:
            self._written[system] = wanted

    async def _read(self, system: str) -> dict[str, str]:
        raw = cast(dict[bytes, bytes], await self._redis.hgetall(keys.system(system)))
        return {
            place.decode("utf-8", "replace"): module.decode("utf-8", "replace")
            for place, module in raw.items()
        }

    async def _write(self, system: str, table: dict[str, str]) -> None:
        async with self._redis.pipeline(transaction=True) as pipe:
            pipe.delete(keys.system(system))
            if table:
                pipe.hset(keys.system(system), mapping=table)  # type: ignore[arg-type]
            pipe.publish(keys.LOOKUP_CHANGE, system)
            await pipe.execute()
        log.debug("lookup written", extra={"system": system, "places": len(table)})
