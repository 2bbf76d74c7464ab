"""Reading live values in batches.

Reads that arrive while one round trip to Redis is under way share the next: the busier the
API, the cheaper each read, and a read alone costs what it always did.
"""

from __future__ import annotations

import asyncio
from typing import Final

from redis.asyncio import Redis

from placeos.state import keys
from placeos.state.client import UNAVAILABLE, StateUnavailable, checkpoint

MAX_WAITING: Final = 10_000  # reads; more are refused
MAX_BATCH: Final = 500  # reads of one round trip

_Read = tuple[str, str, "asyncio.Future[bytes | None]"]


class StateReader:
    """Its owner runs `run` in a task."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._waiting: list[_Read] = []
        self._wake = asyncio.Event()

    async def read(self, module_id: str, key: str) -> bytes | None:
        """JSON of one live value; None when it is not set. Raises StateUnavailable."""
        if len(self._waiting) >= MAX_WAITING:
            raise StateUnavailable("too many reads are waiting")
        future: asyncio.Future[bytes | None] = asyncio.get_running_loop().create_future()
        self._waiting.append((module_id, key, future))
        self._wake.set()
        return await future

    async def run(self) -> None:
        """Serve until cancelled."""
        batch: list[_Read] = []
        try:
            while True:
                checkpoint()
                await self._wake.wait()
                batch, self._waiting = self._waiting[:MAX_BATCH], self._waiting[MAX_BATCH:]
                if not self._waiting:
                    self._wake.clear()
                await self._serve(batch)
        finally:
            for _, _, future in (*batch, *self._waiting):
                future.cancel()

    async def _serve(self, batch: list[_Read]) -> None:
        pipeline = self._redis.pipeline(transaction=False)
        for module_id, key, _ in batch:
            pipeline.hget(keys.status(module_id), key)
        try:
            values = await pipeline.execute()
        except UNAVAILABLE as error:
            for _, _, future in batch:
                if not future.done():
                    future.set_exception(StateUnavailable(str(error)))
            return
        for (_, _, future), value in zip(batch, values, strict=True):
            if not future.done():
                future.set_result(value)
