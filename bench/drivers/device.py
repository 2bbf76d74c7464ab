"""A device on TCP that sends every line back."""

import os
import time

from placeos.driver import TCP, Driver


class Device(Driver):
    """As small as a driver of a device can be."""

    module_name = "Device"
    transport = TCP(port=1, ends_with=b"\r")

    async def pump(self, seconds: float) -> int:
        """Send commands one after the other for some time; how many were answered."""
        count, end = 0, time.monotonic() + seconds
        while time.monotonic() < end:
            await self.send("ping")
            count += 1
        return count

    def pid(self) -> int:
        """The driver process."""
        return os.getpid()
