"""A core's registration under its lease: written, renewed, and read back with all the rest."""

from __future__ import annotations

import asyncio
import logging
from typing import Final

import msgspec

from placeos.cluster import handover, orders, reading
from placeos.cluster.etcd import Compare, Etcd, EtcdError, Listing, Put
from placeos.cluster.handover import Memory
from placeos.cluster.reading import Reading
from placeos.cluster.registry import PREFIX, Registration, member_key

log = logging.getLogger("placeos.cluster")

ATTEMPT: Final = 0.6  # seconds to try to renew before another core is told to go on
TRIES: Final = 3  # requests until the registration is as it should be


class Taken(EtcdError):
    """Another core has this identity: nothing is renewed."""


class Renewal:
    """Use it inside one loop."""

    def __init__(self, etcd: Etcd, ttl: float) -> None:
        self._etcd = etcd
        self._ttl = int(ttl)
        self.lease = 0

    async def renew(self, registration: Registration, memory: Memory) -> tuple[Reading, float]:
        """Renew the lease and read everything, after registering if need be.

        What was read, without the own registration if that is not under this lease; and when
        the renewal was sent, in seconds of CLOCK_BOOTTIME. Raises EtcdError.
        """
        for _ in range(TRIES):
            if not self.lease:
                self.lease = await self._etcd.grant(self._ttl)
            renewal = await self._etcd.renew(self.lease, PREFIX)
            if not renewal.ttl:
                log.warning("lease was lost", extra={"incarnation": memory.incarnation})
                self.lease = 0
            elif not await self._register(registration, memory, renewal.listing):
                return self._own(reading.read(renewal.listing), memory), renewal.sent / 1e9
        raise EtcdError("could not register")

    async def works(self) -> bool:
        """Whether a renewal goes through at this moment."""
        try:
            async with asyncio.timeout(ATTEMPT):
                if self.lease:
                    await self._etcd.renew(self.lease, PREFIX)
                else:
                    await self._etcd.list(PREFIX)
        except (EtcdError, TimeoutError):
            return False
        return True

    async def give_up(self) -> None:
        """End the lease, and the registration with it."""
        if self.lease:
            try:
                await self._etcd.revoke(self.lease)
            except EtcdError as error:
                log.info("lease left to end by itself", extra={"reason": str(error)})

    async def _register(self, registration: Registration, memory: Memory, listing: Listing) -> bool:
        """Write the own key if it is not as it should be. Whether it was tried. Raises Taken."""
        wanted = msgspec.structs.replace(
            registration,
            remembers=handover.remembers(memory),
            wish=orders.wish(registration.wish, memory.identity, listing),
        )
        key = member_key("core", memory.identity)
        present = next((item for item in listing.items if item.key == key), None)
        if present is not None:
            holder = reading.registration(present)
            if present.lease == self.lease and _is_right(holder, wanted, memory):
                return False
            if holder.incarnation not in (wanted.incarnation, *wanted.dead):
                raise Taken(f"{memory.identity} is registered by {holder.incarnation}")
        condition = (
            Compare(key, "mod", present.mod_revision) if present else Compare(key, "create", 0)
        )
        value = msgspec.json.encode(wanted)
        if await self._etcd.txn([condition], [Put(key, value, self.lease)]):
            log.info("registered", extra={"wish": wanted.wish, "incarnation": wanted.incarnation})
        return True

    def _own(self, found: Reading, memory: Memory) -> Reading:
        own = found.own(memory.identity)
        if own is None or own.lease == self.lease:
            return found
        live = tuple(one for one in found.seen.live if one.identity != memory.identity)
        return msgspec.structs.replace(found, seen=msgspec.structs.replace(found.seen, live=live))


def _is_right(present: Registration, wanted: Registration, memory: Memory) -> bool:
    """What a core remembers matters only to those who find no view that they can believe:
    telling it at every view would make everybody look again."""
    if memory.amiss is None:
        present = msgspec.structs.replace(present, remembers=wanted.remembers)
    return present == wanted
