"""Following the logs of modules through whichever core owns them."""

from __future__ import annotations

import logging
from collections.abc import Callable

from placeos.wire.frame import Command, Header
from placeos.wire.link import Link

log = logging.getLogger("placeos.cluster")

OnLine = Callable[[bytes], None]


class _Watch:
    __slots__ = ("link", "listeners")

    def __init__(self) -> None:
        self.listeners: dict[object, OnLine] = {}
        self.link: Link | None = None  # the link that was told DEBUG


class Logs:
    """Sends DEBUG once per module and link, and spreads the lines."""

    def __init__(self, find: Callable[[str], Link | None]) -> None:
        self._find = find
        self._watches: dict[str, _Watch] = {}

    def watch(self, module_id: str, on_line: OnLine) -> Callable[[], None]:
        """Follow one module; returns a stop function."""
        watch = self._watches.get(module_id)
        if watch is None:
            watch = self._watches[module_id] = _Watch()
        token = object()
        watch.listeners[token] = on_line
        self._tell(module_id, watch)

        def stop() -> None:
            watch.listeners.pop(token, None)
            if not watch.listeners and self._watches.get(module_id) is watch:
                del self._watches[module_id]
                if watch.link is not None and watch.link.is_open:
                    watch.link.send(Header(Command.IGNORE, module=module_id))

        return stop

    def check(self) -> None:
        """Owners or links changed: tell those that do not know yet."""
        for module_id, watch in self._watches.items():
            self._tell(module_id, watch)

    def _tell(self, module_id: str, watch: _Watch) -> None:
        link = self._find(module_id)
        if link is None or link is watch.link:
            return
        if watch.link is not None and watch.link.is_open:
            watch.link.send(Header(Command.IGNORE, module=module_id))
        watch.link = link
        link.send(Header(Command.DEBUG, module=module_id))

    def frame(self, header: Header, payload: bytes) -> None:
        """A frame from a core that is no answer."""
        if header.command != Command.LOG:
            return
        watch = self._watches.get(header.module)
        if watch is None:
            return
        for on_line in tuple(watch.listeners.values()):
            try:
                on_line(payload)
            except Exception:
                log.exception("a log listener failed")
