"""The driver SDK: all that a driver file imports.

A driver file defines one class::

    from placeos.driver import TCP, Driver, Settings, every

See `docs/writing-a-driver.md`.
"""

from placeos.driver.base import Driver, Logic
from placeos.driver.errors import (
    BadArguments,
    Busy,
    DriverError,
    NoReply,
    Offline,
    RemoteError,
    Superseded,
    Withdrawn,
)
from placeos.driver.marks import administrator, every, function, on, support, timeout
from placeos.driver.settings import Settings
from placeos.driver.transport import TCP

__all__ = [
    "TCP",
    "BadArguments",
    "Busy",
    "Driver",
    "DriverError",
    "Logic",
    "NoReply",
    "Offline",
    "RemoteError",
    "Settings",
    "Superseded",
    "Withdrawn",
    "administrator",
    "every",
    "function",
    "on",
    "support",
    "timeout",
]
