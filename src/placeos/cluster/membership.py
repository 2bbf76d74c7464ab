"""Registering an instance of a service under a lease. For cores see `core_member.py`."""

from __future__ import annotations

import asyncio
import logging
import secrets
from typing import Final

import msgspec

from placeos.cluster.etcd import Compare, Etcd, EtcdError, KeyValue, Put, pause
from placeos.cluster.registry import Registration, member_key

log = logging.getLogger("placeos.cluster")

TTL: Final = 5  # seconds a lease lives without a renewal
RENEWALS: Final = 4  # within one TTL


def new_incarnation() -> str:
    """A name for one run of a service; never used again."""
    return secrets.token_hex(8)


class Membership:
    """Keeps one instance registered. The owner runs `run()`."""

    def __init__(
        self,
        etcd: Etcd,
        *,
        service: str,
        identity: str,
        registration: Registration,
        ttl: int = TTL,
    ) -> None:
        self._etcd = etcd
        self._key = member_key(service, identity)
        self._identity = identity
        self._value = msgspec.json.encode(registration)
        self._incarnation = registration.incarnation
        self._ttl = ttl
        self._lease = 0
        self.registered = asyncio.Event()

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
        if not self._lease or not await self._etcd.keep_alive(self._lease):
            self._lease = await self._etcd.grant(self._ttl)
        present = await self._etcd.get(self._key)
        if present is None:
            condition = Compare(self._key, "create", 0)
        elif self._is_ours(present):
            if present.lease == self._lease:
                return True
            condition = Compare(self._key, "mod", present.mod_revision)
        else:
            return False
        return await self._etcd.txn([condition], [Put(self._key, self._value, self._lease)])

    def _is_ours(self, present: KeyValue) -> bool:
        try:
            incarnation = msgspec.json.decode(present.value, type=Registration).incarnation
        except msgspec.MsgspecError:
            return False
        return incarnation == self._incarnation

    async def _renew(self) -> None:
        """Renew until the lease or the key is gone. Raises EtcdError when etcd is away."""
        while True:
            await asyncio.sleep(self._ttl / RENEWALS)
            if not await self._etcd.keep_alive(self._lease):
                log.warning("lease was lost", extra={"identity": self._identity})
                self._lease = 0
                return
            present = await self._etcd.get(self._key)
            if present is None or present.lease != self._lease:
                log.warning("registration was lost", extra={"identity": self._identity})
                return

    async def _leave(self) -> None:
        self.registered.clear()
        if self._lease:
            lease, self._lease = self._lease, 0
            try:
                await self._etcd.revoke(lease)
            except EtcdError as error:
                log.info("left without saying so", extra={"reason": str(error)})
