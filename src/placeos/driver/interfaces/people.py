"""Where people and their things are: location services, lockers."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence

from placeos.driver.errors import DriverError
from placeos.driver.interfaces.base import (
    NAMESPACE,
    Interface,
    Record,
    driver_of,
    outcome,
    published,
)

Id = str | int
"""An id of the system that the driver speaks to."""


class Ownership(Record):
    """Whose a network device is. `location` is the kind of source, such as `wireless`."""

    location: str
    assigned_to: str
    mac_address: str


def bare_mac(address: str) -> str:
    """`00-1A:2b…` → `001a2b…`: how functions about locations write network addresses."""
    return "".join(sign for sign in address.lower() if sign in "0123456789abcdef")


class Locatable(Interface):
    """Knows where people and devices are. Network addresses are written as by `bare_mac`."""

    interface_name = f"{NAMESPACE}::Locatable"

    @abstractmethod
    async def locate_user(
        self, email: str | None = None, username: str | None = None
    ) -> Sequence[object]:
        """The places where a user is; objects with a member `location`, the kind of place."""

    @abstractmethod
    async def macs_assigned_to(
        self, email: str | None = None, username: str | None = None
    ) -> list[str]:
        """The network addresses of a user's devices."""

    @abstractmethod
    async def check_ownership_of(self, mac_address: str) -> Ownership | Mapping[str, object] | None:
        """Whose a device is, None if that is not known."""

    @abstractmethod
    async def device_locations(self, zone_id: str, location: str | None = None) -> Sequence[object]:
        """What is in a zone, or only what is of one kind."""


@published("Lockers::PlaceLocker")
class Locker(Record):
    """A locker. `mac` is unique among all systems and can lead back to who has the locker."""

    bank_id: Id
    locker_id: Id
    locker_name: str  # what is written on it
    location: str = "locker"
    allocated: bool | None = None
    allocation_id: Id | None = None
    expires_at: int | None = None  # unix seconds
    mac: str | None = None
    building: str | None = None  # zone ids
    level: str | None = None


class Lockers(Locatable):
    """Gives out lockers. Users are meant by their id; times are unix seconds.

    The functions for the calling user are provided; a call without a user is refused.
    """

    interface_name = f"{NAMESPACE}::Lockers"

    @abstractmethod
    async def locker_allocate(
        self,
        user_id: str,
        bank_id: Id,
        locker_id: Id | None = None,
        expires_at: int | None = None,
    ) -> Locker:
        """Give a user a locker, any free one of the bank if none is named."""

    @abstractmethod
    async def locker_release(
        self, bank_id: Id, locker_id: Id, owner_id: str | None = None
    ) -> object:
        """Take a locker back, from one user or from all."""

    @abstractmethod
    async def lockers_allocated_to(self, user_id: str) -> Sequence[Locker]:
        """The lockers a user has."""

    @abstractmethod
    async def locker_share(
        self, bank_id: Id, locker_id: Id, owner_id: str, share_with: str
    ) -> object:
        """Let another user use the locker too."""

    @abstractmethod
    async def locker_unshare(
        self, bank_id: Id, locker_id: Id, owner_id: str, shared_with_id: str | None = None
    ) -> object:
        """End the sharing, with one user or with all."""

    @abstractmethod
    async def locker_shared_with(self, bank_id: Id, locker_id: Id, owner_id: str) -> list[str]:
        """Ids or addresses of those a locker is shared with."""

    @abstractmethod
    async def locker_unlock(
        self, bank_id: Id, locker_id: Id, owner_id: str | None = None, open_time: int = 60
    ) -> object:
        """Open a locker, for `open_time` seconds if it can be told."""

    async def locker_allocate_me(
        self, bank_id: Id, locker_id: Id | None = None, expires_at: int | None = None
    ) -> object:
        """Give the calling user a locker."""
        user = _calling_user(self)
        return await outcome(self.locker_allocate(user, bank_id, locker_id, expires_at))

    async def locker_release_mine(self, bank_id: Id, locker_id: Id) -> object:
        """Take a locker back from the calling user."""
        return await outcome(self.locker_release(bank_id, locker_id, _calling_user(self)))

    async def lockers_allocated_to_me(self) -> object:
        """The lockers of the calling user."""
        return await outcome(self.lockers_allocated_to(_calling_user(self)))

    async def locker_share_mine(self, bank_id: Id, locker_id: Id, share_with: str) -> object:
        """Let another user use the calling user's locker too."""
        user = _calling_user(self)
        return await outcome(self.locker_share(bank_id, locker_id, user, share_with))

    async def locker_unshare_mine(
        self, bank_id: Id, locker_id: Id, shared_with_id: str | None = None
    ) -> object:
        """End the sharing of the calling user's locker."""
        user = _calling_user(self)
        return await outcome(self.locker_unshare(bank_id, locker_id, user, shared_with_id))

    async def locker_shared_with_others(self, bank_id: Id, locker_id: Id) -> object:
        """Those the calling user's locker is shared with."""
        return await outcome(self.locker_shared_with(bank_id, locker_id, _calling_user(self)))

    async def locker_unlock_mine(self, bank_id: Id, locker_id: Id, open_time: int = 60) -> object:
        """Open the calling user's locker."""
        user = _calling_user(self)
        return await outcome(self.locker_unlock(bank_id, locker_id, user, open_time))


def _calling_user(lockers: Lockers) -> str:
    user = driver_of(lockers).user
    if user is None:
        raise DriverError("this is about the calling user, and no user made this call", code=403)
    return user
