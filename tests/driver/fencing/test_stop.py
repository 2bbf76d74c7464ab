"""A stopped module's connection is closed within a second, whatever its driver does.

The hooks here hang for eight seconds; that is what ends the driver process of a test.
"""

from __future__ import annotations

import asyncio
import time

import pytest

from placeos.driver.testing import ScriptedDevice, drive

HANGS = """
    import asyncio, time
    from placeos.driver import TCP, Driver

    class Hangs(Driver):
        transport = TCP(port=9, ends_with=b"\\r")

        async def {hook}(self) -> None:
            end = time.monotonic() + 8
            while time.monotonic() < end:
                try:
                    await asyncio.sleep(8)
                except asyncio.CancelledError:
                    print("not now", flush=True)
"""


LONG = [pytest.param(hook, marks=pytest.mark.long) for hook in ("connected", "started", "login")]


@pytest.mark.parametrize("hook", ["stopped", "disconnected", *LONG])
async def test_hooks_that_never_end(write_driver, hook):
    device = ScriptedDevice()
    file = write_driver(HANGS.format(hook=hook))
    async with drive(file, device=device, connected=False) as module:
        async with asyncio.timeout(10):  # `started` may take six seconds
            while not device.connections:
                await asyncio.sleep(0.01)
        began = time.monotonic()
        stopping = asyncio.create_task(module.stop())
        await device.should_hang_up()
        assert time.monotonic() - began < 1.2
        await stopping
        assert time.monotonic() - began < 2.2
