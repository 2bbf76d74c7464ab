"""The fork parent as a test uses it: one process that forks the driver processes of all tests."""

from __future__ import annotations

import asyncio
import atexit
import socket
import subprocess
import sys
from collections.abc import Callable
from typing import Final, Protocol

import msgspec

START_TIMEOUT: Final = 10.0  # seconds for a process to come up

_shared: dict[tuple[asyncio.AbstractEventLoop, str], ForkParent] = {}


class Served(Protocol):
    """Who takes over the link to a driver process."""

    async def serve(self, sock: socket.socket) -> None:
        """Take the link into use."""


class ForkParent:
    """A fork parent process and its control socket. `python` runs it: that of an environment
    with a driver's own packages, or our own. `output` is where it and its children print.
    `page` is the descriptor of a page of deadlines, without which nothing is fenced."""

    def __init__(
        self,
        python: str = sys.executable,
        output: int | None = None,
        page: int | None = None,
    ) -> None:
        self.exits: dict[int, int] = {}
        self._page = [] if page is None else [page]
        self._python = python
        self._output = output
        self._forked: dict[str, int] = {}
        self._failed: dict[str, str] = {}
        self._changed = asyncio.Event()
        self._count = 0

    async def __aenter__(self) -> ForkParent:
        return self.start()

    async def __aexit__(self, *_: object) -> None:
        asyncio.get_running_loop().remove_reader(self._control)
        await asyncio.to_thread(self.stop)

    def start(self) -> ForkParent:
        """Start the process; it serves the running loop."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            # -P, as core does: not whatever lies in this folder, such as a driver `queue.py`
            given = [theirs.fileno(), *self._page]
            command = [self._python, "-P", "-m", "placeos.driver.parent", *map(str, given)]
            self._process = subprocess.Popen(
                command,
                pass_fds=given,
                stdin=subprocess.DEVNULL,
                stdout=self._output,
                stderr=self._output,
            )
        ours.setblocking(False)
        self._control = ours
        asyncio.get_running_loop().add_reader(ours, self._read)
        return self

    def stop(self) -> None:
        """End it, and with it every process it forked."""
        self._control.close()
        self._process.wait(START_TIMEOUT)

    @classmethod
    def shared(cls, python: str = sys.executable) -> ForkParent:
        """One that serves all tests on the running loop, and ends with the interpreter."""
        place = (asyncio.get_running_loop(), python)
        parent = _shared.get(place)
        if parent is None or parent._process.poll() is not None:
            parent = _shared[place] = cls(python).start()
            atexit.register(parent.stop)
        return parent

    @property
    def pid(self) -> int:
        """The process id of the parent."""
        return self._process.pid

    async def fork(self, path: str, core: Served, title: str = "", clock: str = "") -> int:
        """Start a driver process whose link `core` serves; returns its process id.

        With `clock` it is told the time there.
        """
        self._count += 1
        key = f"{self._count}"
        ours, theirs = socket.socketpair()
        with theirs:
            request = {"fork": key, "path": path, "title": title, "clock": clock}
            socket.send_fds(self._control, [msgspec.json.encode(request)], [theirs.fileno()])
        await core.serve(ours)
        await self._until(lambda: key in self._forked or key in self._failed)
        if key in self._failed:
            raise OSError(self._failed[key])
        return self._forked[key]

    async def exited(self, pid: int) -> int:
        """Wait for the end of a driver process: its exit status, or minus the signal."""
        await self._until(lambda: pid in self.exits)
        return self.exits[pid]

    async def _until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(START_TIMEOUT):
            while not condition():
                self._changed.clear()
                await self._changed.wait()

    def _read(self) -> None:
        data = self._control.recv(65_536)
        if not data:
            asyncio.get_running_loop().remove_reader(self._control)
            return
        message = msgspec.json.decode(data)
        if "forked" in message:
            self._forked[message["forked"]] = message["pid"]
        elif "exited" in message:
            self.exits[message["pid"]] = message["status"]
        else:
            self._failed[message["failed"]] = message["error"]
        self._changed.set()
