"""Cores' places in a cluster, with real etcd and without the rest of core."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Sequence

import msgspec

from placeos.cluster import handover
from placeos.cluster.access import EtcdAccess
from placeos.cluster.core_member import CoreMember, Duties, now
from placeos.cluster.handover import Memory, Timing
from placeos.cluster.membership import new_incarnation
from placeos.cluster.registry import Registration
from placeos.cluster.view import Past, View

EPOCH = "epoch of these tests"
CALM = Timing(ttl=60, limit=600)
"""No lease ends because the machine is busy: changes are heard of by the watch."""
SHORT = Timing(ttl=3, limit=600)
"""The shortest that etcd grants."""


class Extension(msgspec.Struct):
    """One call of `Duties.extend`, in seconds."""

    at: float
    lease: float
    extended: float


class Place:
    """A `CoreMember` whose core settles every view at once (`settling`), or when told to.

    `others` are asked, by identity, whether this one may go on without etcd.
    """

    def __init__(
        self,
        endpoints: Sequence[str],
        identity: str,
        incarnation: str = "",
        *,
        address: str = "127.0.0.1:1",
        timing: Timing = CALM,
        settling: bool = True,
        others: dict[str, Place] | None = None,
        epoch: str = EPOCH,
        progress: int = 0,
        past: tuple[Past, ...] = (),
        **registration: object,
    ) -> None:
        self.identity = identity
        self.incarnation = incarnation or new_incarnation()
        self.settling = settling
        self.others = {} if others is None else others
        self.silent = False  # does not answer those who ask to go on
        self.known = progress  # what PostgreSQL tells when it is asked
        self.extensions: list[Extension] = []
        self.took: list[Memory] = []
        self.asked: list[frozenset[tuple[str, str]]] = []
        self.ended: list[str] = []
        self.timing = timing
        self.memory = Memory(
            identity, self.incarnation, epoch, first=1, progress=progress, past=past
        )
        self.member = CoreMember(
            EtcdAccess(tuple(endpoints)),
            registration=Registration(self.incarnation, address, **registration),
            memory=self.memory,
            timing=timing,
            duties=Duties(
                extend=self._extend,
                changed=self._changed,
                ask=self._ask,
                known=self._known,
                ended=self._ended,
            ),
        )
        self.task: asyncio.Task[None] | None = None
        self._frozen: threading.Event | None = None

    # -- what it is and has -----------------------------------------------------------------------

    @property
    def view(self) -> View | None:
        """The newest it took."""
        return self.member.memory.view

    @property
    def number(self) -> int:
        """Of that view; 0: none."""
        return self.view.number if self.view is not None else 0

    @property
    def identities(self) -> tuple[str, ...]:
        """Of the members of a view that is completed; else none."""
        view = self.view
        if view is None or not view.completed:
            return ()
        return tuple(one.identity for one in view.members)

    @property
    def may_start(self) -> bool:
        """Whether what the view gives it may be started."""
        return handover.may_start(self.member.memory)

    @property
    def deadline(self) -> float:
        """Seconds until it may run nothing any more."""
        return self.member.deadline - now()

    # -- what it does -----------------------------------------------------------------------------

    def start(self) -> Place:
        self.task = asyncio.create_task(self.member.run())
        return self

    def settle(self) -> None:
        """Nothing runs but what the newest view gives."""
        assert self.view is not None
        self.member.settle(self.view.name)

    async def leave(self) -> None:
        """Nothing runs any more: say so, and end."""
        self.member.idle()
        async with asyncio.timeout(10):
            await self.member.left.wait()
        await self.stop()

    async def stop(self) -> None:
        """End as if killed: what it registered stays until its lease ends."""
        self.thaw()
        if self.task is not None:
            self.task.cancel()
            await asyncio.gather(self.task, return_exceptions=True)

    def freeze(self) -> None:
        """Its thread stands still."""
        self._frozen = threading.Event()
        assert self.member._loop is not None
        self.member._loop.call_soon_threadsafe(self._frozen.wait, 60)

    def thaw(self) -> None:
        if self._frozen is not None:
            self._frozen.set()

    # -- duties -----------------------------------------------------------------------------------

    def _ended(self, reason: str) -> None:
        if reason not in self.ended:  # it is told again and again
            self.ended.append(reason)

    def _extend(self, lease_ns: int, extended_ns: int) -> None:
        self.extensions.append(Extension(now(), lease_ns / 1e9, extended_ns / 1e9))

    def _changed(self, memory: Memory) -> None:
        self.took.append(memory)
        if self.settling and memory.view is not None:
            self.member.settle(memory.view.name)

    async def _ask(self, whom: frozenset[tuple[str, str]]) -> bool:
        self.asked.append(whom)
        answers = await asyncio.gather(*(self._ask_one(*one) for one in whom))
        return all(answers)

    async def _ask_one(self, identity: str, incarnation: str) -> bool:
        other = self.others.get(identity)
        if other is None:
            return False
        if other.silent:
            await asyncio.get_running_loop().create_future()
        return await other.member.answer(self.incarnation, incarnation)

    async def _known(self) -> Memory:
        return msgspec.structs.replace(self.memory, progress=self.known)


Condition = Callable[[], object]
Until = Callable[..., Awaitable[None]]


async def until(condition: Condition, timeout: float = 10.0) -> None:
    """Wait until the condition holds; fails after `timeout` seconds."""
    async with asyncio.timeout(timeout):
        while not condition():
            await asyncio.sleep(0.005)


async def holds(condition: Condition, seconds: float) -> None:
    """Fails if the condition does not hold all the time."""
    loop = asyncio.get_running_loop()
    end = loop.time() + seconds
    while loop.time() < end:
        assert condition()
        await asyncio.sleep(0.01)


def port(endpoint: str) -> int:
    """Of `http://host:port`."""
    return int(endpoint.rpartition(":")[2])
