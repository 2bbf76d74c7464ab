"""What interfaces of devices provide: mutes, zoom, pulses, lights, what a device is."""

from __future__ import annotations

import textwrap

import pytest

from placeos.driver.testing import CallError, FakeClock, drive

HEAD = """
    from placeos.driver import TCP, Driver, DriverError, Logic, Settings
    from placeos.driver.interfaces import *


    class Noting:
        def note(self, *what: object) -> None:
            self["done"] = [*self.get("done", []), list(what)]


"""


@pytest.fixture
def driver(write_driver):
    """Writes a driver file from the text of its class."""
    return lambda text: write_driver(HEAD + textwrap.indent(textwrap.dedent(text), "    "))


async def test_mute_and_power(driver):
    file = driver("""
        class Screen(Logic, Noting, Powerable, Muteable):
            def power(self, state: bool) -> None:
                self.note("power", state)

            async def mute(
                self,
                state: bool = True,
                index: int | str = 0,
                layer: MuteLayer = MuteLayer.AudioVideo,
            ) -> bool:
                self.note(state, index, layer)
                return state
    """)
    async with drive(file) as screen:
        await screen.exec("power_state", "full_off")
        await screen.exec("power_state", "On")
        assert await screen.exec("mute_audio") is True
        assert await screen.exec("unmute_video", 2) is False
        assert await screen.exec("unmute", layer="audio") is False
        assert await screen.exec("mute_video", False, "left") is False
        assert await screen.exec("unmute_audio") is False
        assert screen.state["done"] == [
            ["power", False],
            ["power", True],
            [True, 0, "Audio"],
            [False, 2, "Video"],
            [False, 0, "Audio"],
            [False, "left", "Video"],
            [False, 0, "Audio"],
        ]


CAMERA = """
    class Eye(Logic, Noting, Camera):
        async def stop(self, index: int | str = 0, emergency: bool = False) -> None:
            self.note("stop", index)

        async def move(self, position: MoveablePosition, index: int | str = 0) -> None:
            self.note(position, index)

        async def zoom_to(
            self, position: float, auto_focus: bool = True, index: int | str = 0
        ) -> None:
            if position == 42:
                raise DriverError("the lens is stuck")
            self.note(position, index)
            self["zoom" if index == 0 else f"zoom{index}"] = position

        async def joystick(
            self, pan_speed: float, tilt_speed: float, index: int | str = 0
        ) -> None: ...

        async def recall(self, position: str, index: int | str = 0) -> None: ...

        async def save_position(self, name: str, index: int | str = 0) -> None: ...

        async def remove_position(self, name: str, index: int | str = 0) -> None: ...
"""


async def test_zoom(driver):
    async with drive(driver(CAMERA), clock=FakeClock(), state={"zoom": 85, "zoom2": 3}) as eye:
        await eye.exec("zoom", "in")
        await eye.clock.advance(0.6)
        assert eye.state["done"] == [[90, 0], [95, 0], [100, 0]]
        await eye.clock.advance(2)  # it has arrived
        assert eye.state["zoom"] == 100
        assert len(eye.state["done"]) == 3
        await eye.exec("zoom", "out")
        await eye.clock.advance(0.3)
        await eye.exec("zoom", "stop")
        await eye.clock.advance(2)
        assert eye.state["zoom"] == 90
        await eye.exec("zoom", "out", 2)
        await eye.clock.advance(1)
        assert eye.state["zoom2"] == 0
        assert eye.state["done"][-1] == [0, 2]


async def test_zoom_turns_round(driver):
    async with drive(driver(CAMERA), clock=FakeClock(), state={"zoom": 50}) as eye:
        await eye.exec("zoom", "in")
        await eye.clock.advance(0.1)
        await eye.exec("zoom", "out")
        await eye.clock.advance(0.3)
        await eye.exec("zoom", "stop")
        await eye.clock.advance(1)
        assert [position for position, _ in eye.state["done"]] == [55, 50, 45]


async def test_zoom_ends_when_a_step_fails(driver):
    async with drive(driver(CAMERA), clock=FakeClock(), state={"zoom": 32}) as eye:
        await eye.exec("zoom", "in")
        await eye.clock.advance(0.1)
        await eye.clock.advance(5)
        await eye.expect_log("the lens is stuck")
        assert eye.state["done"] == [[37, 0]]
        await eye.exec("zoom", "out")
        await eye.clock.advance(0.1)
        assert eye.state["done"] == [[37, 0], [32, 0]]


async def test_pan_and_tilt(driver):
    async with drive(driver(CAMERA)) as eye:
        for function, direction in (
            ("pan", "left"),
            ("pan", "right"),
            ("pan", "stop"),
            ("tilt", "up"),
            ("tilt", "down"),
            ("tilt", "stop"),
        ):
            await eye.exec(function, direction, 1)
        moved = ["Left", "Right", "stop", "Up", "Down", "stop"]
        assert eye.state["done"] == [[what, 1] for what in moved]


RELAY = """
    class Relays(Logic, Noting, ElectricalRelay):
        async def relay(self, state: bool, index: int = 0) -> None:
            self.note(state, index)
            if index == 9:
                raise DriverError("welded")
            self[f"relay{index}"] = state
"""


async def test_pulse(driver):
    async with drive(driver(RELAY), clock=FakeClock()) as relays:
        await relays.exec("pulse")
        assert relays.state["done"] == [[True, 0]]
        await relays.clock.advance(0.9)
        assert relays.state["relay0"] is True
        await relays.clock.advance(0.2)
        assert relays.state["relay0"] is False
        await relays.clock.advance(10)
        assert relays.state["done"] == [[True, 0], [False, 0]]


async def test_pulses(driver):
    async with drive(driver(RELAY), clock=FakeClock()) as relays:
        await relays.exec("pulse", 500, 3, 3, True)
        await relays.clock.advance(10)
        assert relays.state["done"] == [[False, 3], [True, 3]] * 3
        await relays.exec("pulse", times=0)
        await relays.clock.advance(10)
        assert len(relays.state["done"]) == 6


async def test_a_new_pulse_takes_the_place_of_the_old_one(driver):
    async with drive(driver(RELAY), clock=FakeClock()) as relays:
        await relays.exec("pulse", 1000, 1, 100)
        await relays.exec("pulse", 1000, 2)
        await relays.clock.advance(0.5)
        await relays.exec("pulse", 1000, 1)
        await relays.clock.advance(10)
        assert relays.state["done"] == [[True, 1], [True, 2], [True, 1], [False, 2], [False, 1]]


async def test_a_failed_pulse_only_comes_back(driver):
    async with drive(driver(RELAY), clock=FakeClock()) as relays:
        with pytest.raises(CallError, match="welded"):
            await relays.exec("pulse", 1000, 9, 50)
        await relays.clock.advance(10)
        assert relays.state["done"] == [[True, 9], [False, 9]]


async def test_lighting(driver):
    file = driver("""
        class Dimmer(Logic, LightingLevel):
            async def set_lighting_level(
                self, level: float, area: Area | None = None, fade_time: int = 1000
            ) -> None:
                self[(area or Area(id=1)).level_key] = level
                self["fade"] = fade_time

            async def lighting_level(self, area: Area | None = None) -> float:
                return self[(area or Area(id=1)).level_key]
    """)
    async with drive(file) as dimmer:
        await dimmer.exec("set_lighting", True, {"id": "hall", "channel": 2}, 50)
        assert dimmer.state["areahall_2_level"] == 100
        assert dimmer.state["fade"] == 50
        await dimmer.exec("set_lighting", False)
        assert await dimmer.exec("lighting_level?") == 0


INFO = """
    class Switch(Driver[Settings], DeviceInfo):
        transport = TCP(port=7, ends_with=b"\\n")

        async def device_info(self) -> Descriptor:
            serial = await self.send("serial?")
            return Descriptor(make="Acme", model="S1", serial=serial.decode())
"""


async def test_device_info(driver):
    async with drive(driver(INFO), clock=FakeClock()) as switch:
        switch.device.answers(b"serial?\n", b"4711\n")
        await switch.clock.advance(4.9)
        assert "device_info" not in switch.state
        await switch.clock.advance(5.2)
        assert switch.state["device_info"] == {"make": "Acme", "model": "S1", "serial": "4711"}
        switch.device.answers(b"serial?\n", b"4712\n")
        await switch.clock.advance(3500)
        assert switch.state["device_info"]["serial"] == "4711"
        await switch.clock.advance(100)
        assert switch.state["device_info"]["serial"] == "4712"


async def test_device_info_after_each_connection(driver):
    async with drive(driver(INFO), clock=FakeClock()) as switch:
        switch.device.answers(b"serial?\n", b"4711\n")
        await switch.clock.advance(3)
        await switch.device.hang_up()
        await switch.status("connected", False)
        await switch.clock.advance(60, until=lambda: switch.state["connected"] is True)
        since = switch.clock.passed
        await switch.clock.advance(20, until=lambda: "device_info" in switch.state)
        assert 4.9 < switch.clock.passed - since < 10.1
        assert (await switch.exec("update_device_info"))["serial"] == "4711"
