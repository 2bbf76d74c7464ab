"""The tutorial of the guide, to the letter: its files are saved, its commands typed."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest
from guide_steps import File, Shell, steps

MOST_STEPS = 20
"""As many blocks as one can do in fifteen minutes, at 45 seconds each."""

LIMIT = 60.0  # seconds for one block of commands
PORT = "7000"


class Reader:
    """Who does what the tutorial says, in terminals that begin in the clone."""

    def __init__(self, clone: Path, environment: dict[str, str], port: str) -> None:
        self.output = ""
        self._clone = clone
        self._folder = clone
        self._activate = ":"
        self._environment = environment
        self._port = port
        self._left: list[tuple[asyncio.subprocess.Process, Path]] = []

    def save(self, file: File) -> None:
        (self._folder / file.name).write_text(self._mine(file.text))

    async def type(self, shell: Shell) -> None:
        """Into a shell; where it ends is where the next one goes on."""
        if shell.text.startswith(". .venv"):
            self._folder = self._clone  # a new terminal
            self._activate = f". '{self._clone}/.venv/bin/activate'"
        if shell.stays:
            await self._leave(shell)
            return
        where = self._clone.parent / "where"
        script = f"set -e\n{self._activate}\n{self._mine(shell.text)}\npwd > {str(where)!r}\n"
        async with asyncio.timeout(LIMIT):
            while not await self._run(script, shell.typed):
                assert shell.soon, f"{shell.text}failed:\n{self.output[-5000:]}"
                await asyncio.sleep(0.2)
        self._folder = Path(where.read_text().strip())

    async def _run(self, script: str, typed: str) -> bool:
        process = await asyncio.create_subprocess_exec(
            *("sh", "-c", script),
            cwd=self._folder,
            env=self._environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        output, _ = await process.communicate(typed.encode())
        self.output += output.decode(errors="replace")
        return process.returncode == 0

    async def _leave(self, shell: Shell) -> None:
        log = self._clone.parent / f"left-{len(self._left)}.log"
        with log.open("wb") as opened:
            process = await asyncio.create_subprocess_exec(
                *("sh", "-c", f"{self._activate}\nexec {self._mine(shell.text)}"),
                cwd=self._folder,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=opened,
                stderr=subprocess.STDOUT,
            )
        self._left.append((process, log))

    def said(self) -> str:
        """By all that was left running."""
        return "\n".join(log.read_text() for _, log in self._left)

    async def finish(self) -> None:
        for process, _ in self._left:
            with suppress(ProcessLookupError):
                process.send_signal(signal.SIGTERM)
            await process.wait()

    def _mine(self, text: str) -> str:
        """The same on a port that is free here."""
        return text.replace(PORT, self._port)


def free_port() -> str:
    """The tutorial's, if that is free."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", int(PORT)))
        except OSError:
            probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


@pytest.fixture
async def reader(site, tmp_path):
    """In a fresh clone whose `make up` has been entered already: that is `site`."""
    clone = tmp_path / "a clone"
    (clone / ".venv" / "bin").mkdir(parents=True)
    programs = Path(sys.executable).parent
    (clone / ".venv" / "bin" / "activate").write_text(f'PATH="{programs}:$PATH"\n')
    facts = site.facts
    (tmp_path / "home").mkdir()
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(tmp_path / "home"),
        "COLUMNS": "200",
        # what one types when `placeos login` asks
        "PLACEOS_URL": site.url,
        "PLACEOS_EMAIL": facts["email"],
        "PLACEOS_PASSWORD": facts["password"],
    }
    reader = Reader(clone, environment, free_port())
    yield reader
    await reader.finish()
    await forget(site, tmp_path)


async def forget(site, folder: Path) -> None:
    """Remove from the platform what came from there."""
    for repository in (await site.client.get("/repositories")).json():
        if not repository["uri"].startswith(folder.as_uri()):
            continue
        for driver in (await site.client.get("/drivers")).json():
            if driver["repository_id"] == repository["id"]:
                await site.client.delete(f"/drivers/{driver['id']}")  # and its modules
        await site.client.delete(f"/repositories/{repository['id']}")


async def test_to_the_letter(site, reader):
    first, *rest = steps()
    assert isinstance(first, Shell)
    assert first.text == "make up\n"
    assert len(rest) < MOST_STEPS
    for step in rest:
        if isinstance(step, File):
            reader.save(step)
        else:
            await reader.type(step)
    said = reader.output
    assert "2 passed" in said  # what `driver new` wrote
    assert "3 passed" in said
    assert "no errors" in said
    assert "=> true" in said
    assert "Logged in" in said
    assert "placeos exec 'Room 1.01' Lamp_1" in said
    # by the prompt, by the platform, by the function that was added to a running driver
    lamp = [line for line in reader.said().splitlines() if line.startswith("the lamp is")]
    assert lamp == ["the lamp is on", "the lamp is off", "the lamp is on", "the lamp is off"]
    assert await site.value("Room 1.01", "Lamp_1", "power") is False
