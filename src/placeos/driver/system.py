"""A system (room), and the other modules in it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from placeos.driver.remote import (
    Asker,
    Interfaces,
    Place,
    RemoteModule,
    RemoteModules,
    interface_names,
    offers,
    split_name,
)
from placeos.wire.messages import SystemModule, SystemRecord

if TYPE_CHECKING:
    from collections.abc import Callable

    from placeos.driver.follow import End, Handler

__all__ = ["System"]

_RECORDED = frozenset(SystemRecord.__struct_fields__)


class System:
    """`self.system` of a logic module, or what `system_by_id` gives.

    What an administrator wrote about the system can be read: `system.capacity`.
    """

    __slots__ = ("_asker", "record")

    if TYPE_CHECKING:
        id: str
        name: str
        display_name: str | None
        description: str
        email: str | None
        features: list[str]
        bookable: bool
        capacity: int
        zones: list[str]
        code: str | None
        type: str | None
        map_id: str | None
        timezone: str | None
        support_url: str
        images: list[str]
        security_groups: list[str]
    else:

        def __getattr__(self, name: str) -> Any:
            if name in _RECORDED:
                return getattr(self.record, name)
            raise AttributeError(f"a system has no {name!r}")

    def __init__(self, asker: Asker, record: SystemRecord) -> None:
        self._asker = asker
        self.record = record

    def __getitem__(self, module: str) -> RemoteModule:
        """`system["Display_2"]`; whether it exists shows when it is used."""
        return RemoteModule(self._asker, Place(self.record.id, *split_name(module)))

    def all(self, name: str, *, implementing: Interfaces = ()) -> RemoteModules:
        """All modules of that name in their order, or those of them with an interface."""
        wanted = interface_names(implementing)
        return self._select(f"all({name!r})", lambda m: m.name == name and offers(m, wanted))

    def implementing(self, what: Interfaces) -> RemoteModules:
        """All modules with that interface (`Powerable`), or with a function of that name; of
        several, all of them. Raises DriverError for what is no interface."""
        wanted = interface_names(what)
        return self._select(f"implementing({', '.join(wanted)})", lambda m: offers(m, wanted))

    def subscribe(self, module: str, key: str, handler: Handler) -> End:
        """Call `handler` with the present value of a status of `Display_1` and every new one
        (see `RemoteModule.subscribe`). Returns what ends it."""
        return self[module].subscribe(key, handler)

    async def exists(self, module: str) -> bool:
        """Whether the system has such a module."""
        place = split_name(module)
        return any((m.name, m.index) == place for m in await self._modules())

    async def count(self, name: str) -> int:
        """How many modules of that name the system has."""
        return sum(module.name == name for module in await self._modules())

    async def names(self) -> list[str]:
        """The names of its modules, each once: `["Display", "Switcher"]`."""
        return list(dict.fromkeys(module.name for module in await self._modules()))

    async def _modules(self, seconds: float | None = None) -> list[SystemModule]:
        return (await self._asker.platform.system(self.record.id, seconds)).modules

    def _select(self, label: str, wanted: Callable[[SystemModule], bool]) -> RemoteModules:
        async def find(seconds: float | None) -> list[RemoteModule]:
            return [
                RemoteModule(self._asker, Place(self.record.id, m.name, m.index), m.id, seconds)
                for m in await self._modules(seconds)
                if wanted(m)
            ]

        return RemoteModules(self._asker, label, find)

    def __repr__(self) -> str:
        return f"<system {self.record.id}>"
