"""Live state of all modules of this node: in memory, and written to Redis in batches.

Drivers' changes of one turn of the loop leave in one pipeline. What Redis lost is written
again from memory; while it is away nothing waits for it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Final, cast

from redis.asyncio import Redis
from redis.asyncio.client import Pipeline

from placeos.driver.state import MAX_VALUE, Held
from placeos.state import keys
from placeos.state.client import UNAVAILABLE, checkpoint
from placeos.wire.messages import StateChanges

log = logging.getLogger("placeos.core")

BATCH: Final = 100  # changes in one pipeline: packing more would hold up the loop
WHOLE: Final = 10  # modules compared in one go
COALESCE: Final = 1_000  # waiting changes; past twice as many the newest of each key is kept
MAX_WAITING: Final = 16 * 1024 * 1024  # bytes of waiting changes, likewise
MAX_TEXTS: Final = (1_000, 16 * 1024 * 1024)  # waiting texts of channels, their bytes; more go
INHERIT_TIMEOUT: Final = 1.0  # seconds a starting module waits for its old state
BACKOFF: Final = (0.05, 1.0)  # seconds: first and longest pause while Redis is away
_NULL: Final = b"null"


class StateWriter:
    """The owner runs `run()`.

    Fencing joins here: each batch becomes one script that carries the view number and skips
    modules that another core owns by then.
    """

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._modules: dict[str, Held] = {}
        self._interfaces: dict[str, bytes] = {}
        self._unread: set[str] = set()  # modules whose old state could not be read yet
        self._changes: list[tuple[str, str, bytes]] = []
        self._waiting = 0  # bytes in `_changes`
        self._texts: list[tuple[str, str]] = []
        self._texts_waiting = 0  # bytes
        self._again: dict[str, None] = {}  # modules to be written whole
        self._removed: dict[str, None] = {}
        self._wake = asyncio.Event()
        self._writing = asyncio.Lock()
        self.on_rewrite: Callable[[], None] | None = None

    # -- told by modules ------------------------------------------------------------------------

    async def inherit(self, module: str) -> dict[str, bytes]:
        """The state a module starts with: what memory or Redis holds of it."""
        self._removed.pop(module, None)
        known = self._modules.get(module)
        if known is None:
            known = self._modules[module] = Held()
            self._unread.add(module)
        if module in self._unread:
            try:
                async with asyncio.timeout(INHERIT_TIMEOUT):
                    await self._read(module)
            except UNAVAILABLE as error:
                log.warning("state not inherited", extra={"id": module, "reason": str(error)})
        return dict(known)

    def change(self, module: str, changes: StateChanges) -> int:
        """New values of a module; JSON null removes the key. How many there was no room for."""
        state = self._modules.get(module)
        if state is None:
            state = self._modules[module] = Held()
            self._unread.add(module)
        refused = 0
        for key, raw in changes:
            value = bytes(raw)
            if len(value) > MAX_VALUE or not state.put(key, value):
                refused += 1
                continue
            self._changes.append((module, key, value))
            self._waiting += len(value)
        if len(self._changes) > 2 * COALESCE or self._waiting > MAX_WAITING:
            self._coalesce()
        self._wake.set()
        return refused

    def value(self, module: str, key: str) -> bytes | None:
        """A value from memory; None when it is not set (or the module not ours)."""
        state = self._modules.get(module)
        return state.get(key) if state is not None else None

    def owns(self, module: str) -> bool:
        """Whether the module's state is in memory here."""
        return module in self._modules

    def interface(self, module: str, metadata: bytes) -> None:
        """New interface metadata of a module, as JSON."""
        if self._interfaces.get(module) != metadata:
            self._interfaces[module] = metadata
            self._again[module] = None
            self._wake.set()

    def publish(self, channel: str, text: str) -> None:
        """Send text on the channel `placeos/<channel>`; lost while Redis is away."""
        most, size = MAX_TEXTS
        if len(self._texts) < most and self._texts_waiting + len(text) <= size:
            self._texts_waiting += len(text)
            self._texts.append((channel, text))
            self._wake.set()

    def remove(self, module: str) -> None:
        """The module was deleted: nothing of it stays."""
        self._modules.pop(module, None)
        self._interfaces.pop(module, None)
        self._unread.discard(module)
        self._again.pop(module, None)
        self._removed[module] = None
        self._wake.set()

    def forget(self, module: str) -> None:
        """Another node runs the module from now on: its keys stay as they are."""
        self._modules.pop(module, None)
        self._interfaces.pop(module, None)
        self._unread.discard(module)
        self._again.pop(module, None)

    def rewrite(self) -> None:
        """Redis may have lost data: write everything again."""
        self._again.update(dict.fromkeys((*self._modules, *self._interfaces)))
        self._wake.set()

    # -- writing --------------------------------------------------------------------------------

    async def run(self) -> None:
        """Write until cancelled."""
        pause = BACKOFF[0]
        lost = False
        while True:
            checkpoint()
            await self._wake.wait()
            self._wake.clear()
            try:
                if lost:
                    await self._redis.ping()
                    lost = False
                    pause = BACKOFF[0]
                    log.info("redis is back")
                    self.rewrite()
                    if self.on_rewrite is not None:
                        self.on_rewrite()
                while self._has_work():
                    checkpoint()
                    await self._write()
            except UNAVAILABLE as error:
                if not lost:
                    log.warning("redis is away", extra={"reason": str(error)})
                lost = True
                self._keep_in_memory_only()
                await asyncio.sleep(pause)
                pause = min(pause * 2, BACKOFF[1])
                self._wake.set()

    async def flush(self, timeout: float) -> None:
        """Write what waits, at most for `timeout` seconds; for the end of the process."""
        try:
            async with asyncio.timeout(timeout):
                while self._has_work():
                    await self._write()
        except UNAVAILABLE as error:
            log.warning("last state not written", extra={"reason": str(error)})

    def _keep_in_memory_only(self) -> None:
        # All of it is written whole once Redis is back.
        self._again.update((module, None) for module, _, _ in self._changes)
        self._changes.clear()
        self._texts.clear()
        self._waiting = self._texts_waiting = 0

    def _coalesce(self) -> None:
        newest = {(module, key): value for module, key, value in self._changes}
        changes = [(module, key, value) for (module, key), value in newest.items()]
        waiting = sum(map(len, newest.values()))
        # Not at each change, if that many stay: then write their modules whole instead.
        if len(changes) > COALESCE or waiting > MAX_WAITING // 2:
            self._again.update((module, None) for module, _, _ in changes)
            changes, waiting = [], 0
        self._changes, self._waiting = changes, waiting

    def _has_work(self) -> bool:
        return bool(self._changes or self._texts or self._again or self._removed)

    async def _write(self) -> None:
        """One round; never two at once, or an older value could overtake a newer one."""
        async with self._writing:
            if self._changes or self._texts:
                await self._write_changes()
            if self._again:
                await self._write_whole()
            if self._removed:
                await self._write_removed()

    async def _write_changes(self) -> None:
        changes, self._changes = self._changes[:BATCH], self._changes[BATCH:]
        self._waiting -= sum(len(value) for _, _, value in changes)
        texts, self._texts, self._texts_waiting = self._texts, [], 0
        try:
            async with self._redis.pipeline(transaction=False) as pipe:
                for module, key, value in changes:
                    _write_value(pipe, module, key, value)
                for channel, text in texts:
                    pipe.publish(keys.channel(channel), text)
                await pipe.execute()
        except BaseException:
            self._again.update((module, None) for module, _, _ in changes)
            raise

    async def _write_whole(self) -> None:
        """Make Redis hold what memory holds of some modules, publishing what differed."""
        modules = _some(self._again, WHOLE)
        for module in modules:
            del self._again[module]
        try:
            async with self._redis.pipeline(transaction=False) as pipe:
                for module in modules:
                    pipe.hgetall(keys.status(module))
                    pipe.get(keys.interface(module))
                answers = await pipe.execute()
            async with self._redis.pipeline(transaction=False) as pipe:
                for module, found, metadata in zip(
                    modules, answers[::2], answers[1::2], strict=True
                ):
                    self._write_difference(pipe, module, found)
                    wanted = self._interfaces.get(module)
                    if wanted is not None and wanted != metadata:
                        pipe.set(keys.interface(module), wanted)
                await pipe.execute()
        except BaseException:
            self._again.update(dict.fromkeys(modules))
            raise

    def _write_difference(self, pipe: Pipeline, module: str, found: dict[bytes, bytes]) -> None:
        state = self._modules.get(module)
        if state is None:
            return
        self._adopt(module, found)
        for key, value in state.items():
            if found.get(key.encode()) != value:
                _write_value(pipe, module, key, value)
        for name in found:
            key = name.decode("utf-8", "replace")
            if key not in state:
                _write_value(pipe, module, key, _NULL)

    async def _write_removed(self) -> None:
        module = next(iter(self._removed))
        # Written later, what still waits would bring the module back.
        self._changes = [change for change in self._changes if change[0] != module]
        self._waiting = sum(len(value) for _, _, value in self._changes)
        gone = cast(list[bytes], await self._redis.hkeys(keys.status(module)))
        async with self._redis.pipeline(transaction=False) as pipe:
            pipe.delete(keys.status(module), keys.interface(module))
            for key in gone:
                pipe.publish(keys.status_channel(module, key.decode("utf-8", "replace")), _NULL)
            await pipe.execute()
        self._removed.pop(module, None)

    async def _read(self, module: str) -> None:
        found = await self._redis.hgetall(keys.status(module))
        self._adopt(module, cast(dict[bytes, bytes], found))

    def _adopt(self, module: str, found: dict[bytes, bytes]) -> None:
        """Once per module: take over what Redis holds of it and memory does not."""
        if module in self._unread:
            self._unread.discard(module)
            state = self._modules[module]
            for key, value in found.items():
                name = key.decode("utf-8", "replace")
                if name not in state:
                    state.put(name, value)


def _write_value(pipe: Pipeline, module: str, key: str, value: bytes) -> None:
    if value == _NULL:
        pipe.hdel(keys.status(module), key)
    else:
        pipe.hset(keys.status(module), key, value)
    pipe.publish(keys.status_channel(module, key), value)


def _some(items: dict[str, None], count: int) -> list[str]:
    return [one for _, one in zip(range(count), items, strict=False)]
