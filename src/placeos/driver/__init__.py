"""The driver SDK: all that a driver file imports.

A driver file defines one class::

    from placeos.driver import TCP, Driver, Settings, every

See `docs/writing-a-driver.md`.
"""

from placeos.driver.base import Driver, Logic
from placeos.driver.calls import Reply
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
from placeos.driver.marks import (
    administrator,
    cron,
    every,
    function,
    on,
    rescues,
    support,
    timeout,
)
from placeos.driver.presence import Presence, PresenceSmoother
from placeos.driver.queue import Queue
from placeos.driver.remote import RemoteCall, RemoteModule, RemoteModules
from placeos.driver.schedule import Timer
from placeos.driver.settings import Secret, Settings
from placeos.driver.system import System
from placeos.driver.transports import (
    HTTP,
    SSH,
    TCP,
    UDP,
    Datagram,
    HTTPError,
    Request,
    Response,
    Serial,
    Service,
    WebSocket,
)
from placeos.driver.wake import wake_device

__all__ = [
    "HTTP",
    "SSH",
    "TCP",
    "UDP",
    "BadArguments",
    "Busy",
    "Datagram",
    "Driver",
    "DriverError",
    "HTTPError",
    "Logic",
    "NoReply",
    "Offline",
    "Presence",
    "PresenceSmoother",
    "Queue",
    "RemoteCall",
    "RemoteError",
    "RemoteModule",
    "RemoteModules",
    "Reply",
    "Request",
    "Response",
    "Secret",
    "Serial",
    "Service",
    "Settings",
    "Superseded",
    "System",
    "Timer",
    "WebSocket",
    "Withdrawn",
    "administrator",
    "cron",
    "every",
    "function",
    "on",
    "rescues",
    "support",
    "timeout",
    "wake_device",
]
