"""The last view and the cores of it, kept in Redis for callers that start while etcd is away.

Only a hint for routing: a core that is asked for a module that is not its own says so.
Ownership never comes from here.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Final

import msgspec

from placeos.cluster.registry import NodeInfo
from placeos.cluster.view import View

log = logging.getLogger("placeos.cluster")

VIEW_HINT_KEY: Final = "placeos/view"  # in Redis


class Hint(msgspec.Struct, frozen=True):
    """What a router needs: who owns what, and where that core listens."""

    view: View
    cores: tuple[NodeInfo, ...]


def encode(view: View, cores: Iterable[NodeInfo]) -> bytes:
    """The value of `VIEW_HINT_KEY`."""
    members = {member.identity for member in view.members}
    known = tuple(core for core in cores if core.identity in members)
    return msgspec.json.encode(Hint(view, known))


def decode(value: bytes) -> Hint | None:
    """What was written there; None if it cannot be read, as by another version."""
    try:
        return msgspec.json.decode(value, type=Hint)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
        log.warning("view hint unreadable", extra={"reason": str(error)})
        return None
