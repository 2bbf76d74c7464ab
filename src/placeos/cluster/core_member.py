"""A core's place in the cluster: its lease, its deadline, and its part in every hand-over.

The rules are in `handover.py`; this carries them out, in a thread with a loop of its own, so
that nothing core does can keep a renewal from being sent. It is the other way round that core
must be able to stop them: while core's loop is silent, or holds up a hand-over, nothing is
renewed, and the kernel ends this core so that others can take its place.
"""

from __future__ import annotations

import asyncio
import logging
import random
import threading
import time
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

import msgspec

from placeos.cluster import handover, reading
from placeos.cluster.access import EtcdAccess
from placeos.cluster.etcd import Etcd, EtcdError
from placeos.cluster.handover import Act, Memory, Release, Timing, Wish, Write
from placeos.cluster.reading import Reading
from placeos.cluster.reasons import waiting_for
from placeos.cluster.registry import PREFIX, Registration, member_key
from placeos.cluster.renewal import Renewal, Taken

log = logging.getLogger("placeos.cluster")

RENEWALS: Final = 4  # within one TTL
BEAT: Final = 0.25  # seconds between signs of life of core's loop
SILENCE: Final = 2.0  # seconds without one: core hangs, and is not renewed
OVERDUE: Final = 8.0  # seconds to release a view; a core that takes longer is not renewed
ASKING: Final = 1.5  # seconds for all to say yes
SHORT: Final = 0.05  # seconds at least between two rounds that nothing called for
KNOWN: Final = 0.5  # seconds for PostgreSQL to tell what it knows
PAUSE: Final = (0.01, 0.05)  # seconds before another try at what others write too
NEVER_NS: Final = 2**62

T = TypeVar("T")


def now() -> float:
    """Seconds on the clock of all deadlines: it runs while the machine sleeps."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class Duties(msgspec.Struct):
    """What core does for its place. All but `extend` are called on core's loop."""

    extend: Callable[[int, int], None]
    """New deadlines, in nanoseconds of CLOCK_BOOTTIME: the lease's, and the extended one."""
    changed: Callable[[Memory], None]
    """Another view, or the same one completed."""
    ask: Callable[[frozenset[tuple[str, str]]], Awaitable[bool]]
    """Ask all these (identity, incarnation) whether this core may go on without etcd."""
    known: Callable[[], Awaitable[Memory]]
    """What PostgreSQL knows, as a core remembers it that just starts."""
    ended: Callable[[str], None]
    """The deadline passed, for this reason: let go of everything and exit."""


class CoreMember:
    """Keeps one core registered, and hands over with the others. The owner runs `run()`."""

    def __init__(
        self,
        access: EtcdAccess,
        *,
        registration: Registration,
        memory: Memory,
        timing: Timing,
        duties: Duties,
    ) -> None:
        self.memory = memory
        """Only the thread changes it; anybody may read it."""
        self.lease_deadline = 0.0
        self.deadline = 0.0  # the extended one
        self.reading: Reading | None = None
        """The last that was read, for those who want to see."""
        self.reasons: tuple[str, ...] = ()
        """Why the newest view is not completed, as far as this core can see."""
        self._registration = registration
        self._timing = timing
        self._duties = duties
        self._renewed = 0.0  # when the last renewal that counted was sent
        self._beat = now()
        self._settled = ""  # name of the view for which nothing else runs here
        self._idle = False
        self._leaving = False
        self._owed: tuple[str, float] = ("", 0.0)  # view to be released, since when
        self._complaints: tuple[set[str], set[str]] = set(), set()  # last round's, this one's
        self._stopping = False
        self._core: asyncio.AbstractEventLoop
        self._loop: asyncio.AbstractEventLoop | None = None
        self._wake = asyncio.Event()
        self._etcd = Etcd(access)
        self._renewal = Renewal(self._etcd, timing.ttl)
        self.left = asyncio.Event()

    @property
    def lease(self) -> int:
        """The present lease in etcd; 0: none."""
        return self._renewal.lease

    # -- for core's loop ------------------------------------------------------------------------

    async def run(self) -> None:
        """Take part until cancelled."""
        self._core = asyncio.get_running_loop()
        self._beat = now()
        thread = threading.Thread(target=self._thread, name="membership", daemon=True)
        thread.start()
        try:
            while True:
                before, self._beat = self._beat, now()
                if self._beat - before > SILENCE:  # it, or all of this, stood still
                    self._poke()
                await asyncio.sleep(BEAT)
        finally:
            self._stopping = True
            self._poke()
            await asyncio.shield(asyncio.to_thread(thread.join))  # it wakes within one attempt

    def settle(self, view: str) -> None:
        """Nothing runs here but what the view of this name gives to this core."""
        if self._settled != view:
            self._settled = view
            self._poke()

    def wish(self, wish: Wish) -> None:
        """What this core wants of the next view."""
        if self._registration.wish != wish:
            self._registration = msgspec.structs.replace(self._registration, wish=wish)
            self._poke()

    def idle(self) -> None:
        """Nothing runs here any more, and nothing will: leave."""
        self._idle = True
        self._poke()

    async def answer(self, asker: str, addressed: str) -> bool:
        """Whether the core of incarnation `asker` may go on without etcd, as far as this one
        can say, which was asked by the name of the incarnation `addressed`."""
        if self._loop is None or self._stopping:
            return False
        return await asyncio.wrap_future(
            asyncio.run_coroutine_threadsafe(self._answer(asker, addressed), self._loop)
        )

    def _poke(self) -> None:
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._wake.set)

    # -- the thread -----------------------------------------------------------------------------

    def _thread(self) -> None:
        try:
            asyncio.run(self._serve())
        except Exception:
            log.exception("membership failed")
            self._tell(self._duties.ended, "its membership failed")

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        async with self._etcd, asyncio.TaskGroup() as tasks:
            beside = [tasks.create_task(one) for one in (self._watch(), self._end_in_time())]
            try:
                while not self._stopping:
                    self._wake.clear()
                    due = now() + self._timing.ttl / RENEWALS
                    await self._round()
                    await self._pause(due)
            finally:
                for task in beside:
                    task.cancel()
                # Of a core that did not leave it is not known whether all that it ran has ended.
                if handover.membership(self.memory) is None:
                    await self._renewal.give_up()

    async def _pause(self, due: float) -> None:
        try:
            async with asyncio.timeout(max(SHORT, due - now())):
                await self._wake.wait()
        except TimeoutError:
            return

    async def _end_in_time(self) -> None:
        """The kernel ends a core past its deadline; one that can tell ends in better order."""
        while not self._stopping:
            left = self.deadline - now()
            if self.deadline and left <= 0 and not handover.unlimited(self.memory):
                self._tell(self._duties.ended, "its lease ended")
                return
            await asyncio.sleep(left if left > 0 else self._timing.ttl / RENEWALS)

    async def _watch(self) -> None:
        """Any change may be a reason to act: look at once."""
        async for _ in self._etcd.follow(PREFIX):
            self._wake.set()

    async def _round(self) -> None:
        begun = now()
        self._complaints = self._complaints[1], set()
        if begun - self._beat > SILENCE:
            self._complain("core's loop is silent: its lease is not renewed")
        elif self._overdue(begun):
            self._complain("a view is not released in time: the lease is not renewed")
        else:
            try:
                found, sent = await self._renewal.renew(self._registration, self.memory)
                await self._take(found, sent)
                await self._act(found)
            except Taken as error:
                self._complain("identity is taken", str(error))
            except EtcdError as error:
                self._complain("etcd is away", str(error))
                await self._go_on(begun)

    def _overdue(self, at: float) -> bool:
        """Not if it could be released, and only etcd is in the way."""
        name, since = self._owed
        owes = name == self._view_name() != "" and self._settled != name
        return owes and at - since > OVERDUE

    def _view_name(self) -> str:
        return self.memory.view.name if self.memory.view is not None else ""

    # -- renewing and reading -------------------------------------------------------------------

    async def _take(self, found: Reading, sent: float) -> None:
        before = self.memory
        self.memory = handover.take(before, found.seen, now())
        self.reading = found
        until = handover.deadline(self.memory, found.seen, sent, self._timing)
        if until is not None:
            self._renewed = max(self._renewed, sent)
            self.lease_deadline = max(self.lease_deadline, until)
            self.deadline = max(self.deadline, until)
        self._extend()
        if handover.doubtful(self.memory):
            await self._ask_postgres(found)
        if self.memory.view != before.view or (self.memory.amiss is None) != (before.amiss is None):
            self._owed = (self._view_name(), now())
            self._tell(self._duties.changed, self.memory)

    def _extend(self) -> None:
        if handover.unlimited(self.memory):
            self._duties.extend(NEVER_NS, NEVER_NS)
        elif self.deadline:
            self._duties.extend(int(self.lease_deadline * 1e9), int(self.deadline * 1e9))

    async def _ask_postgres(self, found: Reading) -> None:
        asked = asyncio.run_coroutine_threadsafe(_awaited(self._duties.known()), self._core)
        try:
            async with asyncio.timeout(KNOWN):
                known = await asyncio.wrap_future(asked)
        except Exception as error:  # whatever keeps it from telling
            self._complain("PostgreSQL cannot tell of views", str(error) or "time-out")
            return
        self.memory = handover.told(self.memory, found.seen, known.progress, known.past, now())

    # -- acting ---------------------------------------------------------------------------------

    async def _act(self, found: Reading) -> None:
        memory = self.memory
        settled = self._settled == self._view_name() != ""
        act: Act | None = handover.leaving(memory, found.seen) if self._idle else None
        leaving = act is not None
        if act is None:
            act = handover.decide(memory, found.seen, now(), self._timing, settled=settled)
        self._note(found)
        if act is None:
            return
        if await self._carry_out(act, found, leaving=leaving):
            self._wake.set()
        else:
            await asyncio.sleep(random.uniform(*PAUSE))  # noqa: S311 - not to collide again
            self._wake.set()

    async def _carry_out(self, act: Act, found: Reading, *, leaving: bool) -> bool:
        identity, incarnation = self.memory.identity, self.memory.incarnation
        if isinstance(act, Release):
            done = await self._etcd.txn(
                [reading.unchanged(member_key("core", identity), found)],
                [reading.release_put(act, incarnation, self.lease)],
            )
            if done:
                log.info("view released", extra={"number": act.view.number})
            return done
        gone = reading.farewell(identity, incarnation) if leaving else []
        gone += reading.outdated(act, found)
        done = await self._etcd.txn(
            reading.comparisons(act, found), [reading.view_put(act.view), *gone]
        )
        if done:
            self._say_written(act)
            if leaving:
                self.memory = msgspec.structs.replace(self.memory, view=act.view)
                self._tell(self.left.set)
                self._stopping = True
        return done

    def _say_written(self, act: Write) -> None:
        view = act.view
        log.info(
            "view completed" if view.completed else "view written",
            extra={
                "number": view.number,
                "members": [one.identity for one in view.members],
                "eligible": list(view.eligible),
                "lost": [past.identity for past in view.base if past.fate == "lost"],
            },
        )

    def _note(self, found: Reading) -> None:
        """Remember since when this core owes its release, and why the view is not completed."""
        memory, view = self.memory, self.memory.view
        at = now()
        released = dict(found.seen.released)
        mine = view is not None and (
            view.completed
            or handover.membership(memory) is None
            or released.get(memory.incarnation) == view.name
            or not handover.keeps_promises(memory, view, at)
        )
        if mine or self._owed[0] != self._view_name():
            self._owed = ("" if mine else self._view_name(), at)
        self.reasons = waiting_for(memory, found.seen, at, self._timing)

    # -- without etcd ---------------------------------------------------------------------------

    async def _go_on(self, asked: float) -> None:
        """A renewal failed: ask all others whether this core may go on."""
        memory = self.memory
        if handover.membership(memory) is None or handover.unlimited(memory):
            return
        if now() >= self.deadline:
            return
        question = asyncio.run_coroutine_threadsafe(
            _awaited(self._duties.ask(handover.to_ask(memory))), self._core
        )
        try:
            async with asyncio.timeout(ASKING):
                yes = await asyncio.wrap_future(question)
        except TimeoutError:
            yes = False
        if yes and now() < self.deadline:
            until = handover.extended(asked, self._renewed, self._timing)
            self.deadline = max(self.deadline, until)
            self._extend()

    async def _answer(self, asker: str, addressed: str) -> bool:
        if addressed not in (self.memory.incarnation, *self._registration.dead):
            return False
        if await self._renewal.works():
            self._wake.set()
            return False
        after = handover.answer(self.memory, asker, now(), self._timing)
        if after is None:
            return False
        self.memory = after
        return True

    # -- telling --------------------------------------------------------------------------------

    def _tell(self, what: Callable[..., None], *args: object) -> None:
        if not self._core.is_closed():
            self._core.call_soon_threadsafe(what, *args)

    def _complain(self, problem: str, reason: str = "") -> None:
        """Once for each problem in a row."""
        before, present = self._complaints
        if problem not in before | present:
            log.warning(problem, extra={"reason": reason} if reason else {})
        present.add(problem)


async def _awaited(awaitable: Awaitable[T]) -> T:
    return await awaitable
