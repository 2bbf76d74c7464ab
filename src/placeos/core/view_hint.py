"""A copy of the view in Redis: for routing only, by services that start while etcd is away."""

from __future__ import annotations

import asyncio
import logging
from typing import Final

from redis.asyncio import Redis

from placeos.cluster.hint import VIEW_HINT_KEY, encode
from placeos.cluster.registry import Registry
from placeos.state.client import UNAVAILABLE, checkpoint

log = logging.getLogger("placeos.core")

RETRY: Final = 2.0  # seconds


class ViewHint:
    """Every core writes what it sees; the last one wins. The owner runs `run()`."""

    def __init__(self, redis: Redis, registry: Registry) -> None:
        self._redis = redis
        self._registry = registry
        self._changed = asyncio.Event()
        registry.listeners.append(self._changed.set)

    async def run(self) -> None:
        """Write at every change until cancelled."""
        while True:
            checkpoint()
            await self._changed.wait()
            self._changed.clear()
            view = self._registry.view
            if view is None:
                continue
            hint = encode(view, self._registry.nodes("core").values())
            try:
                await self._redis.set(VIEW_HINT_KEY, hint)
            except UNAVAILABLE as error:
                log.info("hint not written", extra={"reason": str(error)})
                await asyncio.sleep(RETRY)
                self._changed.set()
