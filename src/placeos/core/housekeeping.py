"""The duty of one core: state that nobody's module keeps is put right.

What is left in Redis of modules and systems whose record is gone is removed; a module that
nobody runs is no longer connected. All records of Redis are walked in small steps, at a bounded
rate. Nothing is acted on at first sight: what was found is looked at again after a pause, with
the records read afresh from PostgreSQL, and the scripts leave alone what was written meanwhile.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, cast

from redis.asyncio import Redis

from placeos.cluster.etcd import EtcdError
from placeos.cluster.view import View
from placeos.core.claims import writer_of
from placeos.core.leadership import Leadership, NotLeading
from placeos.core.unattended import ABSENT, Attendance
from placeos.state import keys, scripts
from placeos.state.client import UNAVAILABLE, checkpoint
from placeos.store import Database, Unavailable

log = logging.getLogger("placeos.core")

DUTY: Final = "housekeeping"
STEP: Final = 100  # keys of one SCAN, and records of one question to PostgreSQL
WRITES: Final = 20  # modules in one script
MAX_SUSPECTS: Final = 1_000  # looked at again together
MAX_NAMED: Final = 10_000  # records named by changes; past it all are walked instead
MAX_SEEN: Final = 500_000  # ids remembered within one walk, not to be asked for twice
RETRY: Final = (1.0, 30.0)  # seconds: first and longest pause while an engine is away
_KINDS: Final = ("status", "interface", "owner", "system")
_AWAY: Final = (*UNAVAILABLE, Unavailable, EtcdError)


@dataclass(frozen=True)
class Pace:
    """How much, and how often."""

    every: float = 300.0  # seconds between walks without a reason
    apart: float = 30.0  # seconds between walks at least
    again: float = 5.0  # seconds until what was found is looked at again
    rate: float = 2_000.0  # keys a second
    progress: float = 10.0  # seconds between lines of the log within a walk


@dataclass
class Tally:
    """What one walk came to."""

    keys: int = 0
    removed: int = 0
    disconnected: int = 0


@dataclass
class Suspects:
    """What is to be looked at again, each with the text of `owner/<id>` as it was found."""

    gone: dict[str, bytes] = field(default_factory=dict)
    unattended: dict[str, bytes] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.gone) + len(self.unattended)

    def both(self, later: Suspects) -> Suspects:
        """Those that a later look found just the same."""
        return Suspects(
            dict(self.gone.items() & later.gone.items()),
            dict(self.unattended.items() & later.unattended.items()),
        )

    def add(self, more: Suspects) -> None:
        """Those of another page too."""
        self.gone |= more.gone
        self.unattended |= more.unattended


class Housekeeping:
    """The owner runs `run()` on every core; it works on the one that leads.

    `view` gives the present completed view (None: it is not known, so nobody is judged), `live`
    the incarnations of the registered cores.
    """

    def __init__(
        self,
        redis: Redis,
        database: Database,
        leadership: Leadership,
        *,
        view: Callable[[], View | None],
        live: Callable[[], Iterable[str]],
        pace: Pace = Pace(),
    ) -> None:
        self._redis = redis
        self._database = database
        self._leadership = leadership
        self._view = view
        self._live = live
        self._pace = pace
        self._attendance = Attendance()
        self._named: set[str] = set()
        self._walked_at = -math.inf  # when the last walk began, on the loop's clock
        self._wanted_at = math.inf  # when there will be a reason for another
        self._wake = asyncio.Event()

    def look(self, records: Iterable[str]) -> None:
        """These modules and systems were changed or deleted. Only the leader need know."""
        if not self._leadership.leading:
            return
        self._named.update(one for one in records if _is_known(one))
        if len(self._named) > MAX_NAMED:
            self._named.clear()
            self._wanted_at = 0.0
        self._wake.set()

    def members_changed(self) -> None:
        """The registry changed: once an absence has lasted, modules may be unattended."""
        now = asyncio.get_running_loop().time()
        self._attendance.note(self._view(), self._live(), now)
        self._wanted_at = min(self._wanted_at, now + ABSENT + self._pace.again)
        self._wake.set()

    async def run(self) -> None:
        """Work while this core leads, until cancelled."""
        attempt = 0
        while True:
            checkpoint()
            await self._leadership.elected()
            try:
                await self._leadership.take()
                self._walked_at = -math.inf
                while self._leadership.leading:
                    checkpoint()
                    await self._turn()
                    attempt = 0
            except NotLeading as error:
                log.info("housekeeping left to another", extra={"reason": str(error)})
            except _AWAY as error:
                if attempt == 0:
                    log.warning("housekeeping is held up", extra={"reason": str(error)})
                attempt += 1
            self._named.clear()
            await asyncio.sleep(min(RETRY[0] * 2 ** min(attempt, 8), RETRY[1]))

    async def _turn(self) -> None:
        """Wait until there is something to do, for a second at most, and do it."""
        loop = asyncio.get_running_loop()
        if loop.time() >= self._due():
            tally = await self._walk()
            level = logging.INFO if tally.removed or tally.disconnected else logging.DEBUG
            log.log(level, "housekeeping done", extra=vars(tally))
        elif self._named:
            named, self._named = list(self._named), set()
            tally = Tally()
            for start in range(0, len(named), STEP):
                page = named[start : start + STEP]
                await self._again(await self._examine(page), tally)
                await self._breathe(len(page))
        else:
            await self._idle(min(1.0, self._due() - loop.time()))

    def _due(self) -> float:
        """When the next walk should begin."""
        soon = min(self._wanted_at, self._walked_at + self._pace.every)
        return max(soon, self._walked_at + self._pace.apart)

    async def _idle(self, seconds: float) -> None:
        self._wake.clear()
        try:
            async with asyncio.timeout(max(seconds, 0.0)):
                await self._wake.wait()
        except TimeoutError:
            return

    # -- walking ------------------------------------------------------------------------------

    async def _walk(self) -> Tally:
        """All that Redis holds, once."""
        loop = asyncio.get_running_loop()
        self._walked_at, self._wanted_at = loop.time(), math.inf
        tally, suspects, seen = Tally(), Suspects(), set[str]()
        told = loop.time()
        async for found in self._keys():
            tally.keys += len(found)
            fresh = {one for key in found if (one := _record_of(key)) and one not in seen}
            if len(seen) < MAX_SEEN:
                seen |= fresh
            suspects.add(await self._examine(list(fresh)))
            if len(suspects) >= MAX_SUSPECTS:
                await self._again(suspects, tally)
                suspects = Suspects()
            if loop.time() - told >= self._pace.progress:
                told = loop.time()
                log.info("housekeeping goes on", extra=vars(tally))
            await self._breathe(len(found))
        await self._again(suspects, tally)
        return tally

    async def _keys(self) -> AsyncIterator[list[bytes]]:
        cursor = 0
        while True:
            checkpoint()
            cursor, found = cast(
                "tuple[int, list[bytes]]", await self._redis.scan(cursor, count=STEP)
            )
            yield found
            if not cursor:
                return

    async def _breathe(self, count: int) -> None:
        await asyncio.sleep(count / self._pace.rate)

    # -- judging ------------------------------------------------------------------------------

    async def _examine(self, records: Sequence[str]) -> Suspects:
        """What is suspicious of these: first what Redis holds, and then what it should."""
        suspects = Suspects()
        if not records:
            return suspects
        async with self._redis.pipeline(transaction=False) as pipe:
            for record in records:
                pipe.get(keys.owner(record))
                pipe.hget(keys.status(record), "connected")
            answers = await pipe.execute()
        running = await self._running(records)
        now = asyncio.get_running_loop().time()
        self._attendance.note(self._view(), self._live(), now)
        for record, stored, connected in zip(records, answers[::2], answers[1::2], strict=True):
            runs = running.get(record)
            if runs is None:
                suspects.gone[record] = stored or b""
            elif connected == b"true" and self._attendance.why_unattended(
                record, running=runs, writer=writer_of(stored or b""), now=now
            ):
                suspects.unattended[record] = stored or b""
        return suspects

    async def _running(self, records: Sequence[str]) -> dict[str, bool]:
        """Of those that exist, whether they should run. Raises Unavailable."""
        rows = await self._database.fetch(_EXISTING, list(records))
        return {row["id"]: row["running"] for row in rows}

    async def _again(self, suspects: Suspects, tally: Tally) -> None:
        """After a pause look once more, and act on what is still so."""
        if not suspects:
            return
        await asyncio.sleep(self._pace.again)
        records = [*suspects.gone, *suspects.unattended]
        for start in range(0, len(records), STEP):
            checkpoint()
            page = records[start : start + STEP]
            sure = suspects.both(await self._examine(page))
            for ids, arguments in _portions(sure.gone):
                tally.removed += await self._leadership.write(scripts.SWEEP, *arguments)
                log.debug("state removed", extra={"ids": ids})
            view = self._view()
            number = view.number if view is not None else 0
            for ids, arguments in _portions(sure.unattended):
                done = await self._leadership.write(scripts.DISCONNECT, number, *arguments)
                tally.disconnected += done
                log.debug("modules disconnected", extra={"ids": ids})
            await self._breathe(len(page))


_EXISTING: Final = """
SELECT id, running FROM mod WHERE id = ANY($1::text[])
UNION ALL
SELECT id, true FROM sys WHERE id = ANY($1::text[])"""


def _record_of(key: bytes) -> str | None:
    """The module or system that a key is about, if it is one of those looked after."""
    kind, _, record = key.decode("utf-8", "replace").partition("/")
    return record if kind in _KINDS and _is_known(record) else None


def _is_known(record: str) -> bool:
    # Trigger instances have a status too; it is not theirs to be judged by these tables.
    return record.startswith(("mod-", "sys-"))


def _portions(found: Mapping[str, bytes]) -> list[tuple[list[str], list[str | bytes]]]:
    """In portions for one script: ids, and its arguments."""
    items = list(found.items())
    parts = (items[start : start + WRITES] for start in range(0, len(items), WRITES))
    return [([id for id, _ in part], [text for pair in part for text in pair]) for part in parts]
