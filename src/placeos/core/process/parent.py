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
from typing import Final, NamedTuple

import msgspec

from placeos.core.process.fence import Fence
from placeos.core.process.isolation import Cell, Isolation
from placeos.core.process.output import Output

log = logging.getLogger("placeos.core")

MODULE: Final = "placeos.driver.parent"
COMMAND: Final = (sys.executable, "-P", "-m", MODULE)  # -P: not whatever folder core is in
MAX_MESSAGE: Final = 65_536  # bytes
FORK_TIMEOUT: Final = 10.0  # seconds; the first fork waits for the parent's imports
BACKOFF: Final = (0.1, 5.0)  # seconds: first and longest pause before another parent
PING: Final = 5.0  # seconds between questions whether the parent lives
HOPELESS: Final = 30.0  # seconds without an answer: it is replaced, and its children with it
KEPT_ENVIRONMENT: Final = ("PATH", "LANG", "LC_ALL", "TZ", "VIRTUAL_ENV", "SSL_CERT_FILE")
"""All that a driver process sees of core's environment: no address or secret of the platform."""


class ForkError(Exception):
    """A driver process could not be forked."""


class _Answer(msgspec.Struct):
    pong: int = 0
    forked: str | None = None
    exited: str | None = None
    failed: str | None = None
    pid: int = 0
    status: int = 0
    error: str = ""


class Child:
    """A forked driver process. `exited` becomes its exit status, or minus the signal."""

    def __init__(self, pid: int, output: Output, cell: Cell | None) -> None:
        self.pid = pid
        self.output = output
        self.cell = cell
        self.verdict = ""
        """Why it was killed, if it was by us: "used …"."""
        self.exited: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        try:
            self._handle = os.pidfd_open(pid)
        except OSError:  # it is gone already
            self._handle = -1

    def kill(self, verdict: str) -> None:
        """SIGKILL, for this reason."""
        self.verdict = self.verdict or verdict
        self.signal(signal.SIGKILL)

    def how_it_ended(self) -> str:
        """Words to follow "the driver process"; in further lines what it wrote at last."""
        status = self.exited.result() if self.exited.done() else None
        words = self.output.last_words() if status and not self.verdict else ""
        reason = self.verdict or describe_exit(status)
        return f"{reason}; its output ended with\n{words}" if words else reason

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
        self.output.close()
        if status == -signal.SIGKILL and self.cell is not None and self.cell.group.out_of_memory():
            limit = self.cell.confine["memory"]
            self.verdict = self.verdict or f"used more memory than its limit of {limit} MiB"
        if not self.exited.done():
            self.exited.set_result(status)


def describe_exit(status: int | None) -> str:
    """Words for an exit status (negative: a signal)."""
    if status is None:
        return "was lost"
    if status < 0:
        try:
            name = signal.Signals(-status).name
        except ValueError:
            name = str(-status)
        return f"was ended by signal {name}"
    return f"ended with status {status}"


class _Forking(NamedTuple):
    future: asyncio.Future[Child]
    output: Output
    cell: Cell | None


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
        isolation: Isolation | None = None,
        command: Sequence[str] = COMMAND,
        fence: Fence | None = None,
    ) -> None:
        self._stderr = stderr
        self._inherit = inherit
        self._command = command
        self._isolation = isolation
        self._fence = fence
        self._socket: socket.socket | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._forking: dict[str, _Forking] = {}
        self._children: dict[int, Child] = {}
        self._numbers = itertools.count(1)
        self._up = asyncio.Event()
        self._gone = asyncio.Event()
        self._answered = 0.0  # when the last ping was

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
                await self._until_gone()
                log.error("fork parent died", extra={"status": self._status()})
            except OSError as error:
                log.error("fork parent does not start", extra={"reason": str(error)})  # noqa: TRY400
            finally:
                self._clear()
            if loop.time() - began > 60:
                pause = BACKOFF[0]
            await asyncio.sleep(pause)
            pause = min(pause * 2, BACKOFF[1])

    async def _until_gone(self) -> None:
        """Until the parent has died; one that does not answer is made to."""
        loop = asyncio.get_running_loop()
        self._answered = expected = loop.time()
        for number in itertools.count(1):
            with contextlib.suppress(ForkError):  # its socket is full: it will not answer either
                self._send({"ping": number})
            try:
                async with asyncio.timeout(PING):
                    await self._gone.wait()
            except TimeoutError:
                pass
            else:
                return
            late, expected = loop.time() - expected - PING, loop.time()
            if late > PING:
                self._answered = expected  # we were away, not the parent
            elif expected - self._answered > HOPELESS and self._process is not None:
                log.error("fork parent is stuck", extra={"pid": self._process.pid})
                self._process.kill()

    async def fork(self, key: str, path: str, title: str) -> tuple[Child, socket.socket]:
        """A new driver process and our end of its link. Raises ForkError."""
        cell = self._cell(key)
        key = f"{key}#{next(self._numbers)}"
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        output = Output(title)
        request: dict[str, object] = {"fork": key, "path": path, "title": title}
        if cell is not None:
            request["confine"] = cell.confine
        try:
            with theirs:
                async with asyncio.timeout(FORK_TIMEOUT):
                    await self._up.wait()
                    future = asyncio.get_running_loop().create_future()
                    self._forking[key] = _Forking(future, output, cell)
                    self._send(request, theirs.fileno(), output.write_end)
                    child: Child = await future
        except BaseException as error:
            self._forking.pop(key, None)
            ours.close()
            output.close()
            self._end_cell(cell)
            if isinstance(error, TimeoutError):
                raise ForkError("the fork parent does not answer") from error
            raise
        return child, ours

    def level(self, reached: dict[str, str]) -> dict[str, str]:
        """All walls around a child that told what it `reached`."""
        return self._isolation.level(reached) if self._isolation is not None else reached

    def _cell(self, key: str) -> Cell | None:
        if self._isolation is None:
            return None
        try:
            return self._isolation.cell(key)
        except OSError as error:
            raise ForkError(f"no folder for it: {error}") from error

    def _end_cell(self, cell: Cell | None) -> None:
        if self._isolation is not None and cell is not None:
            self._isolation.end(cell)

    def _send(self, message: dict[str, object], *fds: int) -> None:
        if self._socket is None:
            raise ForkError("there is no fork parent")
        try:
            socket.send_fds(self._socket, [msgspec.json.encode(message)], fds)
        except OSError as error:
            raise ForkError(f"the fork parent does not take requests: {error}") from error

    def _spawn(self) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.setblocking(False)
        environment = {key: os.environ[key] for key in KEPT_ENVIRONMENT if key in os.environ}
        page = [] if self._fence is None else [self._fence.descriptor]
        if self._fence is not None:  # before it starts and reads the page: nothing is missed
            self._fence.watch(ours)
        with theirs:
            given = (theirs.fileno(), *page)
            try:
                self._process = subprocess.Popen(
                    [*self._command, *map(str, given)],
                    stdin=subprocess.DEVNULL,
                    stdout=self._stderr,
                    stderr=self._stderr,
                    env=environment,
                    pass_fds=(*given, *self._inherit),
                )
            except OSError:
                self._part(ours)
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
        if answer.pong:
            self._answered = asyncio.get_running_loop().time()
        elif answer.forked is not None:
            asked = self._forking.pop(answer.forked, None)
            if asked is None or asked.future.done():
                _kill_unwanted(answer.pid)  # nobody waits for it any more
                return
            asked.output.handed_over()
            child = self._children[answer.pid] = Child(answer.pid, asked.output, asked.cell)
            asked.future.set_result(child)
        elif answer.exited is not None:
            ended = self._children.pop(answer.pid, None)
            if ended is not None:
                self._end(ended, answer.status)
        elif answer.failed is not None:
            asked = self._forking.pop(answer.failed, None)
            if asked is not None and not asked.future.done():
                asked.future.set_exception(ForkError(answer.error))

    def _end(self, child: Child, status: int) -> None:
        child.ended(status)
        self._end_cell(child.cell)

    def _status(self) -> int | None:
        return self._process.poll() if self._process is not None else None

    def _clear(self) -> None:
        """The parent is gone or shall go: nothing of it is left afterwards."""
        self._up.clear()
        if self._socket is not None:
            if not self._gone.is_set():
                asyncio.get_running_loop().remove_reader(self._socket.fileno())
            self._part(self._socket)
            self._socket = None
        if self._process is not None:
            self._process.kill()
            self._process.wait()  # it was killed: a moment
            self._process = None
        forking, self._forking = self._forking, {}
        for asked in forking.values():
            if not asked.future.done():
                asked.future.set_exception(ForkError("the fork parent died"))
        children, self._children = self._children, {}
        for child in children.values():
            self._end(child, -signal.SIGKILL)

    def _part(self, control: socket.socket) -> None:
        if self._fence is not None:
            self._fence.forget(control)
        control.close()


def _kill_unwanted(pid: int) -> None:
    """A child of ours that has just been forked."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
