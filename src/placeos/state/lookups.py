"""Which module is at a place of a system, remembered and kept fresh by `lookup-change`."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, cast

from redis.asyncio import Redis

from placeos.state import keys
from placeos.state.client import UNAVAILABLE, StateUnavailable

log = logging.getLogger("placeos.state")

GRACE: Final = 10.0  # seconds after a reconnect in which an empty table is not believed
PAUSE: Final = 0.5  # seconds between tries while Redis does not answer
MAX_REMEMBERED: Final = 20_000  # systems; past it the oldest is forgotten


@dataclass(slots=True)
class _Table:
    modules: dict[str, str] = field(default_factory=dict)
    fresh: bool = False  # nothing was announced since it was read
    announced: bool = False  # rewritten since the last reconnect: empty means empty
    asked: int = 0  # grows with each invalidation: a read that began before does not count


class Lookups:
    """The `system/<id>` tables.

    While a `Bindings` follows announcements (`follow`), tables are answered from memory.
    Otherwise each question reads Redis and memory serves only while Redis is away.
    """

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._tables: dict[str, _Table] = {}
        self._following = False
        self._believe_empty_at = 0.0
        self._next_try = 0.0

    async def resolve(self, system: str, name: str, index: int) -> str | None:
        """The module id at (system, name, index); None when there is none.

        Raises StateUnavailable when Redis is away and memory does not know the system.
        """
        return (await self.modules(system)).get(keys.position(name, index))

    def known(self, system: str) -> Mapping[str, str] | None:
        """The table as `modules` gives it, at once and from memory; None: ask `modules`."""
        table = self._tables.get(system)
        return table.modules if table is not None and table.fresh else None

    async def modules(self, system: str) -> Mapping[str, str]:
        """The table of a system, `"Display/1"` → module id.

        Raises StateUnavailable as `resolve` does.
        """
        table = self._tables.get(system)
        if table is not None and table.fresh:
            return table.modules
        if time.monotonic() >= self._next_try:
            try:
                return await self._read(system)
            except UNAVAILABLE as error:
                self._next_try = time.monotonic() + PAUSE
                log.warning("lookup from memory", extra={"system": system, "reason": str(error)})
        if table is None or not table.modules:
            raise StateUnavailable("the live state is not reachable at present")
        return table.modules

    async def _read(self, system: str) -> Mapping[str, str]:
        table = self._tables.get(system)
        if table is None:
            if len(self._tables) >= MAX_REMEMBERED:
                self._tables.pop(next(iter(self._tables)))
            table = self._tables[system] = _Table()
        asked = table.asked
        raw = cast(dict[bytes, bytes], await self._redis.hgetall(keys.system(system)))
        self._next_try = 0.0
        modules = {place.decode(): module.decode() for place, module in raw.items()}
        grace = not table.announced and time.monotonic() < self._believe_empty_at
        if grace and table.modules and not modules:
            # Redis came back without its data; the owning core writes its tables again.
            return table.modules
        if asked == table.asked:
            table.modules = modules
            table.fresh = self._following
        return modules

    # -- kept fresh by Bindings -------------------------------------------------------------

    def follow(self) -> None:
        """Announcements arrive from now on: what was read before is read again once."""
        self._following = True
        self._believe_empty_at = time.monotonic() + GRACE
        self._next_try = 0.0
        for table in self._tables.values():
            table.fresh = table.announced = False
            table.asked += 1

    def unfollow(self) -> None:
        """Announcements no longer arrive: memory is only a fallback.

        Redis may be back, and empty, before they arrive again: no empty table is believed.
        """
        self._following = False
        self._believe_empty_at = math.inf
        for table in self._tables.values():
            table.fresh = table.announced = False
            table.asked += 1

    def invalidate(self, system: str) -> None:
        """The table of a system was rewritten."""
        table = self._tables.get(system)
        if table is not None:
            table.fresh = False
            table.announced = True
            table.asked += 1
