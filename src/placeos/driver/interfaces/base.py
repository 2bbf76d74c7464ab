"""What all standard interfaces are made of."""

from __future__ import annotations

from abc import ABC
from collections.abc import Awaitable, Callable
from enum import Enum
from typing import TYPE_CHECKING, Any, ClassVar, Final, TypeVar, cast

import msgspec

from placeos.driver.schema import TITLES, lower_snake

if TYPE_CHECKING:
    from placeos.driver.base import Driver
    from placeos.driver.settings import Settings

NAMESPACE: Final = "PlaceOS::Driver::Interface"

Index = int | str
"""Which of several outputs, cameras and so on; 0 is the first, or the only one."""

C = TypeVar("C", bound=type[object])


def published(name: str) -> Callable[[C], C]:
    """Give an enum or a record the title under which metadata shows it."""

    def decorate(cls: C) -> C:
        TITLES[cls] = f"{NAMESPACE}::{name}"
        return cls

    return decorate


class Interface(ABC):  # noqa: B024 - what is abstract comes with each interface
    """Base of all interfaces."""

    interface_name: ClassVar[str] = ""
    """The published name; only what has one of its own counts as an interface."""
    state_keys: ClassVar[dict[str, str]] = {}
    """What apps look for in the state, and its meaning. `<index>` stands for any text."""
    optional_state_keys: ClassVar[dict[str, str]] = {}
    """Conventional keys that not every device has."""
    settings_needed: ClassVar[type[Settings] | None] = None
    """A class from which the driver's settings must be derived."""

    async def _interfaces_prepared(self) -> None:  # noqa: B027 - most have nothing to prepare
        """Called after `started` and after each `settings_changed`, whatever became of them."""


class Record(msgspec.Struct):
    """Base of what functions give and take: a member that is None is left out of the JSON.

    Drivers may derive from a record to add members.
    """

    def __json__(self) -> dict[str, object]:
        """Called by `schema.plain`."""
        names = zip(self.__struct_fields__, self.__struct_encode_fields__, strict=True)
        values = {encoded: getattr(self, name) for name, encoded in names}
        config = self.__struct_config__
        tag: dict[str, object] = {config.tag_field: config.tag} if config.tag_field else {}
        return tag | {name: value for name, value in values.items() if value is not None}


class LowerSnake(Enum):
    """Base of enums whose members are written as `out_of_service`, not as they are declared."""

    def __json__(self) -> str:
        """Called by `schema.plain`."""
        return lower_snake(self.name)


def driver_of(interface: Interface) -> Driver[Any]:
    """The same object, as the driver which claims the interface."""
    return cast("Driver[Any]", interface)


async def outcome(result: object) -> Any:
    """What a function gave: a driver may define it with `async def` or with plain `def`."""
    return await result if isinstance(result, Awaitable) else result
