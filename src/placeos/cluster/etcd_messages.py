"""What is said to etcd's HTTP/JSON gateway, and how its answers read.

Keys and values travel as base64; numbers as strings; fields with a zero value are absent, which
is how an expired lease (no `TTL`) and a failed transaction (no `succeeded`) answer. Source: the
gateway's `rpc.swagger.json` of etcd 3.4 and 3.5.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import Final, TypeVar

import msgspec

T = TypeVar("T")

_STALE_TOKEN: Final = (b"invalid auth token", b"auth store is old", b"user name is empty")


class EtcdError(Exception):
    """No endpoint answered, or etcd refused."""


class TokenRefused(EtcdError):
    """The token is not (any more) valid; with a new one the same may go well."""


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
    """What a watch delivers: changes up to and including `revision`.

    Without events `revision` is only how far the member is that serves the watch; changes up
    to it may still be on their way.
    """

    revision: int
    events: list[Event]


class Compare(msgspec.Struct, frozen=True):
    """One condition of a transaction: `field` (mod, create, lease or value) of `key` equals."""

    key: str
    field: str
    equals: int | bytes

    def encode(self) -> dict[str, object]:
        """The gateway's form."""
        if isinstance(self.equals, bytes):
            return {"key": b64(self.key), "target": "VALUE", "value": b64(self.equals)}
        names = {"mod": "mod_revision", "create": "create_revision", "lease": "lease"}
        target = self.field.upper()
        return {"key": b64(self.key), "target": target, names[self.field]: str(self.equals)}


class Put(msgspec.Struct, frozen=True):
    """One write of a transaction."""

    key: str
    value: bytes
    lease: int = 0

    def encode(self) -> dict[str, object]:
        """The gateway's form."""
        put: dict[str, object] = {"key": b64(self.key), "value": b64(self.value)}
        if self.lease:
            put["lease"] = str(self.lease)
        return {"request_put": put}


class Delete(msgspec.Struct, frozen=True):
    """Remove one key in a transaction; that there is none is no error."""

    key: str

    def encode(self) -> dict[str, object]:
        """The gateway's form."""
        return {"request_delete_range": {"key": b64(self.key)}}


class Get(msgspec.Struct, frozen=True):
    """Read one key, or with `prefix` all that start with it, in a transaction."""

    key: str
    prefix: bool = False

    def encode(self) -> dict[str, object]:
        """The gateway's form."""
        return {"request_range": range_of(self.key) if self.prefix else {"key": b64(self.key)}}


Operation = Put | Delete | Get


class Outcome(msgspec.Struct, frozen=True):
    """How a transaction ended, as of `revision`.

    `reads` has the keys found by each `Get` of the branch that was taken, in order. With
    `repeated` an earlier try of the same call had no answer and may have been carried out: that
    the comparisons failed may then be its doing.
    """

    succeeded: bool
    revision: int
    reads: list[list[KeyValue]]
    repeated: bool = False


class Renewal(msgspec.Struct, frozen=True):
    """A lease renewed, and what was read after that.

    `sent` is when the renewal that counted was sent, CLOCK_BOOTTIME in nanoseconds: the lease
    lives at least until `sent` + `ttl` seconds. `ttl` 0: it is gone.
    """

    ttl: int
    sent: int
    listing: Listing


class RawKeyValue(msgspec.Struct):
    """A key as the gateway shows it."""

    key: str
    value: str = ""
    create_revision: str = "0"
    mod_revision: str = "0"
    lease: str = "0"

    def decode(self) -> KeyValue:
        """Our own form."""
        return KeyValue(
            base64.b64decode(self.key).decode("utf-8", "replace"),
            base64.b64decode(self.value),
            int(self.create_revision),
            int(self.mod_revision),
            int(self.lease),
        )


class Header(msgspec.Struct):
    """Who answered: how far the member is, and in which term of which leader."""

    revision: str = "0"
    raft_term: str = "0"


class RangeAnswer(msgspec.Struct):
    """Keys found."""

    header: Header = msgspec.field(default_factory=Header)
    kvs: list[RawKeyValue] = []

    def listing(self) -> Listing:
        """Our own form."""
        return Listing(int(self.header.revision), [kv.decode() for kv in self.kvs])


class _Response(msgspec.Struct):
    response_range: RangeAnswer | None = None


class TxnAnswer(msgspec.Struct):
    """How a transaction ended."""

    header: Header = msgspec.field(default_factory=Header)
    succeeded: bool = False
    responses: list[_Response] = []

    def outcome(self, *, repeated: bool) -> Outcome:
        """Our own form."""
        found = [one.response_range for one in self.responses if one.response_range is not None]
        reads = [[kv.decode() for kv in answer.kvs] for answer in found]
        return Outcome(self.succeeded, int(self.header.revision), reads, repeated)


class GrantAnswer(msgspec.Struct):
    """A new lease."""

    id: str = msgspec.field(name="ID", default="0")


class _Alive(msgspec.Struct):
    header: Header = msgspec.field(default_factory=Header)
    ttl: str = msgspec.field(name="TTL", default="0")


class AliveAnswer(msgspec.Struct):
    """A lease renewed, or gone."""

    result: _Alive = msgspec.field(default_factory=_Alive)


class TokenAnswer(msgspec.Struct):
    """What a user and a password were exchanged for."""

    token: str = ""


class _Event(msgspec.Struct):
    kv: RawKeyValue
    type: str = "PUT"


class _Watch(msgspec.Struct):
    header: Header = msgspec.field(default_factory=Header)
    created: bool = False
    canceled: bool = False
    compact_revision: str = "0"
    cancel_reason: str = ""
    events: list[_Event] = []


class _WatchLine(msgspec.Struct):
    result: _Watch | None = None
    error: dict[str, object] | None = None


def decode(content: bytes, kind: type[T]) -> T:
    """An answer. Raises EtcdError when it cannot be read."""
    try:
        return msgspec.json.decode(content, type=kind)
    except (msgspec.MsgspecError, RecursionError) as error:
        raise EtcdError(f"unreadable answer: {error}") from error


def changes(line: bytes) -> Changes:
    """One line of a watch. Raises Compacted, and EtcdError (TokenRefused) when it ended."""
    message = decode(line, _WatchLine)
    watch = message.result
    if watch is None:
        raise EtcdError(f"watch ended: {(message.error or {}).get('message', 'no reason given')}")
    if int(watch.compact_revision):
        raise Compacted
    if watch.canceled:
        reason = watch.cancel_reason
        # Early releases of 3.5 say so too when the token has expired.
        if refuses_token(reason.encode()) or "permission denied" in reason:
            raise TokenRefused(f"watch cancelled: {reason}")
        raise EtcdError(f"watch cancelled: {reason}")
    events = []
    for event in watch.events:
        item = event.kv.decode()
        deleted = event.type == "DELETE"
        events.append(Event(item.key, None if deleted else item, item.mod_revision))
    return Changes(int(watch.header.revision), events)


def refuses_token(reason: bytes) -> bool:
    """Whether etcd wants a token, or a newer one: they end after a while without use."""
    return any(one in reason for one in _STALE_TOKEN)


def watch_request(prefix: str, revision: int) -> dict[str, object]:
    """Follow a prefix from a revision on."""
    wanted = range_of(prefix) | {"start_revision": str(revision), "progress_notify": True}
    return {"create_request": wanted}


def txn_request(
    compares: Sequence[Compare], success: Sequence[Operation], failure: Sequence[Operation]
) -> dict[str, object]:
    """A transaction."""
    return {
        "compare": [one.encode() for one in compares],
        "success": [one.encode() for one in success],
        "failure": [one.encode() for one in failure],
    }


def range_of(prefix: str) -> dict[str, object]:
    """All keys that start with `prefix`: up to the first one after them."""
    raw = prefix.encode()
    return {"key": b64(raw), "range_end": b64(raw[:-1] + bytes([raw[-1] + 1]))}


def b64(value: str | bytes) -> str:
    """The gateway's form of keys and values."""
    return base64.b64encode(value.encode() if isinstance(value, str) else value).decode()
