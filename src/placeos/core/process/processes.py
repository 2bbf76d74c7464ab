"""Driver processes: one per driver version, launched, watched, restarted with back-off."""

from __future__ import annotations

import asyncio
import logging
import random
import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol

import msgspec

from placeos.core.jobs import JobCancelled
from placeos.core.plan import Phase
from placeos.core.process.environments import Environments
from placeos.core.process.fence import Fence
from placeos.core.process.isolation import Isolation
from placeos.core.process.output import Output
from placeos.core.process.parent import COMMAND, Child, ForkError, ForkParent
from placeos.core.process.parents import Parents
from placeos.driver.environment import EnvironmentProblem
from placeos.wire.frame import Command, Header
from placeos.wire.link import Hello, Link
from placeos.wire.messages import DriverDefaults, Fault

log = logging.getLogger("placeos.core")

LOAD_TIMEOUT: Final = 15.0  # seconds from fork to READY
STACK_AFTER: Final = 3.0  # seconds of loading after which its stack is asked for
BACKOFF: Final = (0.2, 60.0)  # seconds: first and longest pause before a restart
BUILD_RETRY: Final = 300.0  # seconds before an environment that failed to build is tried again
HEALTHY: Final = 60.0  # seconds of running after which the pause starts small again
LAST_WORDS: Final = 0.5  # seconds between the end of a process and that of its link
TERMINATE_TIMEOUT: Final = 1.6  # seconds for a process to end its modules and itself


@dataclass(frozen=True, slots=True)
class Version:
    """One driver file at one content: what a process runs."""

    key: str
    driver_id: str
    path: Path
    title: str


class Events(Protocol):
    """What processes tell their owner, on the loop."""

    def process_ready(self, process: DriverProcess, defaults: DriverDefaults) -> None:
        """The driver was loaded; modules can be started."""

    def process_unusable(self, process: DriverProcess, message: str) -> None:
        """The driver could not be loaded; it is tried again after a pause."""

    def process_gone(self, process: DriverProcess, link: Link, reason: str) -> None:
        """A ready process ended and its link is closed; it is started again after a pause."""

    def process_frame(self, process: DriverProcess, header: Header, payload: bytes) -> None:
        """A frame that is no answer and none of READY and the driver's FAULT."""

    def process_cancel(self, process: DriverProcess, sequence: int) -> None:
        """The driver no longer waits for the answer to its request."""


class DriverProcess:
    """The process of one version, through all its lives. `launch` once, `end` once."""

    def __init__(self, version: Version, parents: Parents, on: Events) -> None:
        self.version = version
        self.phase = Phase.LOADING
        self.link: Link | None = None  # open link of a ready process
        self.problem = ""  # why the last load failed
        self.launch_count = 0
        self.launch_time = 0  # unix seconds
        self.last_exit: int | None = None
        self.isolation: dict[str, str] = {}  # walls around the present life
        self.last_end = ""  # how the last life ended, if it was not wanted
        self.troubles: dict[str, str] = {}  # by cause: what the present life does to others
        self._parents = parents
        self._on = on
        self._child: Child | None = None
        self._loading: asyncio.Future[DriverDefaults] | None = None
        self._fault = ""
        self._ended = False
        self._wake = asyncio.Event()  # ends a pause early
        self._preparing = False
        self._task: asyncio.Task[None] | None = None

    def launch(self) -> None:
        """Begin, in a task of its own that `end` awaits."""
        self._task = asyncio.get_running_loop().create_task(
            self._run(), name=f"process: {self.version.key}"
        )

    async def end(self) -> None:
        """Stop its modules and the process; bounded, and final."""
        self._ended = True
        self._wake.set()
        link, child = self.link, self._child
        if link is not None and link.is_open and child is not None:
            link.send(Header(Command.TERMINATE))
            await asyncio.wait([child.exited], timeout=TERMINATE_TIMEOUT)
        self.kill()
        if self._task is not None:
            if not self._preparing:
                await asyncio.wait([self._task], timeout=1)
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    def retry(self) -> None:
        """Try again now, if it waits after a failure."""
        self._wake.set()

    @property
    def pid(self) -> int | None:
        """Of the present life; None between two."""
        return self._child.pid if self._child is not None else None

    @property
    def child(self) -> Child | None:
        """The present life; None between two."""
        return self._child

    def kill(self, verdict: str = "") -> None:
        """SIGKILL, if it runs. A verdict is told as the reason of its end: "used …"."""
        if self._child is not None:
            self._child.kill(verdict)

    def dump_stack(self) -> None:
        """Have the process write where it is to its standard error."""
        self._signal(signal.SIGUSR1)

    def _signal(self, number: int) -> None:
        if self._child is not None:
            self._child.signal(number)

    # -- one life after another -----------------------------------------------------------------

    async def _run(self) -> None:
        pause = BACKOFF[0]
        while not self._ended:
            self.phase = Phase.LOADING
            started = time.monotonic()
            self._preparing = True
            try:
                async with self._parents.of(self.version.path, self.version.title) as parent:
                    self._preparing = False
                    started = time.monotonic()  # building the environment does not count
                    healthy = await self._live(parent)
            except JobCancelled as error:
                self._unusable(str(error))
                await self._pause(None)
                continue
            except (EnvironmentProblem, OSError) as error:
                self._unusable(str(error))
                await self._pause(BUILD_RETRY)
                continue
            if healthy:
                pause = BACKOFF[0]
            elif self.problem:
                # A file that hangs while it is loaded burns a processor: half of the time at most.
                pause = min(max(pause, time.monotonic() - started), BACKOFF[1])
            await self._pause(pause)
            pause = min(pause * 2, BACKOFF[1])

    async def _pause(self, seconds: float | None) -> None:
        """Wait before the next try; without a number until somebody asks for it."""
        self._preparing = False
        if self._ended:
            return
        self._wake.clear()
        jitter = random.uniform(0.8, 1.2)  # noqa: S311 - no secret
        try:
            async with asyncio.timeout(None if seconds is None else seconds * jitter):
                await self._wake.wait()
        except TimeoutError:
            pass

    async def _live(self, parent: ForkParent) -> bool:
        """One life, from fork to end. Whether it was a long one."""
        loop = asyncio.get_running_loop()
        self._fault = ""
        self.launch_count += 1
        self.launch_time = int(time.time())
        version = self.version
        try:
            child, sock = await parent.fork(version.key, str(version.path), version.title)
        except ForkError as error:
            self._unusable(f"the driver process could not be started: {error}")
            return False
        self._child = child
        self._loading = loop.create_future()
        began = loop.time()
        link: Link | None = None
        try:
            _, link = await loop.create_unix_connection(self._make_link, sock=sock)
            defaults = await self._load(child)
            if defaults is None:
                return False
            self.problem = ""
            self.isolation = parent.level(defaults.isolation)
            self.phase = Phase.READY
            self.link = link
            self._on.process_ready(self, defaults)
            ends: list[asyncio.Future[Any]] = [child.exited, link.closed]
            await asyncio.wait(ends, return_when="FIRST_COMPLETED")
            # Read what it said last; and learn how it ended, not that it was killed for it.
            await asyncio.wait(ends, timeout=LAST_WORDS)
            if not child.exited.done() or child.exited.result() == 0:
                child.kill("closed its link to core")
        except OSError as error:
            self._unusable(f"the link to the driver process failed: {error}")
        finally:
            self.phase = Phase.LOADING
            last, self.link = self.link, None
            self.kill()
            if link is not None:
                link.abort(ConnectionError("the driver process ended"))
                await asyncio.wait([link.closed], timeout=1)
            if not child.exited.done():
                await asyncio.wait([child.exited], timeout=2)
            self.last_exit = child.exited.result() if child.exited.done() else None
            self._child = None
            if last is not None:
                self._on.process_gone(self, last, child.how_it_ended())
        return loop.time() - began > HEALTHY

    def _make_link(self) -> Link:
        return Link(
            self._frame,
            hello=Hello(service="core"),
            server=True,
            on_cancel=lambda sequence: self._on.process_cancel(self, sequence),
        )

    async def _load(self, child: Child) -> DriverDefaults | None:
        """Wait for READY; None when the driver cannot be used."""
        assert self._loading is not None
        began = asyncio.get_running_loop().time()
        waiting: list[asyncio.Future[Any]] = [child.exited, self._loading]
        done, _ = await asyncio.wait(waiting, timeout=STACK_AFTER, return_when="FIRST_COMPLETED")
        if not done:
            self.dump_stack()
            rest = LOAD_TIMEOUT - STACK_AFTER
            done, _ = await asyncio.wait(waiting, timeout=rest, return_when="FIRST_COMPLETED")
        if self._loading in done:
            return self._loading.result()
        if not done:
            self.kill()
            where = child.output.stack(str(self.version.path), began)
            at = f", it is at {where}" if where else ""
            self._unusable(f"the driver did not load within {LOAD_TIMEOUT:g} s{at}")
        else:
            ended = f"while it was loaded the driver process {child.how_it_ended()}"
            self._unusable(self._fault or ended)
        return None

    def _unusable(self, message: str) -> None:
        self.problem = message
        if not self._ended:
            self._on.process_unusable(self, message)

    def _frame(self, link: Link, header: Header, payload: bytes) -> None:
        command = header.command
        if command == Command.READY:
            try:
                defaults = msgspec.json.decode(payload, type=DriverDefaults)
            except msgspec.MsgspecError as error:
                self._fault = f"the driver's description is unreadable: {error}"
                link.abort(ConnectionError(self._fault))
                return
            link.reply(header.sequence)
            if self._loading is not None and not self._loading.done():
                self._loading.set_result(defaults)
        elif command == Command.FAULT and not header.module and self.link is None:
            self._fault = fault_text(read_fault(payload))
        else:
            self._on.process_frame(self, header, payload)


def read_fault(payload: bytes) -> Fault:
    """The FAULT; one that says so if it is unreadable."""
    try:
        return msgspec.json.decode(payload, type=Fault)
    except msgspec.MsgspecError as error:
        return Fault(f"unreadable fault: {error}")


def fault_text(fault: Fault) -> str:
    """Message and backtrace of a FAULT."""
    return "\n".join([fault.message, *fault.backtrace])


class Processes:
    """All driver processes of this node, by version key. The owner runs `run()`."""

    def __init__(
        self,
        output: Output,
        on: Events,
        environments: Environments,
        *,
        isolation: Isolation | None = None,
        inherit: tuple[int, ...] = (),
        fence: Fence | None = None,
    ) -> None:
        self._on = on
        self.by_key: dict[str, DriverProcess] = {}

        def parent(command: Sequence[str] = COMMAND) -> ForkParent:
            return ForkParent(
                stderr=output.write_end,
                inherit=inherit,
                isolation=isolation,
                command=command,
                fence=fence,
            )

        self.parent = parent()
        self._parents = Parents(self.parent, parent, environments)

    async def run(self) -> None:
        """Keep fork parents until cancelled."""
        await self._parents.run()

    def phases(self) -> dict[str, Phase]:
        """Present phase of each, for `plan`."""
        return {key: process.phase for key, process in self.by_key.items()}

    def launch(self, version: Version) -> None:
        """Start the process of a version, unless there is one."""
        if version.key not in self.by_key:
            process = self.by_key[version.key] = self.make(version, self._on)
            process.launch()

    def make(self, version: Version, on: Events) -> DriverProcess:
        """A process that is not ours to keep: its owner launches and ends it."""
        return DriverProcess(version, self._parents, on)

    def problem(self, key: str) -> str | None:
        """Why a version could not be loaded last, if it could not."""
        process = self.by_key.get(key)
        return process.problem or None if process is not None else None

    def retry(self, key: str) -> None:
        """Try a version again that waits after a failure."""
        process = self.by_key.get(key)
        if process is not None:
            process.retry()

    async def end(self, key: str) -> None:
        """End the process of a version."""
        process = self.by_key.pop(key, None)
        if process is not None:
            await process.end()

    async def end_all(self) -> None:
        """End all of them side by side; bounded by one process's time."""
        await asyncio.gather(*(self.end(key) for key in list(self.by_key)))
