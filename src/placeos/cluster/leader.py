"""One leader per duty, elected in etcd.

The key `placeos/leader/<duty>` is put by whoever first finds it absent, under the lease of its
own registration: it goes when that node does. Its create revision is the number of the
leadership. Revisions only grow, so every write of a leader carries its number: in etcd as a
comparison of the transaction, elsewhere as a number that must not be lower than one seen
before. Believing to lead is therefore never enough to do harm: a leader that was paused finds
its writes refused.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from typing import Final

import msgspec

from placeos.cluster.etcd import Compacted, Compare, Etcd, EtcdError, KeyValue, Put, pause

log = logging.getLogger("placeos.cluster")

PREFIX: Final = "placeos/leader/"
LOOK_AGAIN: Final = 1.0  # seconds between looks at the key without a word from the watch
BELIEVED: Final = 3.0  # seconds for which a look that found the own key counts


class Leader(msgspec.Struct, frozen=True):
    """The value of an election key. It is no registration: it has no address."""

    leader: str
    """Identity of the node."""


def election_key(duty: str) -> str:
    """Key of the leader of a duty."""
    return PREFIX + duty


class Election:
    """Campaigns for one duty. The owner runs `run()`.

    `lease` gives the present lease of the node's registration, 0 while it has none: without
    one it does not campaign. Leadership ends with that lease; nothing is given back earlier.
    """

    def __init__(self, etcd: Etcd, duty: str, identity: str, lease: Callable[[], int]) -> None:
        self.duty = duty
        self.identity = identity
        self._etcd = etcd
        self._key = election_key(duty)
        self._value = msgspec.json.encode(Leader(identity))
        self._lease = lease
        self._revision = 0
        self._until = 0.0  # on CLOCK_BOOTTIME, which goes on while the machine sleeps
        self._looked = asyncio.Event()
        self._stir = asyncio.Event()

    @property
    def leading(self) -> bool:
        """Whether this node is the leader, as far as it knows without asking."""
        return self._revision != 0 and _now() < self._until

    @property
    def revision(self) -> int:
        """Create revision of the own election key, the number of this leadership; 0: none."""
        return self._revision if self.leading else 0

    async def elected(self) -> None:
        """Wait until this node leads."""
        while not self.leading:
            self._looked.clear()
            await self._looked.wait()

    async def confirm(self) -> bool:
        """Ask etcd now whether this node still leads. Raises EtcdError."""
        revision = self._revision
        found = await self._etcd.get(self._key)
        return bool(revision) and found is not None and found.create_revision == revision

    async def txn(self, operations: Sequence[Put], compares: Sequence[Compare] = ()) -> bool:
        """Write as the leader; False, and nothing is written, when it is another by now.

        Raises EtcdError; then the writes may have been made all the same.
        """
        revision = self._revision
        if not revision:
            return False
        mine = Compare(self._key, "create", revision)
        written = await self._etcd.txn([mine, *compares], operations)
        if not written:
            self._stir.set()  # it may be news that another leads
        return written

    # -- campaigning --------------------------------------------------------------------------

    async def run(self) -> None:
        """Campaign and follow the key until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            watch = tasks.create_task(self._watch(), name=f"election {self.duty}: watch")
            try:
                await self._campaign()
            finally:
                self._resign()
                watch.cancel()

    async def _campaign(self) -> None:
        attempt = 0
        while True:
            try:
                await self._look()
                attempt = 0
            except EtcdError as error:
                self._resign()
                if attempt == 0:
                    log.warning("no election", extra={"duty": self.duty, "reason": str(error)})
                await pause(attempt)
                attempt += 1
                continue
            try:
                async with asyncio.timeout(LOOK_AGAIN):
                    await self._stir.wait()
            except TimeoutError:
                pass  # a watch may hang
            self._stir.clear()

    async def _look(self) -> None:
        """One look at the key, and one try to take it when it is absent."""
        asked = _now()
        lease = self._lease()
        found = await self._etcd.get(self._key)
        if found is None and lease:
            self._resign()
            put = Put(self._key, self._value, lease)
            await self._etcd.txn([Compare(self._key, "create", 0)], [put])
            found = await self._etcd.get(self._key)  # also after a try whose answer was lost
        if found is None or not lease or not self._is_ours(found, lease):
            self._resign()
            return
        self._until = asked + BELIEVED
        if self._revision != found.create_revision:
            self._revision = found.create_revision
            log.info("leading", extra={"duty": self.duty, "revision": self._revision})
        self._looked.set()

    def _is_ours(self, found: KeyValue, lease: int) -> bool:
        return found.lease == lease and found.value == self._value

    def _resign(self) -> None:
        if self._revision:
            log.info("no longer leading", extra={"duty": self.duty})
        self._revision = 0

    async def _watch(self) -> None:
        """Stir at each change of the key; what it is now is asked afresh."""
        attempt = 0
        while True:
            try:
                revision = (await self._etcd.list(self._key)).revision
                self._stir.set()
                while True:
                    async for changes in self._etcd.watch(self._key, revision + 1):
                        attempt = 0
                        if changes.events:
                            revision = changes.revision
                            self._stir.set()
            except Compacted:
                await pause(attempt)  # etcd may count from the beginning: never in a hurry
            except EtcdError:  # `_campaign` meets the same, and says so
                await pause(attempt)
                attempt += 1


def _now() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME)
