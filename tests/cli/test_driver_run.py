"""`placeos driver run`: a driver process against a device, by lines and by a terminal."""

from __future__ import annotations

import asyncio
import contextlib
import re
import sys
import textwrap
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from placeos.driver.testing import ScriptedDevice

LIMIT = 60.0  # seconds for what should happen at once, on a machine that is busy

LAMP = '''
    """Lamps."""
    from typing import Annotated

    from msgspec import Meta

    from placeos.driver import TCP, Driver, DriverError, Settings


    class LampSettings(Settings):
        zone: str = "1"
        pin: Annotated[str, Meta(extra_json_schema={"format": "password"})] = ""


    class Lamp(Driver[LampSettings]):
        transport = TCP(port=7000, ends_with=b"\\n")

        async def power(self, state: bool, index: int = 0) -> list[object]:
            """Switch the lamp."""
            self["power"] = state
            return [state, index]

        async def ask(self, what: str) -> str:
            """Ask the lamp."""
            return (await self.send(what)).decode()

        async def show(self) -> object:
            """Tell of the settings."""
            return [self.settings.zone, len(self.settings.pin)]

        async def fail(self) -> None:
            """Refuse."""
            raise DriverError("the lamp is broken")

        async def store(self) -> None:
            """Store a setting."""
            await self.save_setting("zone", "stored")

        async def speak(self) -> None:
            """Log and print."""
            self.log.info("a line of the log")
            print("printed")

        async def end(self) -> None:
            """End the process."""
            import os
            os._exit(3)
'''


class Run:
    """The command as it runs; what it prints is waited for."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.text = ""
        self._seen = 0

    def enter(self, line: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{line}\n".encode())

    async def shows(self, pattern: str) -> re.Match[str]:
        """Wait for what comes after all that was waited for before."""
        assert self.process.stdout is not None
        async with asyncio.timeout(LIMIT):
            while not (found := re.compile(pattern).search(self.text, self._seen)):
                data = await self.process.stdout.read(65_536)
                assert data, f"no {pattern!r} in:\n{self.text}"
                self.text += data.decode()
        self._seen = found.end()
        return found

    async def ends(self) -> int:
        """Wait for the end; its exit code."""
        assert self.process.stdin is not None
        with contextlib.suppress(ConnectionError):
            self.process.stdin.close()
        async with asyncio.timeout(LIMIT):
            rest, _ = await self.process.communicate()
        self.text += rest.decode()
        return self.process.returncode or 0


@asynccontextmanager
async def running(file: Path, *options: str) -> AsyncIterator[Run]:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "placeos.cli",
        "driver",
        "run",
        str(file),
        *options,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        yield Run(process)
    finally:
        if process.returncode is None:
            process.kill()
            await process.communicate()


@pytest.fixture
async def device() -> AsyncIterator[ScriptedDevice]:
    scripted = ScriptedDevice()
    await scripted.listen()
    yield scripted
    await scripted.unplug()


@pytest.fixture
def lamp(tmp_path: Path) -> Path:
    file = tmp_path / "lamp.py"
    file.write_text(textwrap.dedent(LAMP))
    return file


def at(device: ScriptedDevice) -> tuple[str, ...]:
    return "--host", "127.0.0.1", "--port", str(device.port)


async def test_calls_and_what_comes_of_them(lamp, device):
    device.answers(b"level?\n", b"7\xff\n")
    async with running(lamp, *at(device)) as run:
        run.enter("power true")
        await run.shows(r"state  power = true\n=> \[true,0\]\n")
        run.enter("power index=2 state=false")
        await run.shows(r"=> \[false,2\]\n")
        run.enter("fail")
        await run.shows("error  DriverError: the lamp is broken")
        run.enter("power 5")
        await run.shows("error  .*argument 'state' of 'power'")
        run.enter("nothing")
        await run.shows("error  there is no function nothing")
        run.enter("speak")
        await run.shows("log    info: a line of the log")
        assert await run.ends() == 1  # for something failed
        assert "note   printed" in run.text


async def test_wire_is_shown_until_it_is_not_wanted(lamp, device):
    device.answers(b"level?\n", b"seven\n")
    async with running(lamp, *at(device)) as run:
        run.enter("ask level?")
        await run.shows(r'wire   sent 7 bytes  "level\?\\n"  6c 65 76 65 6c 3f 0a\n')
        await run.shows(r'wire   received 6 bytes  "seven\\n"  73 65')
        await run.shows("=> seven")
        run.enter(":wire off")
        run.enter("ask level?")
        await run.shows("=> seven")
        assert await run.ends() == 0
        assert run.text.count("wire   sent") == 1


async def test_commands(lamp, device):
    async with running(lamp, *at(device), "--set", "zone=07") as run:
        run.enter(":functions")
        await run.shows(r"  power\(state: Bool, index: Int64 = 0\)")
        run.enter("power true")
        run.enter(":state")
        await run.shows("  power = true")
        run.enter(":set zone=8")
        await run.shows("note   zone = 8")
        run.enter("show")
        await run.shows(r'=> \["8",0\]')
        run.enter(":settings")
        await run.shows("  zone = 8")
        run.enter("store")
        await run.shows("note   the driver stored the setting zone")
        run.enter(":help")
        await run.shows(":functions")
        run.enter(":nothing")
        await run.shows("error  there is no command :nothing")
        run.enter(":quit")
        assert await run.ends() == 1


async def test_secrets_are_not_shown(lamp, device, tmp_path):
    settings = tmp_path / "settings.yaml"
    settings.write_text("pin: '123456'\nzone: '3'\n")
    async with running(lamp, *at(device), "--settings", str(settings)) as run:
        run.enter("show")
        await run.shows(r'=> \["3",6\]')
        run.enter(":set pin=7654321")
        await run.shows("note   pin = •••")
        run.enter(":set pin")
        run.enter("98")
        await run.shows("note   pin = •••")
        run.enter("show")
        await run.shows(r'=> \["3",2\]')
        run.enter(":settings")
        await run.shows("  pin = •••")
        assert await run.ends() == 0
        assert not re.search("123456|7654321|98", run.text)


async def test_secrets_within_others_are_not_shown(lamp, device):
    text = lamp.read_text().replace(
        'zone: str = "1"', 'zone: str = "1"\n    code: Secret | None = None'
    )
    lamp.write_text(text.replace("DriverError, ", "DriverError, Secret, "))
    login = 'login={"username":"ann","password":"hidden1"}'
    async with running(lamp, *at(device), "--set", login, "--set", "code=hidden2") as run:
        run.enter(":settings")
        await run.shows('  login = {"username":"ann","password":"•••"}')
        run.enter(f":set {login}")
        await run.shows('note   login = {"username":"ann","password":"•••"}')
        run.enter(":set code=hidden2")
        await run.shows("note   code = •••")
        assert await run.ends() == 0
        assert "hidden" not in run.text


async def test_a_setting_that_is_mistyped(lamp, device):
    given = ("--set", "zoen=7", "--set", "persistent_log_level=info")
    async with running(lamp, *at(device), *given) as run:
        await run.shows("note   the driver declares no setting zoen")
        assert await run.ends() == 0
        assert "persistent_log_level" not in run.text


async def test_a_line_without_end_is_no_fault(lamp, device):
    text = lamp.read_text().replace(
        'print("printed")', 'print("x" * 300_000)\n        print("printed")'
    )
    lamp.write_text(text)
    async with running(lamp, *at(device)) as run:
        run.enter("speak")
        await run.shows("note   a line that is too long to be shown")
        await run.shows("note   printed")
        run.enter("power true")
        await run.shows(r"=> \[true,0\]")
        assert await run.ends() == 0


async def test_saved_file_is_loaded_again_and_keeps_the_state(lamp, device):
    async with running(lamp, *at(device)) as run:
        run.enter("power true")
        await run.shows(r"=> \[true,0\]")
        good = lamp.read_text()
        lamp.write_text(good.replace("return [state, index]", "return 'newer'"))
        await run.shows("note   lamp.py was loaded again")
        run.enter(":state")
        await run.shows("  power = true")
        run.enter("power false")
        await run.shows("=> newer")
        lamp.write_text(good + "\nx = (\n")
        await run.shows(r"fault  lamp.py:\d+: SyntaxError: .*old version goes on")
        run.enter("power false")
        await run.shows("=> newer")
        lamp.write_text(good.replace("TCP", "HTTP").replace('port=7000, ends_with=b"\\n"', ""))
        await run.shows("fault  the device's address is missing: give --uri .*old version goes on")
        run.enter("power false")
        await run.shows("=> newer")
        lamp.write_text(good)
        await run.shows("note   lamp.py was loaded again")
        run.enter("power false")
        await run.shows(r"=> \[false,0\]")
        await device.expect_connection(3)
        assert await run.ends() == 0
        assert device.connections == 3


async def test_process_that_ends_is_started_again(lamp, device):
    async with running(lamp, *at(device)) as run:
        run.enter("end")
        await run.shows("error  ")
        await run.shows("fault  the driver process ended")
        await run.shows("note   lamp.py was loaded again")
        run.enter("power true")
        await run.shows(r"=> \[true,0\]")
        assert await run.ends() == 1


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("x = (", r"lamp.py:1: SyntaxError"),
        ("x = 1", "no class in it derives from"),
        (None, "there is no file"),
    ],
)
async def test_file_that_cannot_be_used(text, words, lamp):
    if text is None:
        lamp.unlink()
    else:
        lamp.write_text(text)
    async with running(lamp, "--host", "127.0.0.1") as run:
        assert await run.ends() != 0
        assert re.search(words, run.text)


async def test_wrong_setting_and_wrong_role(lamp, device):
    async with running(lamp, *at(device), "--role", "smoke") as run:
        assert await run.ends() == 2
        assert "there is no role 'smoke'" in run.text
    async with running(lamp, *at(device), "--role", "ssh") as run:
        assert await run.ends() == 1
        assert "role" in run.text
    async with running(lamp, *at(device)) as run:
        run.enter(":set zone=[1]")
        run.enter(':set pin={"a":1}')
        run.enter("show")
        await run.shows("=> ")
        assert await run.ends() in (0, 1)
