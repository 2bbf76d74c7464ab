"""The matrix driver, against the command and response table of the manual."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from placeos.driver.testing import CallError, ScriptedDevice, TestedModule, drive

FILE = Path(__file__).with_name("extron_matrix.py")
BANNER = (
    b"\r\n(c) Copyright 2011, Extron Electronics, DXP 88 HDMI, V1.06, 60-1113-01\r\n"
    b"Mon, 23 Nov 2026 18:25:19\r\n"
)


@asynccontextmanager
async def matrix(banner: bytes = BANNER) -> AsyncIterator[TestedModule]:
    """A switcher with two outputs, input 1 on both."""
    device = ScriptedDevice()
    device.greets(banner)
    device.answers(b"Q", b"1.06\r\n")
    for query in (b"1%", b"1$", b"2%", b"2$"):
        device.answers(query, b"1\r\n")
    async with drive(FILE, settings={"outputs": 2}, device=device) as module:
        await module.status("audio2", 1)
        yield module


async def test_reads_the_ties_after_connecting() -> None:
    async with matrix() as switcher:
        assert switcher.state == {
            "connected": True,
            "firmware": "1.06",
            "video1": 1,
            "audio1": 1,
            "video2": 1,
            "audio2": 1,
        }


async def test_switcher_without_a_banner() -> None:
    async with matrix(banner=b"") as switcher:
        assert switcher.state["firmware"] == "1.06"


async def test_tie_of_picture_and_sound() -> None:
    async with matrix() as switcher:
        call = switcher.exec("switch", {"3": [1, 2]})
        await switcher.should_send(b"3*1!")
        await switcher.responds(b"Out1 In3 All\r\n")
        await switcher.should_send(b"3*2!")
        await switcher.responds(b"Out02 In03 All\r\n")
        await call
        assert [switcher.state[key] for key in ("video1", "audio1", "video2")] == [3, 3, 3]


async def test_tie_of_sound_alone() -> None:
    async with matrix() as switcher:
        call = switcher.exec("switch", {"4": [2]}, "audio")
        await switcher.should_send(b"4*2$")
        await switcher.responds(b"Out2 In4 Aud\r\n")
        await call
        assert (switcher.state["video2"], switcher.state["audio2"]) == (1, 4)


async def test_all_outputs() -> None:
    async with matrix() as switcher:
        call = switcher.exec("switch_to", 2)
        await switcher.should_send(b"2*!")
        await switcher.responds(b"In2 All\r\n")
        assert await call == 2
        assert [switcher.state[key] for key in ("video1", "audio2", "input")] == [2, 2, 2]


async def test_tie_at_the_front_panel() -> None:
    async with matrix() as switcher:
        await switcher.responds(b"Out1 In5 Vid\r\n")
        await switcher.status("video1", 5)
        assert switcher.state["audio1"] == 1


async def test_garbage_is_let_pass() -> None:
    async with matrix() as switcher:
        await switcher.responds(b"\xff\xfe\x00\r\nOut2 In4 All\r\n")
        await switcher.status("video2", 4)
        assert not switcher.core.faults


async def test_tie_at_the_front_panel_is_no_answer_to_a_command() -> None:
    async with matrix() as switcher:
        call = switcher.exec("switch", {"3": [1]})
        await switcher.should_send(b"3*1!")
        await switcher.responds(b"Out2 In6 All\r\nOut1 In3 All\r\n")
        await call
        await switcher.status("video2", 6)
        assert switcher.state["video1"] == 3


@pytest.mark.parametrize(
    ("code", "status", "words"),
    [("E01", 400, "no such input"), ("E12", 400, "no such output"), ("E22", 500, "busy")],
)
async def test_refusals(code: str, status: int, words: str) -> None:
    async with matrix() as switcher:
        call = switcher.exec("switch", {"9": [1]})
        await switcher.should_send(b"9*1!")
        await switcher.responds(f"{code}\r\n".encode())
        with pytest.raises(CallError, match=words) as caught:
            await call
        assert caught.value.code == status


async def test_map_that_is_no_map() -> None:
    async with matrix() as switcher:
        with pytest.raises(CallError, match="argument 'map' of 'switch'"):
            await switcher.exec("switch", {"one": [1]})


async def test_reconnects() -> None:
    async with matrix() as switcher:
        await switcher.device.hang_up()
        await switcher.status("connected", False)
        await switcher.status("connected", True)
