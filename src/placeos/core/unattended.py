"""Which modules nobody attends to. Pure: the registry's facts and the time come in."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

from placeos.cluster.view import View, owner

ABSENT: Final = 30.0  # seconds without its registration after which an owner counts as away


@dataclass(slots=True)
class Attendance:
    """Since when members of the present completed view have been away."""

    view: View | None = None
    live: frozenset[str] = frozenset()  # incarnations
    _away: dict[str, float] = field(default_factory=dict)

    def note(self, view: View | None, live: Iterable[str], now: float) -> None:
        """As it is now; `live` are the incarnations of registered cores."""
        self.view = view
        self.live = frozenset(live)
        members = view.members if view is not None else ()
        gone = {one.identity for one in members if one.incarnation not in self.live}
        self._away = {one: self._away.get(one, now) for one in gone}

    def why_unattended(self, module: str, *, running: bool, writer: str, now: float) -> str | None:
        """Why nobody runs a module and its state is nobody's; None: somebody may.

        `writer` is the incarnation that claimed its state last: while that one lives, what it
        wrote stands, and it will see for itself what has to change.
        """
        if writer in self.live or self.view is None:
            return None
        if not running:
            return "stopped"
        responsible = owner(self.view, module)
        if responsible is None:
            return "no eligible core"
        since = self._away.get(responsible)
        return "owner is away" if since is not None and now - since >= ABSENT else None
