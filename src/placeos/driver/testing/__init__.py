"""A pytest harness: one driver file in a real driver process, with a scripted device.

::

    async def test_power() -> None:
        async with drive(Path(__file__).with_name("projector.py")) as projector:
            call = projector.exec("power", True)
            await projector.should_send(b"%1POWR 1\\r")
            await projector.responds(b"%1POWR=OK\\r")
            assert await call is True
            await projector.status("power", True)

Process, link and connection are the real ones; only core and the device are played. Nothing
sleeps: everything waits for what it expects, with a time limit. With a `FakeClock` hours
pass in a moment.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from placeos.driver.testing.clock import FakeClock
from placeos.driver.testing.devices import ScriptedDevice, ScriptedUDP
from placeos.driver.testing.harness import drive
from placeos.driver.testing.http import HTTPRequest, HTTPResponse, ScriptedHTTP
from placeos.driver.testing.module import TestedModule
from placeos.driver.testing.serial import ScriptedSerial
from placeos.driver.testing.system import FakeModule
from placeos.driver.testing.websocket import ScriptedWebSocket
from placeos.wire.errors import CallError
from placeos.wire.messages import SystemRecord

if TYPE_CHECKING:
    from placeos.driver.testing.ssh import ScriptedSSH

__all__ = [
    "CallError",
    "FakeClock",
    "FakeModule",
    "HTTPRequest",
    "HTTPResponse",
    "ScriptedDevice",
    "ScriptedHTTP",
    "ScriptedSSH",
    "ScriptedSerial",
    "ScriptedUDP",
    "ScriptedWebSocket",
    "SystemRecord",
    "TestedModule",
    "drive",
]


def __getattr__(name: str) -> Any:
    if name == "ScriptedSSH":  # its library takes long to load, and few tests need it
        from placeos.driver.testing.ssh import ScriptedSSH

        return ScriptedSSH
    raise AttributeError(name)
