"""etcd through its own HTTP/JSON gateway.

Every try is short and any error goes on to the next endpoint, so that one frozen member of
three delays a call by one try. Keys and values travel as base64; numbers as strings; fields
with a zero value are absent, which is how an expired lease (no `TTL`) and a failed
transaction (no `succeeded`) answer.
"""

from __future__ import annotations

import asyncio
import base64
import logging
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Final

import aiohttp
import msgspec

log = logging.getLogger("placeos.cluster")

ATTEMPT: Final = 0.6  # seconds for one try at one endpoint
PROGRESS: Final = 10.0  # seconds without a sign of life on a watch before it is opened anew


class EtcdError(Exception):
    """No endpoint answered, or etcd refused."""


class Compacted(Exception):
    """The revision a watch was to resume from is gone: list again."""


class KeyValue(msgspec.Struct, frozen=True):
    """One key. `create_revision` changes when a key is deleted and made again."""

    key: str
    value: bytes
    create_revision: int
    mod_revision: int
    lease: int = 0


class Listing(msgspec.Struct, frozen=True):
    """All keys of a range as of `revision`."""

    revision: int
    items: list[KeyValue]


class Event(msgspec.Struct, frozen=True):
    """One change, made at `revision`; `item` is None when the key was deleted."""

    key: str
    item: KeyValue | None
    revision: int


class Changes(msgspec.Struct, frozen=True):
    """What a watch delivers: changes up to and including `revision`."""

    revision: int
    events: list[Event]


class Compare(msgspec.Struct, frozen=True):
    """One condition of a transaction: `field` (mod, create or value) of `key` equals."""

    key: str
    field: str
    equals: int | bytes

    def encode(self) -> dict[str, object]:
        """The gateway's form."""
        if isinstance(self.equals, bytes):
            return {"key": _b64(self.key), "target": "VALUE", "value": _b64(self.equals)}
        name = {"mod": "mod_revision", "create": "create_revision"}[self.field]
        target = self.field.upper()
        return {"key": _b64(self.key), "target": target, name: str(self.equals)}


class Put(msgspec.Struct, frozen=True):
    """One write of a transaction."""

    key: str
    value: bytes
    lease: int = 0

    def encode(self) -> dict[str, object]:
        """The gateway's form."""
        put: dict[str, object] = {"key": _b64(self.key), "value": _b64(self.value)}
        if self.lease:
            put["lease"] = str(self.lease)
        return put


class _Kv(msgspec.Struct):
    key: str
    value: str = ""
    create_revision: str = "0"
    mod_revision: str = "0"
    lease: str = "0"

    def decode(self) -> KeyValue:
        return KeyValue(
            base64.b64decode(self.key).decode("utf-8", "replace"),
            base64.b64decode(self.value),
            int(self.create_revision),
            int(self.mod_revision),
            int(self.lease),
        )


class _Header(msgspec.Struct):
    revision: str = "0"


class _Range(msgspec.Struct):
    header: _Header = msgspec.field(default_factory=_Header)
    kvs: list[_Kv] = []


class _Txn(msgspec.Struct):
    succeeded: bool = False


class _Grant(msgspec.Struct):
    id: str = msgspec.field(name="ID", default="0")


class _Alive(msgspec.Struct):
    ttl: str = msgspec.field(name="TTL", default="0")


class _AliveResult(msgspec.Struct):
    result: _Alive = msgspec.field(default_factory=_Alive)


class _Event(msgspec.Struct):
    kv: _Kv
    type: str = "PUT"


class _Watch(msgspec.Struct):
    header: _Header = msgspec.field(default_factory=_Header)
    created: bool = False
    canceled: bool = False
    compact_revision: str = "0"
    cancel_reason: str = ""
    events: list[_Event] = []


class _WatchLine(msgspec.Struct):
    result: _Watch | None = None
    error: dict[str, object] | None = None


class Etcd:
    """A client. Use it as an async context manager, inside one loop."""

    def __init__(self, endpoints: Sequence[str]) -> None:
        if not endpoints:
            raise ValueError("no etcd endpoints")
        self._endpoints = [endpoint.rstrip("/") for endpoint in endpoints]
        self._current = 0
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Etcd:
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=16, keepalive_timeout=30),
            timeout=aiohttp.ClientTimeout(total=ATTEMPT),
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def list(self, prefix: str) -> Listing:
        """All keys under a prefix. Raises EtcdError."""
        body = {"key": _b64(prefix), "range_end": _b64(_range_end(prefix))}
        found = msgspec.json.decode(await self._post("/v3/kv/range", body), type=_Range)
        return Listing(int(found.header.revision), [kv.decode() for kv in found.kvs])

    async def get(self, key: str) -> KeyValue | None:
        """One key. Raises EtcdError."""
        answer = await self._post("/v3/kv/range", {"key": _b64(key)})
        found = msgspec.json.decode(answer, type=_Range)
        return found.kvs[0].decode() if found.kvs else None

    async def txn(self, compares: Sequence[Compare], puts: Sequence[Put]) -> bool:
        """Write all if every comparison holds. Whether they did. Raises EtcdError.

        After an EtcdError the writes may have been made all the same: read to know.
        """
        body = {
            "compare": [one.encode() for one in compares],
            "success": [{"request_put": one.encode()} for one in puts],
        }
        return msgspec.json.decode(await self._post("/v3/kv/txn", body), type=_Txn).succeeded

    async def delete(self, key: str) -> None:
        """Remove one key. Raises EtcdError."""
        await self._post("/v3/kv/deleterange", {"key": _b64(key)})

    async def grant(self, ttl: int) -> int:
        """A new lease of `ttl` seconds; its id. Raises EtcdError."""
        answer = await self._post("/v3/lease/grant", {"TTL": ttl})
        return int(msgspec.json.decode(answer, type=_Grant).id)

    async def keep_alive(self, lease: int) -> int:
        """Renew a lease; the seconds it has, 0 when it is gone. Raises EtcdError."""
        answer = await self._post("/v3/lease/keepalive", {"ID": str(lease)})
        return int(msgspec.json.decode(answer, type=_AliveResult).result.ttl)

    async def revoke(self, lease: int) -> None:
        """End a lease and delete its keys. Raises EtcdError."""
        await self._post("/v3/lease/revoke", {"ID": str(lease)})

    async def watch(self, prefix: str, revision: int) -> AsyncIterator[Changes]:
        """Changes under a prefix from `revision` on, until the connection ends.

        Raises Compacted when `revision` is too old, EtcdError when the watch is lost. A
        silent watch is opened anew after `PROGRESS` seconds: it may hang on a frozen member.
        """
        request: dict[str, object] = {
            "key": _b64(prefix),
            "range_end": _b64(_range_end(prefix)),
            "start_revision": str(revision),
        }
        endpoint = self._endpoints[self._current]
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=ATTEMPT, sock_read=PROGRESS)
        try:
            async with self._open.post(
                f"{endpoint}/v3/watch", json={"create_request": request}, timeout=timeout
            ) as response:
                if response.status != 200:
                    raise EtcdError(f"watch refused with status {response.status}")
                async for line in _lines(response.content):
                    yield _changes(line)
        except TimeoutError:
            return
        except (aiohttp.ClientError, OSError) as error:
            self._next(endpoint)
            raise EtcdError(f"watch lost: {error}") from error

    @property
    def _open(self) -> aiohttp.ClientSession:
        if self._session is None:
            raise EtcdError("the client is closed")
        return self._session

    async def _post(self, path: str, body: Mapping[str, object]) -> bytes:
        problem: Exception | None = None
        for _ in range(max(2, len(self._endpoints))):
            endpoint = self._endpoints[self._current]
            try:
                async with self._open.post(endpoint + path, json=body) as response:
                    content = await response.read()
                    if response.status == 200:
                        return content
                    problem = EtcdError(f"{path} answered {response.status}: {_brief(content)}")
                    if response.status < 500:
                        break
            except (aiohttp.ClientError, OSError, TimeoutError) as error:
                problem = error
            self._next(endpoint)
        raise EtcdError(f"etcd does not answer: {problem or 'time-out'}") from problem

    def _next(self, failed: str) -> None:
        if self._endpoints[self._current] == failed:
            self._current = (self._current + 1) % len(self._endpoints)


async def _lines(content: aiohttp.StreamReader) -> AsyncIterator[bytes]:
    """Lines of any length; the reader's own limit would cut a long listing."""
    rest = b""
    async for chunk in content.iter_any():
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            if line:
                yield line


def _changes(line: bytes) -> Changes:
    try:
        message = msgspec.json.decode(line, type=_WatchLine)
    except msgspec.MsgspecError as error:
        raise EtcdError(f"unreadable watch answer: {error}") from error
    watch = message.result
    if watch is None:
        raise EtcdError(f"watch ended: {message.error}")
    if int(watch.compact_revision):
        raise Compacted
    if watch.canceled:
        raise EtcdError(f"watch cancelled: {watch.cancel_reason}")
    events = []
    for event in watch.events:
        item = event.kv.decode()
        deleted = event.type == "DELETE"
        events.append(Event(item.key, None if deleted else item, item.mod_revision))
    return Changes(int(watch.header.revision), events)


def _b64(value: str | bytes) -> str:
    return base64.b64encode(value.encode() if isinstance(value, str) else value).decode()


def _range_end(prefix: str) -> bytes:
    """The first key after all that start with `prefix`."""
    raw = prefix.encode()
    return raw[:-1] + bytes([raw[-1] + 1])


def _brief(content: bytes) -> str:
    return content[:200].decode("utf-8", "replace")


async def pause(attempt: int) -> None:
    """Wait before the next try: 0.1 s doubling to 2 s."""
    await asyncio.sleep(min(2.0, 0.1 * 2 ** min(attempt, 8)))
