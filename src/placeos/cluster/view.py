"""The view: one numbered record of who is a member and so who owns what."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Literal

import msgspec

from placeos.cluster import ownership

VIEW_KEY: Final = "placeos/core/view"

Fate = Literal["", "left", "lost", "dead"]
"""What became of a member since the last completed view: it is still there; it handed over
and left; its lease ran out; it is proven to run no more."""


class Member(msgspec.Struct, frozen=True):
    """One member of a view. `eligible` members own modules."""

    identity: str
    incarnation: str
    eligible: bool = True
    standalone: bool = False
    """It is alone and goes on without etcd for ever: nobody takes its place unasked."""


class Past(msgspec.Struct, frozen=True):
    """A member of the last completed view, and what became of it."""

    identity: str
    incarnation: str
    standalone: bool = False
    fate: Fate = ""


class View(msgspec.Struct, frozen=True):
    """The record at `placeos/core/view`. Numbers grow by one within an epoch.

    Once every member has released a view it is completed, and only then its owners start what
    it gives them. `base` are the members of the last completed view – of this one, once it is.
    """

    epoch: str
    number: int
    members: tuple[Member, ...] = ()
    completed: bool = False
    base: tuple[Past, ...] = ()
    exceptions: tuple[tuple[str, str], ...] = ()
    """Module, identity of the member that owns it as long as that is eligible."""

    @property
    def name(self) -> str:
        """Tells it from every view that gives anything to anybody else: where etcd lost its
        data a number may be given twice."""
        content = msgspec.json.encode((self.members, self.exceptions))
        return f"{self.number}-{ownership.digest(content):016x}"

    @property
    def progress(self) -> int:
        """Grows when a view is written and when it is completed."""
        return 2 * self.number + self.completed

    @property
    def eligible(self) -> tuple[str, ...]:
        """Identities of those that own modules."""
        return tuple(member.identity for member in self.members if member.eligible)

    def member(self, incarnation: str) -> Member | None:
        """The member of this incarnation."""
        return next((one for one in self.members if one.incarnation == incarnation), None)


def owner(view: View, record: str) -> str | None:
    """Identity of the core that owns a module (or a system's lookup table) in this view."""
    return ownership.with_exceptions(record, view.eligible, dict(view.exceptions))


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
    exceptions = dict(view.exceptions)
    if exceptions:
        for position, module_id in enumerate(module_ids):
            wanted = exceptions.get(module_id)
            if wanted is not None and wanted in eligible:
                found[position] = wanted
    return found
