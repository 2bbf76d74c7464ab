"""The drivers that ship, against the simulated devices as the demo building runs them."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from placeos.driver.testing import CallError, drive
from placeos.local.probe import tcp

DRIVERS = Path(__file__).parents[2] / "drivers"
LIMIT = 20.0


@asynccontextmanager
async def simulator(name: str, *arguments: str):
    """A simulated device as its own process; gives its port."""
    with socket.socket() as holder:  # nobody else is given the port before it listens
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        holder.bind(("127.0.0.1", 0))
        port = holder.getsockname()[1]
        command = [sys.executable, "-m", f"placeos.local.demo.{name}", "--port", str(port)]
        process = await asyncio.create_subprocess_exec(
            *command, *arguments, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        try:
            async with asyncio.timeout(30):
                while not await tcp("127.0.0.1", port):
                    assert process.returncode is None
                    await asyncio.sleep(0.05)
            yield port
        finally:
            if process.returncode is None:
                process.kill()
            await process.wait()


@pytest.mark.parametrize("password", ["", "secret"])
async def test_projector(password):
    arguments = ("--password", password) if password else ()
    settings = {"password": password, "poll_every": 0.1}
    async with (
        # long enough that they are seen though a process is held up for a moment
        simulator("pjlink", "--warm-up", "2", "--cool-down", "2", *arguments) as port,
        drive(DRIVERS / "pjlink.py", port=port, settings=settings, connected=False) as display,
    ):
        await display.status("connected", True, LIMIT)
        await display.status("lamp_hours", 812)
        await display.exec("power", True)
        await display.status("warming", True)
        await display.exec("switch_to", "digital2")
        await display.status("power_state", "on", LIMIT)
        await display.status("input", "digital2")
        await display.exec("mute", True)
        assert display.state["mute"] is True
        await display.exec("unmute")
        with pytest.raises(CallError, match="does not know this value"):
            await display.exec("switch_to", "network9")
        await display.exec("power", False)
        await display.exec("power", True)  # still cooling: done as soon as it can be
        await display.status("cooling", True)
        await display.status("power_state", "on", LIMIT)
        assert "ValueError" not in str(display.core.faults)


async def test_projector_with_the_wrong_password():
    async with (
        simulator("pjlink", "--password", "secret") as port,
        drive(
            DRIVERS / "pjlink.py", port=port, settings={"password": "guess"}, connected=False
        ) as display,
    ):
        await display.fault("the projector refuses the password", LIMIT)


async def test_switcher():
    async with (
        simulator("extron", "--inputs", "4", "--outputs", "2") as port,
        drive(
            DRIVERS / "extron_matrix.py", port=port, settings={"outputs": 2}, connected=False
        ) as switcher,
    ):
        await switcher.status("connected", True, LIMIT)
        await switcher.status("audio2", 0)
        await switcher.exec("switch", {"3": [1, 2]})
        await switcher.exec("switch", {"4": [2]}, "video")
        state = switcher.state
        assert [state[key] for key in ("video1", "video2", "audio2")] == [3, 4, 3]
        with pytest.raises(CallError, match="no such input"):
            await switcher.exec("switch_to", 9)
        await switcher.exec("switch_to", 1)
        await switcher.exec("refresh")
        assert [state[key] for key in ("video1", "audio1", "video2")] == [1, 1, 1]
