"""What a device says about itself."""

from __future__ import annotations

import random
from abc import abstractmethod
from typing import TYPE_CHECKING, Final

from placeos.driver.interfaces.base import (
    NAMESPACE,
    Interface,
    Record,
    driver_of,
    outcome,
    published,
)
from placeos.driver.marks import every, on

if TYPE_CHECKING:
    from placeos.driver.schedule import Timer

SOON: Final = (5.0, 10.0)  # seconds after connecting, spread so that not all ask at once
AGAIN: Final = 3600.0  # seconds


@published("DeviceInfo::Descriptor")
class Descriptor(Record):
    """A device: maker and product at least."""

    make: str
    model: str
    serial: str | None = None
    firmware: str | None = None
    mac_address: str | None = None
    ip_address: str | None = None
    hostname: str | None = None


class DeviceInfo(Interface):
    """Knows maker, product, serial number and so on of its device.

    The platform asks 5 to 10 seconds after connecting and every hour.
    """

    interface_name = f"{NAMESPACE}::DeviceInfo"
    state_keys = {"device_info": "what `device_info` gave"}

    __soon: Timer | None = None

    @abstractmethod
    async def device_info(self) -> Descriptor:
        """Ask the device."""

    @every(AGAIN)
    async def update_device_info(self) -> Descriptor:
        """Ask the device, and publish what it says."""
        found: Descriptor = await outcome(self.device_info())
        driver_of(self)["device_info"] = found
        return found

    @on("connected")
    def __connected(self, connected: bool | None) -> None:
        if self.__soon is not None:
            self.__soon.cancel()
            self.__soon = None
        if connected:
            seconds = random.uniform(*SOON)  # noqa: S311 - no secret
            self.__soon = driver_of(self).schedule.in_(seconds, self.update_device_info)
