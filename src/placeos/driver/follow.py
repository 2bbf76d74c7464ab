"""What a module follows: its own state, the state of other modules, text channels."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Protocol

import msgspec

from placeos.driver.health import Health
from placeos.driver.remote import split_name
from placeos.driver.schedule import Spawn
from placeos.driver.state import Changes, State
from placeos.driver.watch import Delivery

Handler = Callable[[Any], Awaitable[object] | None]
End = Callable[[], None]


class Source(Protocol):
    """Where values of other modules and texts come from (see upstream.py)."""

    def bind(
        self,
        module: str,
        system: str,
        name: str,
        index: int,
        key: str,
        on_value: Callable[[bytes], None],
    ) -> End: ...

    def monitor(self, module: str, channel: str, on_text: Callable[[str], None]) -> End: ...


class Subscriptions:
    """One set of them, which can be ended together: those that a driver's decorators declare,
    or those that its code makes. Ended ones deliver nothing more."""

    __slots__ = ("_ends", "_health", "_module", "_own", "_source", "_spawn", "_state")

    def __init__(
        self, module: str, source: Source, state: State, spawn: Spawn, health: Health
    ) -> None:
        self._module = module
        self._source = source
        self._state = state
        self._spawn = spawn
        self._health = health
        self._own: dict[str, list[Delivery]] = {}
        self._ends: dict[End, None] = {}

    def own(self, key: str, handler: Handler, name: str = "") -> End:
        """Follow the module's own state: the present value, then every new one."""
        delivery = self._delivery(handler, name or f"subscription to {key}", newest=True)
        listeners = self._own.setdefault(key, [])
        listeners.append(delivery)
        delivery(self._state.get(key))
        return self._kept(lambda: listeners.remove(delivery), delivery)

    def other(self, system: str, module: str, key: str, handler: Handler, name: str = "") -> End:
        """Follow a status of `Display_1` of a system, whichever module that is at the time."""
        delivery = self._delivery(handler, name or f"subscription to {module}.{key}", newest=True)
        base, index = split_name(module)
        end = self._source.bind(
            self._module,
            system,
            base,
            index,
            key,
            lambda text: delivery(msgspec.json.decode(text)),
        )
        return self._kept(end, delivery)

    def channel(self, channel: str, handler: Handler) -> End:
        """Follow a text channel."""
        delivery = self._delivery(handler, f"monitor {channel}", newest=False)
        return self._kept(self._source.monitor(self._module, channel, delivery), delivery)

    def published(self, changes: Changes) -> None:
        """The module's own state changed (or was signalled)."""
        for key, text in changes if self._own else ():
            for delivery in self._own.get(key, ()):
                delivery(msgspec.json.decode(text))

    def clear(self) -> None:
        """End all of them."""
        for end in list(self._ends):
            end()

    def _delivery(self, handler: Handler, name: str, *, newest: bool) -> Delivery:
        return Delivery(handler, name, self._spawn, self._health, newest=newest)

    def _kept(self, end: End, delivery: Delivery) -> End:
        def ended() -> None:
            if ended in self._ends:
                del self._ends[ended]
                delivery.close()
                end()

        self._ends[ended] = None
        return ended
