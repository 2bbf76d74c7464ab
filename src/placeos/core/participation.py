"""Core's part in the cluster: what it does for its place, and what its place means for it."""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import Callable
from typing import Final

import msgspec

from placeos.cluster import handover
from placeos.cluster.access import EtcdAccess
from placeos.cluster.core_member import CoreMember, Duties, now
from placeos.cluster.handover import Memory, Timing, Wish
from placeos.cluster.registry import Registration
from placeos.cluster.routing import Router
from placeos.cluster.view import Past, View
from placeos.core.process.fence import Fence
from placeos.store import Database, Unavailable
from placeos.store.installation import Installation, installation, record
from placeos.wire.errors import CallError
from placeos.wire.frame import Command, Header

log = logging.getLogger("placeos.core")

ASK: Final = 1.2  # seconds in which another core must say yes
DRAIN: Final = 20.0  # seconds to hand everything over before stopping without
RECORD: Final = 0.5  # seconds that PostgreSQL may take before modules are started all the same
RETRY: Final = 1.0  # seconds before PostgreSQL is asked again


class GoOn(msgspec.Struct):
    """May the core of this incarnation go on without etcd? `addressed` is who is asked."""

    asker: str
    addressed: str


class Standing(msgspec.Struct):
    """This core's place in the cluster, as it sees it itself; for operators."""

    incarnation: str
    lease_age: float | None
    """Seconds since the last renewal that counted was sent; None: there was none."""
    view: int
    """Number of the newest view it knows; 0: none."""
    completed: bool
    eligible: bool
    waiting_for: tuple[str, ...]
    """Why that view is not completed."""


class Lost(Exception):
    """This core may run nothing any more: others may have taken its place."""


class Participation:
    """The owner runs `run()`, and calls `drain` before it stops anything.

    `on_change` hears of every view, completed or not, in what this core remembers.
    """

    def __init__(
        self,
        database: Database,
        router: Router,
        fence: Fence,
        *,
        access: EtcdAccess,
        timing: Timing,
        identity: str,
        on_change: Callable[[Memory], None],
    ) -> None:
        self._database = database
        self._router = router
        self._fence = fence
        self._access = access
        self._timing = timing
        self._identity = identity
        self._on_change = on_change
        self._member: CoreMember | None = None
        self._lost: asyncio.Future[str] | None = None
        self._recorded = 0
        self._latest: Memory | None = None
        self._record = asyncio.Event()
        self._incarnation = ""
        self._wish: Wish = "preparing"
        self.changed = asyncio.Event()
        """Set at every change of the view."""

    @property
    def member(self) -> CoreMember | None:
        """The thread's end of it; None until it was begun."""
        return self._member

    @property
    def lost(self) -> bool:
        """Whether this core may run nothing any more."""
        return self._lost is not None and self._lost.done()

    @property
    def lease(self) -> int:
        """The present lease in etcd; 0: none."""
        return self._member.lease if self._member is not None else 0

    async def run(self, registration: Registration) -> None:
        """Register and take part until cancelled. Raises Lost."""
        self._incarnation = registration.incarnation
        known = await self._installation()
        member = self._member = CoreMember(
            self._access,
            registration=registration,
            memory=self._memory(known),
            timing=self._timing,
            duties=Duties(
                extend=self._fence.extend,
                changed=self._changed,
                ask=self._ask,
                known=self._known,
                ended=self._ended,
            ),
        )
        member.wish(self._wish)
        self._recorded = known.progress
        self._lost = asyncio.get_running_loop().create_future()
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(member.run(), name="participation: member")
            tasks.create_task(self._keep_record(), name="participation: record")
            raise Lost(await self._lost)

    def standing(self) -> Standing | None:
        """Its place; None until it takes part."""
        member = self._member
        if member is None:
            return None
        memory = member.memory
        me = handover.membership(memory)
        sent = member.lease_deadline - self._timing.ttl + self._timing.margin
        return Standing(
            incarnation=memory.incarnation,
            lease_age=round(now() - sent, 3) if member.lease_deadline else None,
            view=memory.view.number if memory.view is not None else 0,
            completed=handover.may_start(memory),
            eligible=me is not None and me.eligible,
            waiting_for=member.reasons,
        )

    def settle(self, view: str) -> None:
        """Nothing runs here but what this view gives to this core, and all is written."""
        if self._member is not None:
            self._member.settle(view)

    def ready(self, *, held: bool) -> None:
        """Modules may come; `held`: only if nobody else can take them."""
        self._want("held" if held else "ready")

    def _want(self, wish: Wish) -> None:
        if self._wish != "draining":
            self._wish = wish
            if self._member is not None:
                self._member.wish(wish)

    def unserved(self) -> bool:
        """Whether this core is registered, and no other that could run modules is."""
        member = self._member
        if member is None or member.reading is None:
            return False
        return not any(
            one.wish in ("ready", "held") and one.incarnation != self._incarnation
            for one in member.reading.seen.live
        )

    async def drain(self) -> bool:
        """Hand over to the others, and wait until all that could be is. Whether it was."""
        member = self._member
        if member is None:
            return True
        self._want("draining")
        try:
            async with asyncio.timeout(DRAIN):
                while not self._relieved(member):
                    self.changed.clear()
                    await self.changed.wait()
        except TimeoutError:
            log.warning("not everything was handed over", extra={"reasons": member.reasons})
            return False
        return True

    async def leave(self, timeout: float) -> bool:
        """Nothing runs here any more: tell the others. Whether they know."""
        member = self._member
        if member is None:
            return True
        member.idle()
        try:
            async with asyncio.timeout(timeout):
                await member.left.wait()
        except TimeoutError:
            return False
        if member.memory.view is not None:
            await self._write(member.memory.view)
        return True

    async def answer(self, _: Header, payload: bytes) -> bytes:
        """GO_ON from another core."""
        try:
            asked = msgspec.json.decode(payload, type=GoOn)
        except msgspec.MsgspecError:
            return b"false"
        member = self._member
        yes = member is not None and await member.answer(asked.asker, asked.addressed)
        return b"true" if yes else b"false"

    # -- duties ---------------------------------------------------------------------------------

    def _changed(self, memory: Memory) -> None:
        """What a view takes away ends at once; what a completed one gives is started when
        PostgreSQL knows that it is completed, should etcd ever get older data back."""
        self._latest = memory
        view = memory.view
        if view is not None and view.progress > self._recorded:
            self._record.set()
            if view.completed:
                return
        self._tell(memory)

    def _tell(self, memory: Memory) -> None:
        self._on_change(memory)
        self.changed.set()

    def _relieved(self, member: CoreMember) -> bool:
        """Whether nobody expects this core to run anything, or nobody is left to take it."""
        memory = member.memory
        me = handover.membership(memory)
        if memory.view is None or me is None:
            return True
        if memory.view.completed and not me.eligible:
            return True
        seen = member.reading.seen if member.reading is not None else None
        return seen is not None and all(
            one.wish == "draining" or one.incarnation == memory.incarnation for one in seen.live
        )

    async def _ask(self, whom: frozenset[tuple[str, str]]) -> bool:
        async def ask(identity: str, incarnation: str) -> bool:
            question = msgspec.json.encode(GoOn(self._incarnation, incarnation))
            try:
                _, answer = await self._router.ask(
                    identity, Header(Command.GO_ON), question, timeout=ASK
                )
            except CallError:
                return False
            return answer == b"true"

        answers = await asyncio.gather(*(ask(*one) for one in whom))
        return all(answers)

    def _ended(self, reason: str) -> None:
        if self._lost is not None and not self._lost.done():
            self._lost.set_result(reason)

    # -- PostgreSQL -----------------------------------------------------------------------------

    async def _installation(self) -> Installation:
        while True:
            try:
                return await installation(self._database, secrets.token_hex(8))
            except Unavailable as error:
                log.warning("the installation is not known", extra={"reason": str(error)})
                await asyncio.sleep(RETRY)

    async def _known(self) -> Memory:
        known = await installation(self._database, secrets.token_hex(8))
        return self._memory(known)

    def _memory(self, known: Installation) -> Memory:
        return Memory(
            self._identity,
            self._incarnation,
            known.epoch,
            first=int(time.time()),  # Redis knows the numbers of an installation before this one
            progress=known.progress,
            past=_past(known),
        )

    async def _keep_record(self) -> None:
        while True:
            await self._record.wait()
            self._record.clear()
            memory = self._latest
            if memory is None or memory.view is None:
                continue
            try:
                async with asyncio.timeout(RECORD):
                    recorded = await self._write(memory.view)
            except TimeoutError:
                recorded = False
            if memory is self._latest and memory.view.completed:
                self._tell(memory)
            if not recorded:
                await asyncio.sleep(RETRY)
                self._record.set()

    async def _write(self, view: View) -> bool:
        try:
            await record(self._database, view.progress, msgspec.json.encode(view))
        except Unavailable as error:
            log.info("view not recorded", extra={"reason": str(error)})
            return False
        self._recorded = max(self._recorded, view.progress)
        return True


def _past(known: Installation) -> tuple[Past, ...]:
    try:
        return msgspec.json.decode(known.view, type=View).base if known.view else ()
    except msgspec.MsgspecError as error:
        log.warning("recorded view unreadable", extra={"reason": str(error)})
        return ()
