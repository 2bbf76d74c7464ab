"""The fork parent: a preloaded process that forks driver processes, and core's end of it."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence
from typing import Final

import msgspec

log = logging.getLogger("placeos.core")

MODULE: Final = "placeos.driver.parent"
MAX_MESSAGE: Final = 65_536  # bytes
FORK_TIMEOUT: Final = 10.0  # seconds; the first fork waits for the parent's imports
BACKOFF: Final = (0.1, 5.0)  # seconds: first and longest pause before another parent
KEPT_ENVIRONMENT: Final = ("PATH", "LANG", "LC_ALL", "TZ", "VIRTUAL_ENV", "SSL_CERT_FILE")
"""All that a driver process sees of core's environment: no address or secret of the platform."""


class ForkError(Exception):
    """A driver process could not be forked."""


class _Answer(msgspec.Struct):
    forked: str | None = None
    exited: str | None = None
    failed: str | None = None
    pid: int = 0
    status: int = 0
    error: str = ""


class Child:
    """A forked driver process. `exited` becomes its exit status, or minus the signal."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.exited: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        try:
            self._handle = os.pidfd_open(pid)
        except OSError:  # it is gone already
            self._handle = -1

    def signal(self, number: int) -> None:
        """Send a signal; nothing happens once it is gone. The number of the process may have
        been given away by then, its handle cannot."""
        if self._handle >= 0:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._handle, number)

    def ended(self, status: int) -> None:
        """It was seen to end."""
        if self._handle >= 0:
            os.close(self._handle)
            self._handle = -1
        if not self.exited.done():
            self.exited.set_result(status)


class ForkParent:
    """Executes the fork parent, and another one whenever it dies. The owner runs `run()`.

    When the parent dies the kernel kills its children; each ends as killed. It must be
    started in the main thread: the kernel's parent-death signal follows the thread that
    started it.
    """

    def __init__(
        self,
        *,
        stderr: int | None = None,
        inherit: Sequence[int] = (),
        command: Sequence[str] = (sys.executable, "-m", MODULE),
    ) -> None:
        self._stderr = stderr
        self._inherit = inherit
        self._command = command
        self._socket: socket.socket | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._forking: dict[str, asyncio.Future[Child]] = {}
        self._children: dict[int, Child] = {}
        self._numbers = itertools.count(1)
        self._up = asyncio.Event()
        self._gone = asyncio.Event()

    @property
    def pid(self) -> int | None:
        """Process id of the present parent."""
        return self._process.pid if self._process is not None else None

    async def run(self) -> None:
        """Keep a parent until cancelled; then it and its children end."""
        pause = BACKOFF[0]
        loop = asyncio.get_running_loop()
        while True:
            began = loop.time()
            try:
                self._spawn()
                await self._gone.wait()
                log.error("fork parent died", extra={"status": self._status()})
            except OSError as error:
                log.error("fork parent does not start", extra={"reason": str(error)})  # noqa: TRY400
            finally:
                self._clear()
            if loop.time() - began > 60:
                pause = BACKOFF[0]
            await asyncio.sleep(pause)
            pause = min(pause * 2, BACKOFF[1])

    async def fork(self, key: str, path: str, title: str) -> tuple[Child, socket.socket]:
        """A new driver process and our end of its link. Raises ForkError."""
        key = f"{key}#{next(self._numbers)}"
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            with theirs:
                async with asyncio.timeout(FORK_TIMEOUT):
                    await self._up.wait()
                    future = asyncio.get_running_loop().create_future()
                    self._forking[key] = future
                    self._send({"fork": key, "path": path, "title": title}, theirs.fileno())
                    child: Child = await future
        except BaseException as error:
            self._forking.pop(key, None)
            ours.close()
            if isinstance(error, TimeoutError):
                raise ForkError("the fork parent does not answer") from error
            raise
        return child, ours

    def _send(self, message: dict[str, str], fd: int) -> None:
        if self._socket is None:
            raise ForkError("there is no fork parent")
        try:
            socket.send_fds(self._socket, [msgspec.json.encode(message)], [fd])
        except OSError as error:
            raise ForkError(f"the fork parent does not take requests: {error}") from error

    def _spawn(self) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.setblocking(False)
        environment = {key: os.environ[key] for key in KEPT_ENVIRONMENT if key in os.environ}
        with theirs:
            try:
                self._process = subprocess.Popen(
                    [*self._command, str(theirs.fileno())],
                    stdin=subprocess.DEVNULL,
                    stdout=self._stderr,
                    stderr=self._stderr,
                    env=environment,
                    pass_fds=(theirs.fileno(), *self._inherit),
                )
            except OSError:
                ours.close()
                raise
        self._socket = ours
        self._gone.clear()
        asyncio.get_running_loop().add_reader(ours.fileno(), self._readable)
        self._up.set()
        log.info("fork parent started", extra={"pid": self._process.pid})

    def _readable(self) -> None:
        assert self._socket is not None
        while True:
            try:
                data = self._socket.recv(MAX_MESSAGE)
            except BlockingIOError:
                return
            except OSError:
                data = b""
            if not data:
                asyncio.get_running_loop().remove_reader(self._socket.fileno())
                self._up.clear()
                self._gone.set()
                return
            try:
                self._answer(msgspec.json.decode(data, type=_Answer))
            except msgspec.MsgspecError as error:
                log.warning("fork parent is unreadable", extra={"reason": str(error)})

    def _answer(self, answer: _Answer) -> None:
        if answer.forked is not None:
            child = self._children[answer.pid] = Child(answer.pid)
            future = self._forking.pop(answer.forked, None)
            if future is not None and not future.done():
                future.set_result(child)
            else:
                child.signal(signal.SIGKILL)  # nobody waits for it any more
        elif answer.exited is not None:
            ended = self._children.pop(answer.pid, None)
            if ended is not None:
                ended.ended(answer.status)
        elif answer.failed is not None:
            future = self._forking.pop(answer.failed, None)
            if future is not None and not future.done():
                future.set_exception(ForkError(answer.error))

    def _status(self) -> int | None:
        return self._process.poll() if self._process is not None else None

    def _clear(self) -> None:
        """The parent is gone or shall go: nothing of it is left afterwards."""
        self._up.clear()
        if self._socket is not None:
            if not self._gone.is_set():
                asyncio.get_running_loop().remove_reader(self._socket.fileno())
            self._socket.close()
            self._socket = None
        if self._process is not None:
            self._process.kill()
            self._process.wait()  # it was killed: a moment
            self._process = None
        forking, self._forking = self._forking, {}
        for future in forking.values():
            if not future.done():
                future.set_exception(ForkError("the fork parent died"))
        children, self._children = self._children, {}
        for child in children.values():
            child.ended(-signal.SIGKILL)
