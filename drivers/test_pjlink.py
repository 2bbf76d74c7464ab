"""The projector driver, against what the PJLink specification says a projector answers."""

import hashlib
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from placeos.driver.testing import CallError, ScriptedDevice, TestedModule, drive

FILE = Path(__file__).with_name("pjlink.py")

STANDBY = {
    "CLSS": "1",
    "POWR": "0",
    "ERST": "000000",
    "LAMP": "812 0",
    "NAME": "Projector",
    "INF1": "Acme",
    "INF2": "Beamer",
    "INPT": "ERR3",
    "AVMT": "ERR3",
}


def answer(device: ScriptedDevice, **values: str) -> None:
    """What queries are answered with from now on."""
    for body, value in values.items():
        device.answers(f"%1{body} ?\r".encode(), f"%1{body}={value}\r".encode())


@asynccontextmanager
async def projector(poll_every: float = 0.1, **values: str) -> AsyncIterator[TestedModule]:
    """A projector without a password, in standby unless told otherwise."""
    device = ScriptedDevice()
    device.greets(b"PJLINK 0\r")
    answer(device, **STANDBY | values)
    async with drive(FILE, settings={"poll_every": poll_every}, device=device) as module:
        yield module


async def test_reads_everything_after_connecting() -> None:
    async with projector(POWR="1", INPT="31", AVMT="21", ERST="002010", LAMP="812 1") as display:
        await display.status("model", "Beamer")
        expected = {
            "connected": True,
            "pjlink_class": 1,
            "power": True,
            "power_state": "on",
            "warming": False,
            "cooling": False,
            "input": "digital1",
            "mute": False,
            "audio_mute": True,
            "video_mute": False,
            "errors": {"temperature": "error", "filter": "warning"},
            "lamp_hours": 812,
            "device_name": "Projector",
            "manufacturer": "Acme",
            "model": "Beamer",
        }
        assert display.state == expected


async def test_warm_up() -> None:
    async with projector() as display:
        await display.status("power", False)
        call = display.exec("power", True)
        await display.should_send(b"%1POWR 1\r")
        answer(display.device, POWR="3")
        await display.responds(b"%1POWR=OK\r")
        assert await call is True
        assert display.state["warming"] is True
        assert display.state["power"] is True
        # too early: remembered, and sent once the lamp is lit
        call = display.exec("switch_to", "digital2")
        await display.should_send(b"%1INPT 32\r")
        await display.responds(b"%1INPT=ERR3\r")
        assert await call == "digital2"
        answer(display.device, POWR="1", INPT="32", AVMT="30")
        await display.should_send(b"%1INPT 32\r")
        await display.responds(b"%1INPT=OK\r")
        await display.status("input", "digital2")
        await display.status("power_state", "on")


async def test_on_while_cooling_happens_when_it_can() -> None:
    async with projector(POWR="2") as display:
        await display.status("cooling", True)
        # Calls and polls take turns in trying, so nobody can say whose try is the one that
        # is waited for: each is answered at once.
        cold = False

        def obey() -> bytes:
            if cold:
                answer(display.device, POWR="3")
            return b"%1POWR=OK\r" if cold else b"%1POWR=ERR3\r"

        display.device.answers(b"%1POWR 1\r", obey)
        assert await display.exec("power", True) is True
        await display.device.expect_request(b"%1POWR 1\r", 3)
        assert display.state["power"] is False
        cold = True
        await display.status("warming", True)


async def test_password_is_proved_with_the_first_command_only() -> None:
    device = ScriptedDevice()
    device.greets(b"PJLINK 1 498e4a67\r")
    async with drive(
        FILE, settings={"password": "JBMIAProjectorLink"}, device=device, connected=False
    ) as display:
        proof = hashlib.md5(b"498e4a67JBMIAProjectorLink").hexdigest().encode()
        assert proof == b"5d8409bc1c3fa39749434aa3a5c38682"  # the example in section 5.3
        await display.should_send(proof + b"%1CLSS ?\r")
        await display.responds(b"%1CLSS=1\r")
        await display.status("connected", True)
        await display.should_send(b"%1POWR ?\r")


async def test_wrong_password_is_reported_and_never_connected() -> None:
    device = ScriptedDevice()
    device.greets(b"PJLINK 1 498e4a67\r")
    async with drive(FILE, device=device, connected=False) as display:
        await display.device.expect_send()
        await display.responds(b"PJLINK ERRA\r")
        await display.fault("refuses the password")
        await display.device.expect_connection(2)
        assert display.state.get("connected") is not True


async def test_corrected_password_is_tried_at_once() -> None:
    device = ScriptedDevice()
    device.greets(b"PJLINK 1 498e4a67\r")
    async with drive(FILE, device=device, connected=False) as display:
        for _ in range(4):  # the next attempt would follow after four seconds
            await display.device.expect_send()
            await display.responds(b"PJLINK ERRA\r")
            await display.device.should_hang_up()
        began = time.monotonic()
        await display.update(password="JBMIAProjectorLink")
        await display.device.expect_connection(5)
        assert time.monotonic() - began < 3


async def test_only_another_password_needs_another_connection() -> None:
    async with projector(poll_every=60) as display:
        await display.update(poll_every=0.1)
        await display.update(poll_every=0.2)
        await display.device.expect_request(b"%1POWR ?\r", 5)  # it polls by the new setting
        assert display.device.connections == 1
        await display.update(poll_every=0.2, password="another")
        await display.device.expect_connection(2)


async def test_dropped_connection_is_noticed_and_made_again() -> None:
    async with projector() as display:
        await display.status("model", "Beamer")
        await display.device.hang_up()
        await display.status("connected", False)
        await display.status("connected", True)
        await display.device.expect_connection(2)


async def test_projector_that_no_longer_answers_is_dropped() -> None:
    async with projector() as display:
        await display.status("model", "Beamer")
        display.device.ignore_everything()
        await display.status("connected", False, timeout=10)
        await display.device.expect_connection(2)


async def test_polls_ten_times_a_second() -> None:
    async with projector() as display:
        await display.status("model", "Beamer")
        for last in (False, False, True):  # a busy machine may spoil one try
            polls = display.device.requests.count(b"%1POWR ?\r")
            try:
                await display.device.expect_request(b"%1POWR ?\r", polls + 20, timeout=3)
                break
            except AssertionError:
                if last:
                    raise


async def test_mute() -> None:
    async with projector(POWR="1", INPT="31", AVMT="30") as display:
        call = display.exec("mute", layer="audio")
        await display.should_send(b"%1AVMT 21\r")
        answer(display.device, AVMT="21")
        await display.responds(b"%1AVMT=OK\r")
        assert await call is True
        assert display.state["audio_mute"] is True
        call = display.exec("unmute")
        await display.should_send(b"%1AVMT 30\r")
        await display.responds(b"%1AVMT=OK\r")
        assert await call is False


@pytest.mark.parametrize(
    ("function", "arguments", "words"),
    [
        ("power", [], "missing argument 'state'"),
        ("power", ["on"], "argument 'state' of 'power'"),
        ("power", [True, False], "given 2, expected 1"),
        ("switch_to", ["hdmi"], "'hdmi' is no input"),
        ("switch_to", [{"input": 1}], "argument 'input' of 'switch_to'"),
        ("mute", [True, 0, "smell"], "'smell' is none of audio, video, audio_video"),
    ],
)
async def test_wrong_arguments(function: str, arguments: list[object], words: str) -> None:
    async with projector() as display:
        with pytest.raises(CallError) as caught:
            await display.exec(function, *arguments)
        assert words in caught.value.message
        assert caught.value.code == 400


async def test_a_name_in_another_encoding() -> None:
    device = ScriptedDevice()
    device.greets(b"PJLINK 0\r")
    answer(device, **STANDBY)
    device.answers(b"%1NAME ?\r", b"%1NAME=B\xfcro\r")
    async with drive(FILE, device=device) as display:
        await display.status("model", "Beamer")
        assert display.state["device_name"] == "B\ufffdro"


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"LAMP": ""}, "expected a number, the projector says ''"),
        ({"LAMP": "many 1"}, "expected a number, the projector says 'many'"),
        ({"POWR": "7"}, "the projector says its power is '7'"),
    ],
)
async def test_answers_that_mean_nothing(values: dict[str, str], words: str) -> None:
    async with projector(**values) as display:
        await display.fault(words)
        assert "POWR" not in values or "power" not in display.state


async def test_input_that_the_projector_does_not_have() -> None:
    async with projector(POWR="1", INPT="31", AVMT="30") as display:
        await display.status("power", True)
        call = display.exec("switch_to", "storage9")
        await display.should_send(b"%1INPT 49\r")
        await display.responds(b"%1INPT=ERR2\r")
        with pytest.raises(CallError, match="does not know this value"):
            await call
