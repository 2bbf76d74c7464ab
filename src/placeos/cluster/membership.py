"""Registering under a lease, and writing the next view when the members differ."""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from typing import Final

import msgspec

from placeos.cluster.etcd import Compare, Etcd, EtcdError, KeyValue, Put, pause
from placeos.cluster.registry import Registration, Registry, member_key
from placeos.cluster.view import VIEW_KEY, NodeInfo, View, difference, successor

log = logging.getLogger("placeos.cluster")

TTL: Final = 5  # seconds a lease lives without a renewal
RENEWALS: Final = 4  # within one TTL
LOOK_AGAIN: Final = 2.0  # seconds between looks at the members without a change


def new_incarnation() -> str:
    """A name for one run of a service; never used again."""
    return secrets.token_hex(8)


class Membership:
    """Keeps one instance registered. The owner runs `run()`.

    `predecessor` is the incarnation of an earlier run that is proven dead (its data folder's
    lock was free); only such a key is replaced, any other makes us wait until it is gone.
    Renewal is a task here; with fencing it becomes a thread of its own that also keeps the
    deadline after which this node must not touch a device.
    """

    def __init__(
        self,
        etcd: Etcd,
        *,
        service: str,
        identity: str,
        registration: Registration,
        predecessor: str = "",
        ttl: int = TTL,
    ) -> None:
        self._etcd = etcd
        self._key = member_key(service, identity)
        self._identity = identity
        self._value = msgspec.json.encode(registration)
        self._incarnation = registration.incarnation
        self._predecessor = predecessor
        self._ttl = ttl
        self._lease = 0
        self.registered = asyncio.Event()
        self.renewed_at = 0.0  # send time of the last successful renewal, monotonic

    @property
    def lease(self) -> int:
        """The present lease; 0: none."""
        return self._lease

    async def run(self) -> None:
        """Register, renew and register again for as long as it runs; leave when cancelled."""
        attempt = 0
        try:
            while True:
                try:
                    await self._register()
                    attempt = 0
                    await self._renew()
                except EtcdError as error:
                    if attempt == 0:
                        log.warning("etcd is away", extra={"reason": str(error)})
                    await pause(attempt)
                    attempt += 1
        finally:
            await asyncio.shield(self._leave())

    async def _register(self) -> None:
        waiting = False
        while not await self._take():
            if not waiting:
                waiting = True
                log.error("identity is taken", extra={"identity": self._identity})
            await asyncio.sleep(self._ttl / RENEWALS)
        self.registered.set()
        log.info("registered", extra={"identity": self._identity})

    async def _take(self) -> bool:
        """One try to put our key under a lease of ours. Whether it is there."""
        asked = time.monotonic()
        if not self._lease or not await self._etcd.keep_alive(self._lease):
            self._lease = await self._etcd.grant(self._ttl)
        present = await self._etcd.get(self._key)
        if present is None:
            condition = Compare(self._key, "create", 0)
        elif self._is_ours(present):
            if present.lease == self._lease:
                self.renewed_at = asked
                return True
            condition = Compare(self._key, "mod", present.mod_revision)
        else:
            return False
        taken = await self._etcd.txn([condition], [Put(self._key, self._value, self._lease)])
        if taken:
            self.renewed_at = asked
        return taken

    def _is_ours(self, present: KeyValue) -> bool:
        try:
            incarnation = msgspec.json.decode(present.value, type=Registration).incarnation
        except msgspec.MsgspecError:
            return False
        return incarnation == self._incarnation or (
            bool(self._predecessor) and incarnation == self._predecessor
        )

    async def _renew(self) -> None:
        """Renew until the lease or the key is gone. Raises EtcdError when etcd is away."""
        while True:
            await asyncio.sleep(self._ttl / RENEWALS)
            asked = time.monotonic()
            if not await self._etcd.keep_alive(self._lease):
                log.warning("lease was lost", extra={"identity": self._identity})
                self._lease = 0
                return
            present = await self._etcd.get(self._key)
            if present is None or present.lease != self._lease:
                log.warning("registration was lost", extra={"identity": self._identity})
                return
            self.renewed_at = asked

    async def _leave(self) -> None:
        self.registered.clear()
        if self._lease:
            lease, self._lease = self._lease, 0
            try:
                await self._etcd.revoke(lease)
            except EtcdError as error:
                log.info("left without saying so", extra={"reason": str(error)})


class ViewKeeper:
    """Writes the next view when the live cores differ from it. Every core runs one.

    The transaction compares the view's revision, the absence (or succession) of each member
    dropped and the revision of each added: a view from a stale list fails. Who may
    write when a view is missing, eligibility, release and completion come with hand-over.
    """

    def __init__(self, etcd: Etcd, registry: Registry, membership: Membership) -> None:
        self._etcd = etcd
        self._registry = registry
        self._membership = membership
        self._changed = asyncio.Event()
        registry.listeners.append(self._changed.set)

    async def run(self) -> None:
        """Watch and write until cancelled."""
        while True:
            await self._membership.registered.wait()
            await self._registry.loaded.wait()
            try:
                try:
                    async with asyncio.timeout(LOOK_AGAIN):
                        await self._changed.wait()
                except TimeoutError:
                    await self._registry.refresh()  # a watch may hang
                self._changed.clear()
                await self._write()
            except EtcdError as error:
                log.info("view not written", extra={"reason": str(error)})

    async def _write(self) -> None:
        registry = self._registry
        live = registry.nodes("core")
        view = successor(registry.view, live.values(), epoch=secrets.token_hex(8))
        if view is None and registry.view is not None and not registry.view_revision:
            view = registry.view  # etcd lost it: those who remember write it again
        if view is None:
            return
        written = await self._etcd.txn(
            _conditions(registry.view, registry.view_revision, live),
            [Put(VIEW_KEY, msgspec.json.encode(view))],
        )
        if written:
            log.info(
                "view written",
                extra={"number": view.number, "members": [m.identity for m in view.members]},
            )
        await registry.refresh()


def _conditions(view: View | None, view_revision: int, live: dict[str, NodeInfo]) -> list[Compare]:
    """What must still hold for a new view to be written."""
    first = (
        Compare(VIEW_KEY, "mod", view_revision) if view_revision else Compare(VIEW_KEY, "create", 0)
    )
    dropped, added = difference(view, live)
    absent = [member.identity for member in dropped if member.identity not in live]
    return [
        first,
        *(Compare(member_key("core", identity), "create", 0) for identity in absent),
        *(Compare(member_key("core", node.identity), "mod", node.revision) for node in added),
    ]
