"""Doors, access zones, guests."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, Final

from placeos.driver import clock
from placeos.driver.interfaces.base import (
    NAMESPACE,
    Interface,
    LowerSnake,
    Record,
    driver_of,
    published,
)
from placeos.driver.interfaces.people import Id
from placeos.driver.marks import function
from placeos.driver.schema import encode

DOOR_EVENTS: Final = "security/event/door"


class Door(Record):
    """A door that can be unlocked."""

    door_id: str
    description: str | None = None


@published("DoorSecurity::Action")
class DoorAction(LowerSnake):
    """What happened at a door."""

    Granted = 0
    Denied = 1
    Tamper = 2
    Duress = 3
    ForcedDoor = 4
    SecurityBreach = 5
    RequestToExit = 6


class DoorEvent(Record):
    """Something that happened at a door, as it is published."""

    module_id: str
    security_system: str
    door_id: str
    timestamp: int  # unix seconds
    action: DoorAction
    card_id: str | None = None
    user_name: str | None = None
    user_email: str | None = None


class DoorSecurity(Interface):
    """Knows doors, and tells what happens at them on the channel `security/event/door`."""

    interface_name = f"{NAMESPACE}::DoorSecurity"

    @abstractmethod
    async def door_list(self) -> Sequence[Door]:
        """All doors."""

    @abstractmethod
    async def unlock(self, door_id: str) -> bool | None:
        """Unlock a door: whether that worked, None if it cannot be done."""

    def _publish_door_event(
        self,
        security_system: str,
        door_id: str,
        action: DoorAction,
        *,
        card_id: str | None = None,
        user_name: str | None = None,
        user_email: str | None = None,
        timestamp: int | None = None,
    ) -> None:
        """Tell everyone what happened at a door; without a time it happened now."""
        driver = driver_of(self)
        event = DoorEvent(
            module_id=driver.config.id,
            security_system=security_system,
            door_id=door_id,
            timestamp=int(clock.now()) if timestamp is None else timestamp,
            action=action,
            card_id=card_id,
            user_name=user_name,
            user_email=user_email,
        )
        driver.publish(DOOR_EVENTS, encode(event).decode())


class CardHolder(Record):
    """A person as the security system knows it."""

    id: Id
    name: str
    email: str | None = None


class AccessZone(Record):
    """A group of doors that a person can be let through."""

    id: Id
    name: str
    description: str | None = None


class ZoneAccessSecurity(Interface):
    """Lets people into zones. Times are unix seconds; a result of None is none found."""

    interface_name = f"{NAMESPACE}::ZoneAccessSecurity"

    @abstractmethod
    async def card_holder_id_lookup(self, email: str) -> Id | None:
        """The id of a person."""

    @abstractmethod
    async def card_holder_lookup(self, id: Id) -> CardHolder | None:
        """A person."""

    @abstractmethod
    async def zone_access_id_lookup(self, name: str, exact_match: bool = True) -> Id | None:
        """The id of a zone."""

    @abstractmethod
    async def zone_access_lookup(self, id: Id) -> AccessZone | None:
        """A zone."""

    @abstractmethod
    @function(name="zone_access_member?")
    async def zone_access_member(
        self,
        zone_id: Id,
        card_holder_id: Id,
        from_unix: int | None = None,
        until_unix: int | None = None,
    ) -> Id | None:
        """The id under which a person may enter a zone, None if it may not."""

    @abstractmethod
    async def zone_access_add_member(
        self,
        zone_id: Id,
        card_holder_id: Id,
        from_unix: int | None = None,
        until_unix: int | None = None,
    ) -> object:
        """Let a person into a zone, from then until then."""

    @abstractmethod
    async def zone_access_remove_member(
        self,
        zone_id: Id,
        card_holder_id: Id,
        from_unix: int | None = None,
        until_unix: int | None = None,
    ) -> object:
        """Take that back."""


class AccessDetails(Record):
    """What lets a guest in, and what is needed to take it back. Derive from it to add members."""

    user_id: str | None = None
    permission_id: str | None = None
    card_number: int | None = None
    card_facility: int | None = None


class GuestBuildingAccess(Interface):
    """Lets guests into the building. Times are unix seconds."""

    interface_name = f"{NAMESPACE}::GuestBuildingAccess"

    @abstractmethod
    async def grant_guest_access(
        self, name: str, email: str, starting: int, ending: int
    ) -> AccessDetails:
        """Let a guest in. A member of the result may be text in hexadecimal for a QR code."""

    @abstractmethod
    async def revoke_guest_access(self, details: Any) -> object:
        """Take it back; `details` is what `grant_guest_access` gave."""

    @abstractmethod
    @function(name="guest_access_configured?")
    async def guest_access_configured(self) -> bool:
        """Whether guests can be let in."""
