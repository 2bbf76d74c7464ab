"""Live state of all modules of this node: in memory, and written to Redis in batches.

Drivers' changes of one turn of the loop leave in one script, which refuses those of modules
that another node owns by then. What Redis lost is written again from memory; while it is away
nothing waits for it.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Final

from redis.asyncio import Redis

from placeos.core.claims import UNKNOWN, Claim, carried_number
from placeos.core.state_queue import BATCH, BATCH_BYTES, COALESCE, StateQueue
from placeos.core.state_store import AUDIT_STEP, StateStore
from placeos.driver.state import MAX_VALUE
from placeos.state.client import UNAVAILABLE, checkpoint
from placeos.wire.messages import StateChanges

__all__ = ["BATCH", "COALESCE", "StateWriter"]

log = logging.getLogger("placeos.core")

WHOLE: Final = 10  # modules compared in one go
INHERIT_TIMEOUT: Final = 1.0  # seconds a starting module waits for its old state
BACKOFF: Final = (0.05, 1.0)  # seconds: first and longest pause while Redis is away
SETTLE: Final = 60.0  # seconds in which a new version of a driver may set its keys
AUDIT: Final = 60.0  # seconds between looks at whether all modules are still ours in Redis
REWRITE_EVERY: Final = 5.0  # seconds between rewrites because Redis was found to be older
_NULL: Final = b"null"


class StateWriter:
    """The owner runs `run()`, and sets `view_number` when it takes a view.

    A module is claimed under the number of that moment and keeps it until it starts anew: a
    later view may give it to another node, which must not find that number taken.
    """

    def __init__(self, redis: Redis, incarnation: str = "") -> None:
        self.view_number = 0
        self._incarnation = incarnation
        self._redis = redis
        self._store = StateStore(redis)
        self._claims: dict[str, Claim] = {}
        self._fenced: dict[str, int] = {}  # modules lost to a later view: under which number
        self._queue = StateQueue()
        self._again: dict[str, None] = {}  # modules to be written whole
        self._removed: dict[str, int] = {}  # and under which number
        self._unaudited: list[str] = []
        self._under_way: set[str] = set()  # modules in a script that is not answered yet
        self._settling: dict[str, asyncio.TimerHandle] = {}
        self._rewritten = -REWRITE_EVERY
        self._wake = asyncio.Event()
        self._progress = asyncio.Event()
        self._writing = asyncio.Lock()
        self.on_rewrite: Callable[[], None] | None = None
        """Redis was back, or was found to have lost data."""
        self.on_fenced: Callable[[list[str]], None] | None = None
        """These modules are another node's by a later view; their state is forgotten."""

    # -- told by modules ------------------------------------------------------------------------

    async def inherit(self, module: str, version: str = UNKNOWN) -> dict[str, bytes]:
        """Claim a module that starts in a driver version; the state it starts with.

        While Redis is away that is what memory holds, and the claim follows later.
        """
        self._removed.pop(module, None)
        self._fenced.pop(module, None)
        claim = self._claim(module)
        if claim.number < self.view_number:
            claim = self._claims[module] = claim.under(self.view_number)
        if claim.known >= 0:  # memory is the newer; should somebody have taken us for dead,
            self._again[module] = None  # Redis differs
        try:
            async with asyncio.timeout(INHERIT_TIMEOUT), self._writing:
                claim.begin(self._incarnation, version)
                self._lost(await self._store.claim([claim]))
        except UNAVAILABLE as error:
            log.warning("state not inherited", extra={"id": module, "reason": str(error)})
            self._write_again([claim])
        self._settle_later(claim)
        self._wake.set()
        return dict(claim.held)

    def outdated(self, module: str) -> bool:
        """Whether the state of a module was set by another version of its driver.

        Then the driver has to tell each key that it sets, also when the value is the same.
        """
        claim = self._claims.get(module)
        return claim is not None and claim.outdated

    def change(self, module: str, changes: StateChanges) -> int:
        """New values of a module; JSON null removes the key. How many there was no room for."""
        if self._fenced.get(module, -1) >= self.view_number:
            return 0
        claim = self._claim(module)
        refused = 0
        for key, raw in changes:
            value = bytes(raw)
            if key in claim.unset:
                claim.unset.discard(key)
                if claim.held.get(key) == value:
                    continue
            if len(value) > MAX_VALUE or not claim.held.put(key, value):
                refused += 1
                continue
            self._queue.put(claim, key, value)
        self._write_again(self._queue.overflow())
        self._wake.set()
        return refused

    def value(self, module: str, key: str) -> bytes | None:
        """A value from memory; None when it is not set (or the module not ours)."""
        claim = self._claims.get(module)
        return claim.held.get(key) if claim is not None else None

    def owns(self, module: str) -> bool:
        """Whether the module's state is in memory here."""
        return module in self._claims

    def interface(self, module: str, metadata: bytes) -> None:
        """New interface metadata of a module, as JSON."""
        if self._fenced.get(module, -1) >= self.view_number:
            return
        claim = self._claim(module)
        if claim.interface != metadata:
            claim.interface = metadata
            self._again[module] = None
            self._wake.set()

    def publish(self, channel: str, text: str) -> None:
        """Send text on the channel `placeos/<channel>`; lost while Redis is away."""
        if self._queue.put_text(channel, text):
            self._wake.set()

    def remove(self, module: str) -> None:
        """The module was deleted: nothing of it stays."""
        self.forget(module)
        self._removed[module] = carried_number(self.view_number)
        self._wake.set()

    def forget(self, module: str) -> None:
        """Another node runs the module from now on: its keys stay as they are."""
        self._claims.pop(module, None)
        self._fenced.pop(module, None)
        self._again.pop(module, None)
        timer = self._settling.pop(module, None)
        if timer is not None:
            timer.cancel()
        self._progress.set()

    def rewrite(self) -> None:
        """Redis may have lost data: write everything again."""
        self._rewritten = time.monotonic()
        self._again.update(dict.fromkeys(self._claims))
        self._wake.set()

    async def drained(self, modules: Iterable[str], timeout: float) -> bool:
        """Wait until all that was changed of these modules so far is acknowledged or refused.

        False after `timeout` seconds: what still waits may be forgotten, and what is under way
        is refused once another node has claimed its module.
        """
        wanted = set(modules)
        try:
            async with asyncio.timeout(timeout):
                while wanted & self._pending():
                    self._progress.clear()
                    self._wake.set()
                    await self._progress.wait()
        except TimeoutError:
            return False
        return True

    def _pending(self) -> set[str]:
        return self._queue.modules() | self._again.keys() | self._removed.keys() | self._under_way

    def _claim(self, module: str) -> Claim:
        claim = self._claims.get(module)
        if claim is None:
            claim = self._claims[module] = Claim(module, self.view_number)
            claim.begin(self._incarnation, UNKNOWN)
        return claim

    def _write_again(self, claims: Iterable[Claim]) -> None:
        ours = (one.module for one in claims if self._claims.get(one.module) is one)
        self._again.update(dict.fromkeys(ours))

    # -- versions of drivers --------------------------------------------------------------------

    def _settle_later(self, claim: Claim) -> None:
        timer = self._settling.pop(claim.module, None)
        if timer is not None:
            timer.cancel()
        if (claim.outdated or claim.known < 0) and self._claims.get(claim.module) is claim:
            loop = asyncio.get_running_loop()
            self._settling[claim.module] = loop.call_later(SETTLE, self._settle, claim)

    def _settle(self, claim: Claim) -> None:
        """Drop what the new version did not set, once its device has been there for a while."""
        if claim.outdated and claim.held.get("connected") != b"true":
            self._settle_later(claim)
            return
        self._settling.pop(claim.module, None)
        if claim.outdated:
            for key in claim.settle():
                claim.held.put(key, _NULL)
            self._again[claim.module] = None
            self._wake.set()

    # -- writing --------------------------------------------------------------------------------

    async def run(self) -> None:
        """Write until cancelled."""
        loop = asyncio.get_running_loop()
        auditing = loop.call_later(AUDIT, self._wake.set)
        pause = BACKOFF[0]
        lost = False
        try:
            while True:
                checkpoint()
                await self._wake.wait()
                self._wake.clear()
                if loop.time() >= auditing.when():
                    self._unaudited = list(self._claims)
                    auditing = loop.call_later(AUDIT, self._wake.set)
                try:
                    if lost:
                        await self._redis.ping()
                        lost, pause = False, BACKOFF[0]
                        log.info("redis is back")
                        self._rewrite_all()
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
        finally:
            auditing.cancel()
            for timer in self._settling.values():
                timer.cancel()

    async def flush(self, timeout: float) -> None:
        """Write what waits, at most for `timeout` seconds; for the end of the process."""
        self._unaudited = []
        try:
            async with asyncio.timeout(timeout):
                while self._has_work():
                    await self._write()
        except UNAVAILABLE as error:
            log.warning("last state not written", extra={"reason": str(error)})

    def _rewrite_all(self) -> None:
        self.rewrite()
        if self.on_rewrite is not None:
            self.on_rewrite()

    def _keep_in_memory_only(self) -> None:
        # All of it is written whole once Redis is back.
        self._write_again(self._queue.clear())
        self._queue.clear_texts()
        self._unaudited = []

    def _has_work(self) -> bool:
        return bool(self._queue or self._again or self._removed or self._unaudited)

    async def _write(self) -> None:
        """One round; never two at once, or an older value could overtake a newer one."""
        async with self._writing:
            if self._queue:
                await self._write_changes()
            if self._again:
                await self._write_whole()
            if self._removed:
                await self._write_removed()
            if self._unaudited:
                await self._audit()

    @contextmanager
    def _busy_with(self, claims: Iterable[Claim]) -> Iterator[None]:
        """What is written of these: if it cannot be told what came of it, again and whole."""
        claims = list(claims)
        self._under_way = {one.module for one in claims}
        try:
            yield
        except BaseException:
            self._write_again(claims)
            raise
        finally:
            self._under_way = set()
            self._progress.set()

    async def _write_changes(self) -> None:
        changes, texts = self._queue.take()
        claims = list(dict.fromkeys(claim for claim, _, _ in changes))
        with self._busy_with(claims):
            await self._stand(claims)
            refused, anew = await self._store.write(changes, texts)
        self._lost(refused)
        self._found_older({one: stored for one, stored in anew.items() if not one.wrote(stored)})

    async def _write_whole(self) -> None:
        """Make Redis hold what memory holds of some modules, publishing what differed."""
        claims: list[Claim] = []
        size = 0
        for module in list(self._again)[:WHOLE]:
            size += sum(map(len, self._claims[module].held.values()))
            if claims and size > BATCH_BYTES:
                break
            claims.append(self._claims[module])
            del self._again[module]
        with self._busy_with(claims):
            await self._stand(claims)
            self._lost(await self._store.write_whole(claims))

    async def _stand(self, claims: Iterable[Claim]) -> None:
        """Claim those that could not be claimed before, and read what Redis holds of them."""
        fallen = [one for one in claims if not one.standing]
        for start in range(0, len(fallen), WHOLE):
            self._lost(await self._store.claim(fallen[start : start + WHOLE]))

    async def _write_removed(self) -> None:
        module, number = next(iter(self._removed.items()))
        self._queue.drop(module)  # written later, what still waits would bring it back
        if not await self._store.remove(module, number):
            log.info("removal left to another node", extra={"id": module})
        self._removed.pop(module, None)
        self._progress.set()

    async def _audit(self) -> None:
        """Find modules that are no longer ours in Redis, or that somebody took for dead."""
        step, self._unaudited = self._unaudited[:AUDIT_STEP], self._unaudited[AUDIT_STEP:]
        claims = [self._claims[module] for module in step if module in self._claims]
        if claims:
            lost, older = await self._store.foreign(claims)
            self._lost(lost)
            self._found_older(older)

    def _lost(self, claims: Iterable[Claim]) -> None:
        """A later view gave these to another node, which has claimed them."""
        lost = [one for one in claims if self._claims.get(one.module) is one]
        for one in lost:
            self.forget(one.module)
            self._fenced[one.module] = one.number
        if lost:
            modules = [one.module for one in lost]
            log.warning("state is another's", extra={"modules": modules[:10], "all": len(lost)})
            if self.on_fenced is not None:
                self.on_fenced(modules)

    def _found_older(self, claims: dict[Claim, bytes]) -> None:
        """Redis did not hold our records: what we wrote since is lost as well."""
        self._write_again(claims)
        doubted = f" {UNKNOWN}".encode()  # by housekeeping: it is about one module only
        if all(stored.endswith(doubted) for stored in claims.values()):
            return
        if time.monotonic() - self._rewritten >= REWRITE_EVERY:
            log.warning("redis has lost data", extra={"modules": len(claims)})
            self._rewrite_all()
