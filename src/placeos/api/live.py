"""Modules as they are now: stored records joined with live state."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from placeos.api.call import Call
from placeos.api.resource import View, view
from placeos.model.driver import Role
from placeos.model.module import Module
from placeos.state import keys
from placeos.state.client import UNAVAILABLE

log = logging.getLogger("placeos.api")


async def module_views(call: Call, modules: Sequence[Module]) -> list[View]:
    """Modules with `connected` from live state: a module that runs is connected unless its
    status says the opposite; one that does not run, and a logic module, always is."""
    disconnected = await _disconnected(call, [one.id for one in modules if _can_be_off(one)])
    views = []
    for module in modules:
        shown = view(module)
        shown["connected"] = module.id not in disconnected
        views.append(shown)
    return views


def _can_be_off(module: Module) -> bool:
    return module.running and module.role != Role.LOGIC


async def _disconnected(call: Call, ids: Sequence[str]) -> set[str]:
    if not ids:
        return set()
    pipeline = call.services.redis.pipeline(transaction=False)
    for id in ids:
        pipeline.hget(keys.status(id), "connected")
    try:
        found = await pipeline.execute()
    except UNAVAILABLE as error:
        log.warning("live state unknown", extra={"why": str(error)})
        return set()
    return {id for id, value in zip(ids, found, strict=True) if value == b"false"}
