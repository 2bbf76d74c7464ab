"""The view: one numbered record of who is a member and so who owns what."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Final

import msgspec

from placeos.cluster import ownership

VIEW_KEY: Final = "placeos/core/view"


class NodeInfo(msgspec.Struct, frozen=True):
    """A registered instance of a service, as its key in etcd tells."""

    service: str
    identity: str
    incarnation: str
    address: str  # host:port of its link listener or HTTP server
    version: str = ""
    zone: str = ""
    revision: int = 0  # of the key: grows when another incarnation takes it


class ViewMember(msgspec.Struct, frozen=True):
    """One member of a view. `eligible` members own modules."""

    identity: str
    incarnation: str
    eligible: bool = True
    standalone: bool = False


class View(msgspec.Struct, frozen=True):
    """The record at `placeos/core/view`. Numbers grow by one within an epoch.

    What became of members that left, and the number of the last completed view, join here
    together with the hand-over between cores.
    """

    epoch: str
    number: int
    members: tuple[ViewMember, ...] = ()
    exceptions: dict[str, str] = {}

    @property
    def eligible(self) -> tuple[str, ...]:
        """Identities of those that own modules."""
        return tuple(member.identity for member in self.members if member.eligible)


def owner(view: View, module_id: str) -> str | None:
    """Identity of the core that owns a module (or a system's lookup table) in this view."""
    return ownership.with_exceptions(module_id, view.eligible, view.exceptions)


def owners(
    view: View, module_ids: Sequence[str], hashes: ownership.Hashes | None = None
) -> list[str]:
    """Owners of many modules at once; an empty list when nobody is eligible."""
    eligible = view.eligible
    if not eligible:
        return []
    if hashes is None:
        hashes = ownership.hash_modules(module_ids)
    found = [eligible[position] for position in ownership.owners(hashes, eligible)]
    if view.exceptions:
        for position, module_id in enumerate(module_ids):
            wanted = view.exceptions.get(module_id)
            if wanted is not None and wanted in eligible:
                found[position] = wanted
    return found


def successor(view: View | None, live: Iterable[NodeInfo], *, epoch: str) -> View | None:
    """The view that should follow, or None when the live members are those of `view`.

    `epoch` names the first view of an installation; later ones keep theirs.
    """
    members = tuple(
        ViewMember(node.identity, node.incarnation)
        for node in sorted(live, key=lambda node: node.identity)
    )
    if view is None:
        return View(epoch=epoch, number=1, members=members) if members else None
    if not members or _same(view.members, members):
        return None  # nobody left to serve a view: keep the last one
    return msgspec.structs.replace(view, number=view.number + 1, members=members)


def _same(present: Sequence[ViewMember], live: Sequence[ViewMember]) -> bool:
    return {(one.identity, one.incarnation) for one in present} == {
        (one.identity, one.incarnation) for one in live
    }


def difference(
    view: View | None, live: Mapping[str, NodeInfo]
) -> tuple[list[ViewMember], list[NodeInfo]]:
    """Members dropped from and nodes added to the view, by identity and incarnation."""
    present = {(one.identity, one.incarnation): one for one in (view.members if view else ())}
    now = {(one.identity, one.incarnation): one for one in live.values()}
    dropped = [member for pair, member in present.items() if pair not in now]
    added = [node for pair, node in now.items() if pair not in present]
    return dropped, added
