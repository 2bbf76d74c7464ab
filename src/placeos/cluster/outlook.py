"""What a router goes by: the cores and the view of the registry, or a hint until etcd was read."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Final

from placeos.cluster.etcd import EtcdError
from placeos.cluster.hint import Hint, decode
from placeos.cluster.registry import NodeInfo, Registry
from placeos.cluster.view import View

log = logging.getLogger("placeos.cluster")

HINT_AFTER: Final = 1.0  # seconds to wait for etcd before the hint is read, and read again
REREAD: Final = 0.5  # seconds between readings of etcd for a view that a core has and we have not

ViewHint = Callable[[], Awaitable[bytes | None]]
"""Reads what `hint.encode` made of the last view, wherever it is kept."""


class Outlook:
    """`on_change` is called when a hint takes the place of nothing, or etcd that of the hint."""

    def __init__(self, registry: Registry, on_change: Callable[[], None]) -> None:
        self._registry = registry
        self._on_change = on_change
        self._hint: Hint | None = None

    @property
    def view(self) -> View | None:
        """The view to route by; None while none is known."""
        if self._registry.view is not None:
            return self._registry.view
        return self._hint.view if self._hint is not None else None

    @property
    def number(self) -> int:
        """Of the view; 0 while there is none."""
        view = self.view
        return view.number if view is not None else 0

    def cores(self) -> Mapping[str, NodeInfo]:
        """The cores to connect to, by identity."""
        if self._hint is not None:
            return {core.identity: core for core in self._hint.cores}
        return self._registry.nodes("core")

    async def catch_up(self, wanted: Callable[[], int]) -> None:
        """Read etcd, should the watch be silent, until the view is the one that is `wanted`."""
        while wanted() > self.number:
            try:
                await self._registry.refresh()
            except EtcdError as error:
                log.info("newer view not read", extra={"reason": str(error)})
            await asyncio.sleep(REREAD)

    async def use_hint(self, read: ViewHint) -> None:
        """Go by the hint until etcd was read once."""
        told = False
        while not self._registry.loaded.is_set():
            try:
                async with asyncio.timeout(HINT_AFTER):
                    await self._registry.loaded.wait()
            except TimeoutError:
                try:
                    value = await read()
                except Exception as error:  # of whatever client reads it; tried again
                    if not told:
                        log.warning("view hint not read", extra={"reason": str(error)})
                    told = True
                else:
                    self._take(decode(value) if value is not None else None)
        self._take(None)

    def _take(self, hint: Hint | None) -> None:
        if hint != self._hint:
            self._hint = hint
            if hint is not None:
                log.warning("routing by a hint", extra={"view": hint.view.number})
            self._on_change()
