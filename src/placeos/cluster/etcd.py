"""etcd through its own HTTP/JSON gateway: keys, leases, transactions, watches.

How it goes about several members is in `etcd_gateway`, what is said in `etcd_messages`.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Sequence
from typing import Final

import aiohttp

from placeos.cluster.access import EtcdAccess
from placeos.cluster.etcd_gateway import ATTEMPT, Gateway
from placeos.cluster.etcd_messages import (
    AliveAnswer,
    Changes,
    Compacted,
    Compare,
    Delete,
    EtcdError,
    Event,
    Get,
    GrantAnswer,
    KeyValue,
    Listing,
    Operation,
    Outcome,
    Put,
    RangeAnswer,
    Renewal,
    TxnAnswer,
    b64,
    changes,
    decode,
    range_of,
    txn_request,
    watch_request,
)

__all__ = [
    "ATTEMPT",
    "Changes",
    "Compacted",
    "Compare",
    "Delete",
    "Etcd",
    "EtcdAccess",
    "EtcdError",
    "Event",
    "Get",
    "KeyValue",
    "Listing",
    "Operation",
    "Outcome",
    "Put",
    "Renewal",
    "pause",
]

log = logging.getLogger("placeos.cluster")

PROGRESS: Final = 10.0  # seconds without a sign of life on a watch before it is opened anew


class Etcd:
    """A client. Use it as an async context manager, inside one loop."""

    def __init__(self, access: EtcdAccess | Sequence[str]) -> None:
        if not isinstance(access, EtcdAccess):
            access = EtcdAccess(tuple(access))
        self._gateway = Gateway(access)

    async def __aenter__(self) -> Etcd:
        await self._gateway.open()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._gateway.close()

    async def list(self, prefix: str) -> Listing:
        """All keys under a prefix. Raises EtcdError."""
        return decode(await self._gateway.post(_RANGE, range_of(prefix)), RangeAnswer).listing()

    async def get(self, key: str) -> KeyValue | None:
        """One key. Raises EtcdError."""
        answer = await self._gateway.post(_RANGE, {"key": b64(key)})
        found = decode(answer, RangeAnswer)
        return found.kvs[0].decode() if found.kvs else None

    async def txn(self, compares: Sequence[Compare], writes: Sequence[Put | Delete]) -> bool:
        """Write all if every comparison holds. Whether they did. Raises EtcdError.

        After an EtcdError the writes may have been made all the same, and when a member fails in
        the middle of it False may be due to our own first try: read to know (`transact` can do
        so in the same step).
        """
        return (await self.transact(compares, writes)).succeeded

    async def transact(
        self,
        compares: Sequence[Compare],
        success: Sequence[Operation],
        failure: Sequence[Operation] = (),
    ) -> Outcome:
        """If every comparison holds do `success`, else `failure`, as one step.

        Raises EtcdError; as with `txn` it may have been done all the same then.
        """
        answer, repeated = await self._gateway.post_telling(
            "/v3/kv/txn", txn_request(compares, success, failure)
        )
        return decode(answer, TxnAnswer).outcome(repeated=repeated)

    async def delete(self, key: str) -> None:
        """Remove one key. Raises EtcdError."""
        await self._gateway.post("/v3/kv/deleterange", {"key": b64(key)})

    async def grant(self, ttl: int) -> int:
        """A new lease of `ttl` seconds; its id. Raises EtcdError."""
        answer = await self._gateway.post("/v3/lease/grant", {"TTL": ttl})
        return int(decode(answer, GrantAnswer).id)

    async def keep_alive(self, lease: int) -> int:
        """Renew a lease; the seconds it has, 0 when it is gone. Raises EtcdError.

        A deadline must not be derived from it: see `renew`.
        """
        answer = await self._gateway.post(_KEEP_ALIVE, {"ID": str(lease)})
        return int(decode(answer, AliveAnswer).result.ttl)

    async def renew(self, lease: int, prefix: str) -> Renewal:
        """Renew a lease, then read a prefix; two requests to one member. Raises EtcdError.

        A renewal counts only if it was made in the same term of a leader in which the read was
        answered. A keep-alive asks no quorum: a leader that was frozen, or that is cut off,
        answers it in good faith while its successor lets the lease run out. The read does ask
        one; its term being that of the renewal shows that no other leader was elected between.
        """

        async def step(endpoint: str) -> Renewal | None:
            sent = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
            answer = await self._gateway.post_at(endpoint, _KEEP_ALIVE, {"ID": str(lease)})
            alive = decode(answer, AliveAnswer).result
            read = decode(
                await self._gateway.post_at(endpoint, _RANGE, range_of(prefix)), RangeAnswer
            )
            if alive.header.raft_term != read.header.raft_term:
                return None
            return Renewal(int(alive.ttl), sent, read.listing())

        for _ in range(_TERMS):
            renewal, _ = await self._gateway.attempt(step)
            if renewal is not None:
                return renewal
        raise EtcdError("the leader changed at every try")

    async def revoke(self, lease: int) -> None:
        """End a lease and delete its keys; one that is gone is no error. Raises EtcdError."""
        try:
            await self._gateway.post("/v3/lease/revoke", {"ID": str(lease)})
        except EtcdError as error:
            if "lease not found" not in str(error):
                raise

    async def watch(self, prefix: str, revision: int) -> AsyncIterator[Changes]:
        """Changes under a prefix from `revision` on.

        Raises Compacted when `revision` is too old, EtcdError when the watch is lost: also when
        its member knows no leader any more, or did not answer another call. It ends after
        `PROGRESS` seconds of silence and is to be opened anew: it may hang.
        """
        request = watch_request(prefix, revision)
        try:
            async with self._gateway.stream("/v3/watch", request, PROGRESS) as content:
                async for line in _lines(content):
                    yield changes(line)
        except TimeoutError:
            return
        raise EtcdError("watch ended")

    async def follow(self, prefix: str) -> AsyncIterator[Listing | Changes]:
        """All of a prefix, then its changes, for ever; all of it again when some were missed.

        Resumes after the last change seen, on whichever endpoint answers. Lists again when that
        revision is compacted, or when etcd counts from the beginning: it lost its data.
        """
        attempt = 0
        revision: int | None = None
        while True:
            try:
                if revision is None:
                    listing = await self.list(prefix)
                    revision = listing.revision
                    yield listing
                async for seen in self.watch(prefix, revision + 1):
                    attempt = 0
                    if seen.revision < revision:
                        raise Compacted
                    if seen.events:
                        revision = seen.revision
                        yield seen
            except Compacted:
                revision = None
            except EtcdError as error:
                if attempt == 0:
                    log.warning("watch lost", extra={"prefix": prefix, "reason": str(error)})
                await pause(attempt)
                attempt += 1


_RANGE: Final = "/v3/kv/range"
_KEEP_ALIVE: Final = "/v3/lease/keepalive"
_TERMS: Final = 3  # tries of a renewal during which the leader changes


async def _lines(content: aiohttp.StreamReader) -> AsyncIterator[bytes]:
    """Lines of any length; the reader's own limit would cut a long listing."""
    rest = b""
    async for chunk in content.iter_any():
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            if line:
                yield line


async def pause(attempt: int) -> None:
    """Wait before the next try: 0.1 s doubling to 2 s."""
    await asyncio.sleep(min(2.0, 0.1 * 2 ** min(attempt, 8)))
