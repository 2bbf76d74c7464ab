"""A part of a driver that waits for something which is cancelled: it fails, and is called again."""

from __future__ import annotations

from placeos.driver.testing import FakeClock, ScriptedDevice, drive

WAITS = """
    import asyncio
    from placeos.driver import TCP, Driver, Settings, every, on

    async def cancelled():
        future = asyncio.get_running_loop().create_future()
        future.cancel()
        await future

    class Waits(Driver[Settings]):
        transport = TCP(port=1, ends_with=b"\\n")
        rounds = 0
        logins = 0

        async def login(self):
            self.logins += 1
            if self.logins == 1:
                await cancelled()

        async def started(self):
            await cancelled()

        async def stopped(self):
            await cancelled()

        @every(10)
        async def tick(self):
            self.rounds += 1
            self["rounds"] = self.rounds
            if self.rounds == 2:
                await cancelled()

        @on("value")
        async def _value(self, value):
            if value == "cancelled":
                await cancelled()
            self["seen"] = value

        async def received(self, data):
            if data == b"cancelled":
                await cancelled()
            self["received"] = data.decode()

        async def follow(self):
            self.monitor("channel", self._heard)

        async def _heard(self, text):
            if text == "cancelled":
                await cancelled()
            self["heard"] = text

        async def set(self, value: str):
            self["value"] = value
"""


async def test_hooks_handlers_and_timers(write_driver) -> None:
    device = ScriptedDevice()
    async with drive(write_driver(WAITS), device=device, clock=FakeClock()) as waits:
        await waits.fault("started: CancelledError")
        await waits.expect_log("login failed")
        await waits.exec("follow")
        for text in ("cancelled", "fine"):
            await waits.exec("set", text)
            await waits.responds(text.encode() + b"\n")
            waits.publish("channel", text)
            await waits.clock.settle()
        for key in ("seen", "received", "heard"):
            await waits.status(key, "fine")
        await waits.clock.advance(30)
        assert waits.state["rounds"] == 3
        for part in ("_value", "received", "monitor channel", "tick"):
            await waits.fault(f"{part}: CancelledError")


async def test_stopping(write_driver) -> None:
    async with drive(write_driver(WAITS)) as waits:
        await waits.stop()
        await waits.fault("stopped: CancelledError")
