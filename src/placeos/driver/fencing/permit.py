"""Whether a module may write to its device now: asked before every write.

The deadline is in the page of this process (see page.py). Without a page, as when a driver is
tried out or tested by itself, nothing is fenced.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from typing import Final
from weakref import WeakKeyDictionary

import msgspec

from placeos.driver.errors import InvalidSettings, LeaseLost
from placeos.driver.fencing.page import EXTENDED, LEASE, Page, now

PLACES: Final = {"extend": EXTENDED, "stop": LEASE}
"""Values of the setting `isolation`: what a module does while etcd is away. `extend` goes on as
long as all other cores agree; `stop`, for a door, say, stops with the lease."""

STRICT: Final = "stop"  # what holds where the setting says nothing that can be understood
LAPSED: Final = "this node has lost its lease: another one may have taken its place"
_LONGEST_WAIT: Final = 3600.0  # seconds; a deadline may be a hundred years away

_clock: Final = time.clock_gettime_ns  # `now` without its call: this is asked with every write
_BOOTTIME: Final = time.CLOCK_BOOTTIME


class _Process:
    """What holds for this whole process."""

    page: Page | None = None


def use(page: Page | None) -> None:
    """Obey this page from now on, also in forked children; None: be fenced by nothing."""
    _Process.page = page


def isolation_of(settings: Mapping[str, msgspec.Raw]) -> str:
    """The setting `isolation`, `extend` unless given. Raises InvalidSettings."""
    raw = settings.get("isolation")
    given = None if raw is None else msgspec.json.decode(raw)
    if given is None:
        return "extend"
    if not isinstance(given, str) or given not in PLACES:
        raise InvalidSettings(f"setting 'isolation': expected one of {', '.join(PLACES)}")
    return given


class Permit:
    """That of one module."""

    __slots__ = ("place",)

    def __init__(self, isolation: str = "extend") -> None:
        self.place = PLACES[isolation]
        """Of its deadline in the page."""

    def set_isolation(self, isolation: str) -> None:
        """Which deadline holds: a key of `PLACES`."""
        self.place = PLACES[isolation]

    def check(self, drop: Callable[[str], None] | None = None) -> None:
        """Raises LeaseLost when nothing may be written; `drop` is told why before."""
        page = _Process.page
        if page is not None and _clock(_BOOTTIME) >= page.deadlines[self.place]:
            if drop is not None:
                drop(LAPSED)
            raise LeaseLost(LAPSED)

    @property
    def valid(self) -> bool:
        """Whether something may be written."""
        page = _Process.page
        return page is None or now() < page.deadlines[self.place]


OPEN: Final = Permit()
"""For what is not a module's."""


class Watch:
    """Tells who holds connections when their deadline passes. Two timers, whatever their number.

    It is what ends a connection that has bytes waiting, or that lives by a library's own
    writes, at a deadline which nobody reaches by a write.
    """

    def __init__(self, page: Page) -> None:
        self._loop = asyncio.get_running_loop()
        self.page = page
        self._held: dict[Callable[[], None], Permit] = {}
        self._timers: dict[int, asyncio.TimerHandle] = {}

    def add(self, permit: Permit, act: Callable[[], None]) -> None:
        """Have `act` called whenever that permit lapses, until `remove(act)`."""
        self._held[act] = permit
        self.resume()

    def remove(self, act: Callable[[], None]) -> None:
        """Harmless when it was not added."""
        self._held.pop(act, None)

    def resume(self) -> None:
        """There is something again that can lapse."""
        for place in PLACES.values():
            if place not in self._timers:
                self._wait(place)

    def _wait(self, place: int) -> None:
        left = (self.page.deadlines[place] - now()) / 1e9
        seconds = min(max(left, 0.0), _LONGEST_WAIT)
        self._timers[place] = self._loop.call_later(seconds, self._look, place)

    def _look(self, place: int) -> None:
        del self._timers[place]
        if self.page.deadlines[place] > now():
            self._wait(place)
            return
        for act, permit in list(self._held.items()):
            if permit.place == place:
                act()


_watches: WeakKeyDictionary[asyncio.AbstractEventLoop, Watch] = WeakKeyDictionary()


def watch() -> Watch | None:
    """That of the running loop; None where nothing is fenced."""
    page = _Process.page
    if page is None:
        return None
    loop = asyncio.get_running_loop()
    found = _watches.get(loop)
    if found is None or found.page is not page:
        found = _watches[loop] = Watch(page)
    return found
