"""`placeos driver run` on a real terminal, against a simulated device in a process of its own."""

from __future__ import annotations

import asyncio
import os
import pty
import re
import shutil
import socket
import struct
import subprocess
import sys
import termios
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from fcntl import ioctl
from pathlib import Path

import pytest

from placeos.local.probe import tcp

DRIVERS = Path(__file__).parents[2] / "drivers"
LIMIT = 60.0  # seconds for what should happen at once, on a machine that is busy
ESCAPES = re.compile(r"\x1b\[[0-9;?]*[a-zA-Z]|\x1b[()=>].?|\r|\x07")
TAB, UP, CTRL_C, CTRL_D = "\t", "\x1b[A", "\x03", "\x04"


class Terminal:
    """The leading side of a pseudo-terminal: keys go in, what is shown comes out."""

    def __init__(self, leader: int, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.text = ""
        self._leader = leader
        self._seen = 0
        self._changed = asyncio.Event()
        self.ended = False

    def type(self, keys: str) -> None:
        os.write(self._leader, keys.encode())

    def enter(self, line: str) -> None:
        self.type(f"{line}\r")

    def read(self) -> None:
        try:
            data = os.read(self._leader, 65_536)
        except OSError:  # the other side is closed
            data = b""
        if not data:
            self.ended = True
            asyncio.get_running_loop().remove_reader(self._leader)
        self.text += ESCAPES.sub("", data.decode(errors="replace"))
        self._changed.set()

    async def shows(self, pattern: str) -> None:
        """Wait for what comes after all that was waited for before."""
        async with asyncio.timeout(LIMIT):
            while not (found := re.compile(pattern, re.DOTALL).search(self.text, self._seen)):
                assert not self.ended, f"no {pattern!r} in:\n{self.text}"
                self._changed.clear()
                await self._changed.wait()
        self._seen = found.end()

    async def shows_both(self, one: str, other: str) -> None:
        """In any order."""
        await self.shows(f"{one}.*{other}|{other}.*{one}")

    async def press(self, key: str, pattern: str) -> None:
        """A control key, until it shows: it is lost while output is being printed."""
        async with asyncio.timeout(LIMIT):
            while not re.compile(pattern).search(self.text, self._seen) and not self.ended:
                self.type(key)
                with suppress(TimeoutError):
                    async with asyncio.timeout(1):
                        await self._changed.wait()
                        self._changed.clear()
        if not self.ended:
            await self.shows(pattern)

    async def ends(self) -> int:
        async with asyncio.timeout(LIMIT):
            return await self.process.wait()


@asynccontextmanager
async def terminal(*arguments: str) -> AsyncIterator[Terminal]:
    """The command on a terminal of 100 columns."""
    leader, follower = pty.openpty()
    ioctl(follower, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 100, 0, 0))
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "placeos.cli", "driver", "run", *arguments),
        stdin=follower,
        stdout=follower,
        stderr=follower,
        start_new_session=True,
        env=os.environ | {"TERM": "xterm", "PROMPT_TOOLKIT_NO_CPR": "1"},
    )
    os.close(follower)
    shown = Terminal(leader, process)
    loop = asyncio.get_running_loop()
    loop.add_reader(leader, shown.read)
    try:
        yield shown
    except TimeoutError as error:
        raise AssertionError(f"it did not show that:\n{shown.text}") from error
    finally:
        loop.remove_reader(leader)
        if process.returncode is None:
            process.kill()
            await process.wait()
        os.close(leader)


@pytest.fixture
async def projector() -> AsyncIterator[int]:
    """The port of the projector that the demo building has, with a password."""
    with socket.socket() as holder:  # nobody else is given the port before it listens
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        holder.bind(("127.0.0.1", 0))
        port = holder.getsockname()[1]
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "placeos.local.demo.pjlink", "--port", str(port)),
            *("--password", "lens cap", "--warm-up", "1"),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            async with asyncio.timeout(LIMIT):
                while not await tcp("127.0.0.1", port):
                    assert process.returncode is None
                    await asyncio.sleep(0.05)
            yield port
        finally:
            if process.returncode is None:
                process.kill()
            await process.wait()


async def test_a_projector_is_controlled(projector, tmp_path):
    file = Path(shutil.copy(DRIVERS / "pjlink.py", tmp_path / "beamer.py"))
    address = ("--host", "127.0.0.1", "--port", str(projector))
    async with terminal(str(file), *address, "--set", "password") as shown:
        await shown.shows("password:")
        shown.enter("lens cap")  # not shown, see below
        await shown.shows('wire +received .*"PJLINK 1')
        await shown.shows("beamer>.*state +model = .*")  # all of it: it falls silent
        shown.type("pow")
        await shown.press(TAB, "pow.*er")  # functions are completed
        shown.type(" st")
        await shown.press(TAB, "state=")  # and their arguments
        shown.enter("true")
        await shown.shows('wire +sent .*"%1POWR 1')
        await shown.shows("=> true")
        await shown.shows('state +power_state = "on"')
        shown.enter(":wire off")
        shown.enter(":settings")
        await shown.shows("password = •••")
        shown.type(UP + UP + UP)  # what was typed before comes back
        await shown.shows("power state=true")
        await shown.press(CTRL_C, r"\(:quit ends it\)")

        good = file.read_text()
        file.write_text(good + "\nx = (\n")
        await shown.shows(r"fault +beamer.py:\d+: SyntaxError: .*old version goes on")
        shown.enter(":state")
        await shown.shows("connected = true")
        file.write_text(good.replace('"""The lamp', '"""A lamp'))
        await shown.shows("note +beamer.py was loaded again")
        shown.enter("power false")
        await shown.shows("=> false")
        await shown.press(CTRL_D, "$never")
        assert await shown.ends() == 0
        assert "lens cap" not in shown.text


async def test_a_password_is_asked_for_unseen(projector):
    address = ("--host", "127.0.0.1", "--port", str(projector))
    async with terminal(str(DRIVERS / "pjlink.py"), *address) as shown:
        await shown.shows("refuses|password")
        await shown.shows("pjlink>")
        shown.enter(":set password")
        await shown.shows("password:")
        shown.enter("lens cap")
        await shown.shows_both("note +password = •••", "state +connected = true")
        shown.enter(":quit")
        assert await shown.ends() == 0
        assert "lens cap" not in shown.text


async def test_no_file_and_no_device(tmp_path):
    async with terminal(str(tmp_path / "none.py")) as shown:
        await shown.shows("there is no file .*none.py")
        assert await shown.ends() == 2
        assert "Traceback" not in shown.text
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and nobody listens
        port = str(taken.getsockname()[1])
        file = str(DRIVERS / "pjlink.py")
        async with terminal(file, "--host", "127.0.0.1", "--port", port) as shown:
            await shown.shows("cannot connect")
            await shown.shows("the device is not connected")
            shown.enter("power true")
            await shown.shows("error ")
            shown.enter(":quit")
            assert await shown.ends() == 0
            assert "Traceback" not in shown.text
