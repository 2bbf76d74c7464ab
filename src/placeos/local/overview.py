"""Asks the running platform how its modules are."""

from __future__ import annotations

from typing import TypeVar

import httpx
import msgspec

from placeos.local.view import Modules

_AT_MOST = 10_000
_NAMED = 3
_T = TypeVar("_T")


class _Module(msgspec.Struct):
    id: str
    name: str = ""
    custom_name: str | None = None
    connected: bool = True


class _System(msgspec.Struct):
    name: str
    modules: list[str] = []


class ModuleWatch:
    """Asks the API, keeping the last answer while it cannot be had."""

    def __init__(self, url: str, api_key: str) -> None:
        self._client = httpx.AsyncClient(
            base_url=url, headers={"X-API-Key": api_key}, timeout=5, trust_env=False
        )
        self._last = Modules()

    async def ask(self) -> Modules:
        """How many of the modules that should run are connected."""
        try:
            modules = await self._list("modules", list[_Module], running="true")
            missing = any(not module.connected for module in modules)
            systems = await self._list("systems", list[_System]) if missing else []
            self._last = count(modules, systems)
        except (httpx.HTTPError, msgspec.DecodeError):
            self._last = msgspec.structs.replace(self._last, known=False)
        return self._last

    async def _list(self, what: str, type: type[_T], **query: str) -> _T:
        answer = await self._client.get(
            f"/api/engine/v2/{what}", params={"limit": _AT_MOST, **query}
        )
        return msgspec.json.decode(answer.raise_for_status().content, type=type)

    async def close(self) -> None:
        """Close the connection."""
        await self._client.aclose()


def count(modules: list[_Module], systems: list[_System]) -> Modules:
    """Count, and name a few that are not connected, with their rooms."""
    rooms = {module: system.name for system in systems for module in system.modules}
    missing = [module for module in modules if not module.connected]
    names = sorted(
        f"{rooms.get(module.id, '')} {module.custom_name or module.name or module.id}".strip()
        for module in missing
    )
    more = (f"{len(names) - _NAMED} more",) if len(names) > _NAMED else ()
    return Modules(
        running=len(modules),
        connected=len(modules) - len(missing),
        missing=(*names[:_NAMED], *more),
        known=True,
    )
