"""From keys in etcd to what the rules of hand-over see, and back to transactions. Pure."""

from __future__ import annotations

from typing import Final, TypeVar

import msgspec

from placeos.cluster.etcd import Compare, Delete, KeyValue, Listing, Put
from placeos.cluster.handover import Live, Release, Seen, Write
from placeos.cluster.registry import PREFIX, Registration, member_key
from placeos.cluster.view import VIEW_KEY, View

RELEASED: Final = f"{PREFIX}released/"
ASSERTED: Final = f"{PREFIX}asserted/"
CORES: Final = member_key("core", "")

T = TypeVar("T")


class Reading(msgspec.Struct, frozen=True):
    """All keys of the platform at one revision."""

    seen: Seen
    keys: dict[str, KeyValue]
    registrations: dict[str, Registration]  # of cores, by identity

    def own(self, identity: str) -> KeyValue | None:
        """The key of one core."""
        return self.keys.get(member_key("core", identity))


def read(listing: Listing) -> Reading:
    """Make sense of a listing of `placeos/`. What cannot be read is as if it were not there."""
    keys = {item.key: item for item in listing.items}
    registrations = {
        key.removeprefix(CORES): found
        for key, item in keys.items()
        if key.startswith(CORES)
        and key != VIEW_KEY
        and (found := _decode(item.value, Registration)) is not None
    }
    live = tuple(
        _live(identity, registration) for identity, registration in sorted(registrations.items())
    )
    item = keys.get(VIEW_KEY)
    released = tuple(
        (key.removeprefix(RELEASED), item.value.decode("utf-8", "replace"))
        for key, item in sorted(keys.items())
        if key.startswith(RELEASED)
    )
    asserted = tuple(key.removeprefix(ASSERTED) for key in sorted(keys) if key.startswith(ASSERTED))
    view = _decode(item.value, View) if item is not None else None
    return Reading(Seen(view, live, released, asserted), keys, registrations)


def incarnation(item: KeyValue) -> str:
    """Whose registration a key holds; empty for what cannot be read, which is nobody's to replace:
    a later release may have written it."""
    found = _decode(item.value, Registration)
    return found.incarnation if found is not None else ""


def comparisons(write: Write, reading: Reading) -> list[Compare]:
    """What must still hold for a view to be written: the view before it, and of every core that
    is or was concerned its very registration, or that there is none."""
    view = write.view
    concerned = {one.identity for one in write.seen.live}
    concerned |= {one.identity for one in view.members} | {past.identity for past in view.base}
    if write.seen.view is not None:
        concerned |= {one.identity for one in write.seen.view.members}
    return [
        unchanged(VIEW_KEY, reading),
        *(unchanged(member_key("core", one), reading) for one in sorted(concerned)),
    ]


def unchanged(key: str, reading: Reading) -> Compare:
    """That a key is as it was read."""
    item = reading.keys.get(key)
    return Compare(key, "mod", item.mod_revision) if item else Compare(key, "create", 0)


def view_put(view: View) -> Put:
    """The view's key."""
    return Put(VIEW_KEY, msgspec.json.encode(view))


def release_put(release: Release, incarnation: str, lease: int) -> Put:
    """The word of one core that it runs nothing but what a view gives it."""
    return Put(RELEASED + incarnation, release.view.name.encode(), lease)


def farewell(identity: str, incarnation: str) -> list[Delete]:
    """What a core takes with it that leaves."""
    return [Delete(member_key("core", identity)), Delete(RELEASED + incarnation)]


def _live(identity: str, registration: Registration) -> Live:
    return Live(
        identity,
        registration.incarnation,
        registration.wish,
        registration.standalone,
        registration.dead,
        registration.remembers,
    )


def _decode(value: bytes, kind: type[T]) -> T | None:
    try:
        return msgspec.json.decode(value, type=kind)
    except msgspec.MsgspecError:
        return None
