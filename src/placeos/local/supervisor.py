"""Keeps processes running: starts them, watches them, restarts what dies, stops all in time."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
import time
from collections.abc import Callable, Iterator
from enum import StrEnum
from pathlib import Path
from types import TracebackType
from typing import Self

from placeos.local.logs import LogFile, LogPipe
from placeos.local.process import Kind, ProcessSpec, base_environment, launcher

PROBE_EVERY = 0.05
"""Seconds between questions while a process starts."""
WATCH_EVERY = 2.0
"""Seconds between questions once it is ready."""
PROBE_TIMEOUT = 3.0
SILENCE = 30.0
"""A service that answers nothing for so long is replaced. Engines may be busy recovering."""
_REPLACED = (Kind.SERVICE, Kind.INGRESS)
HEALTHY_AFTER = 60.0
"""A process that ran this long starts with a clean record."""
STOP_WITHIN = 4.0
"""Seconds for stopping everything."""
_SHARE = {Kind.INGRESS: 0.3, Kind.SERVICE: 1.7, Kind.DEVICE: 0.8, Kind.ENGINE: 1.2}
_FIRST_TRIES = 3


class State(StrEnum):
    """Where a process is in its life."""

    STARTING = "starting"
    READY = "ready"
    SILENT = "not answering"
    WAITING = "restarting"
    STOPPED = "stopped"


class StartFailedError(Exception):
    """A process did not become ready; the message names it and shows its last words."""

    def __init__(self, managed: Managed, reason: str) -> None:
        self.process = managed.spec.name
        words = "\n".join(f"    {line}" for line in managed.log.tail())
        super().__init__(f"{self.process} {reason}; its log is {managed.log.file}\n{words}")


def backoff(failures: int) -> float:
    """Seconds before restart number `failures` (from 1): at once, then doubling up to 30."""
    return 0.05 if failures <= 1 else float(min(0.25 * 2 ** min(failures - 1, 10), 30.0))


def describe_exit(status: int) -> str:
    """An exit status in words."""
    if status >= 0:
        return f"ended with status {status}"
    try:
        return f"was killed by {signal.Signals(-status).name}"
    except ValueError:
        return f"was killed by signal {-status}"


class Managed:
    """One process under supervision, as others may read it."""

    def __init__(self, spec: ProcessSpec, log: LogFile) -> None:
        self.spec = spec
        self.log = log
        self.state = State.STARTING
        self.pid: int | None = None
        self.restarts = 0
        self.settled: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.stopping = asyncio.Event()

    @property
    def name(self) -> str:
        """The name of its spec."""
        return self.spec.name

    def signal(self, number: int, *, whole_group: bool = False) -> None:
        """Send a signal, if it runs."""
        if self.pid is None:
            return
        with contextlib.suppress(ProcessLookupError):
            if whole_group:
                os.killpg(self.pid, number)
            else:
                os.kill(self.pid, number)


class Supervisor:
    """Owns processes and one task for each. Use as an async context manager: it ends empty.

    `on_event` hears, in words for people, what happens after a process first became ready.
    `on_change` is called whenever a pid or a state changed.
    """

    def __init__(
        self,
        logs: Path,
        *,
        on_event: Callable[[str], None] | None = None,
        on_change: Callable[[], None] | None = None,
    ) -> None:
        self._logs = logs
        self._on_event = on_event or (lambda _: None)
        self._on_change = on_change or (lambda: None)
        self._managed: dict[str, Managed] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.stop()

    def __iter__(self) -> Iterator[Managed]:
        return iter(self._managed.values())

    def pids(self) -> dict[str, int]:
        """Pids by name, of what runs now."""
        return {item.name: item.pid for item in self if item.pid is not None}

    async def start(self, *specs: ProcessSpec) -> None:
        """Start these side by side and wait until all are ready. Raises StartFailedError."""
        started = [self._add(spec) for spec in specs]
        await asyncio.gather(*(asyncio.shield(item.settled) for item in started))

    async def remove(self, name: str) -> None:
        """Stop one process and forget it."""
        if name in self._managed:
            await self._stop_some([self._managed[name]], STOP_WITHIN)
            del self._managed[name]

    async def stop(self) -> None:
        """Stop everything, in the reverse order of kinds, within `STOP_WITHIN` seconds.

        1. Ask each kind in turn, giving it its share of the time (what is left over adds up).
        2. Kill what is still there. 3. Await every task.
        """
        allowed = time.monotonic()
        for kind in reversed(Kind):
            allowed += _SHARE[kind]
            of_kind = [item for item in self if item.spec.kind is kind]
            await self._stop_some(of_kind, allowed - time.monotonic())

    def kill(self) -> None:
        """Kill everything at once (a second Ctrl-C)."""
        for item in self:
            item.stopping.set()
            item.signal(signal.SIGKILL, whole_group=True)

    def _add(self, spec: ProcessSpec) -> Managed:
        if spec.name in self._managed:
            raise ValueError(f"there is already a process named {spec.name}")
        managed = Managed(spec, LogFile(self._logs / f"{spec.name}.log"))
        self._managed[spec.name] = managed
        self._tasks[spec.name] = asyncio.create_task(self._keep(managed), name=f"keep {spec.name}")
        return managed

    async def _stop_some(self, items: list[Managed], seconds: float) -> None:
        tasks = [self._tasks.pop(item.name) for item in items if item.name in self._tasks]
        if not tasks:
            return
        for item in items:
            item.stopping.set()
            item.signal(item.spec.stop_signal)
        _, late = await asyncio.wait(tasks, timeout=max(seconds, 0.05))
        if late:
            names = ", ".join(item.name for item in items if item.pid is not None)
            self._on_event(f"{names}: did not stop in time and is killed")
            for item in items:
                item.signal(signal.SIGKILL, whole_group=True)
            await asyncio.wait(late, timeout=2)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _keep(self, item: Managed) -> None:
        """Run one process again and again until it is told to stop."""
        failures = 0
        try:
            while not item.stopping.is_set():
                started = time.monotonic()
                reason = await self._run_once(item)
                if item.stopping.is_set():
                    break
                failures = 1 if time.monotonic() - started > HEALTHY_AFTER else failures + 1
                if not item.settled.done() and failures >= _FIRST_TRIES:
                    item.settled.set_exception(StartFailedError(item, reason))
                await self._wait_before_restart(item, failures, reason)
        except Exception as error:
            if item.settled.done():
                self._on_event(f"{item.name} is not supervised any more: {error!r}")
                raise
            item.settled.set_exception(error)
        finally:
            self._become(item, State.STOPPED)
            if not item.settled.done():
                item.settled.cancel()
            elif not item.settled.cancelled():
                item.settled.exception()  # seen, whether or not a starter still waits
            item.log.close()

    async def _wait_before_restart(self, item: Managed, failures: int, reason: str) -> None:
        delay = backoff(failures) * random.uniform(1.0, 1.2)  # noqa: S311 - no secret
        self._become(item, State.WAITING)
        if item.settled.done() and item.settled.exception() is None:
            when = f" in {delay:.1f} s" if delay > 0.5 else ""
            self._on_event(f"{item.name} {reason}; starting it again{when}")
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(delay):
                await item.stopping.wait()
        item.restarts += 1

    async def _run_once(self, item: Managed) -> str:
        """Start, watch, and wait for the end. Returns how it ended, in words."""
        self._become(item, State.STARTING)
        spec = item.spec
        if spec.prepare is not None:
            try:
                await spec.prepare()
            except Exception as error:  # whatever it is, it is said, and tried again
                item.log.write(f"{error}\n".encode())
                return f"could not be prepared ({error})"
        pipe = LogPipe(item.log)
        try:
            process = await self._spawn(item, pipe)
        except BaseException:
            pipe.close()
            raise
        watch = asyncio.create_task(self._watch(item, process), name=f"watch {item.name}")
        try:
            status = await process.wait()
        finally:
            watch.cancel()
            item.signal(signal.SIGKILL, whole_group=True)  # children it left, and on cancellation
            pipe.close()
            (outcome,) = await asyncio.gather(watch, return_exceptions=True)
            item.pid = None
            self._on_change()
        late = isinstance(outcome, TimeoutError)
        return f"was not ready after {spec.ready_timeout:.0f} s" if late else describe_exit(status)

    async def _spawn(self, item: Managed, pipe: LogPipe) -> asyncio.subprocess.Process:
        spec = item.spec
        before = launcher(run_as=spec.run_as, death_signal=spec.death_signal)
        process = await asyncio.create_subprocess_exec(
            *before,
            *spec.argv,
            env=base_environment() | dict(spec.env),
            cwd=spec.cwd,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=pipe.writer,
            stderr=asyncio.subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C in the terminal is for us; we stop them in order
        )
        pipe.started()
        item.pid = process.pid
        if item.stopping.is_set():
            item.signal(signal.SIGKILL)
        self._on_change()
        return process

    async def _watch(self, item: Managed, process: asyncio.subprocess.Process) -> None:
        """Follow readiness; kill a process that does not become ready in time."""
        try:
            async with asyncio.timeout(item.spec.ready_timeout):
                await _first_yes(item.spec)
        except TimeoutError:
            process.kill()
            raise
        self._become(item, State.READY)
        if not item.settled.done():
            item.settled.set_result(None)
        elif item.restarts:
            self._on_event(f"{item.name} is back")
        heard = time.monotonic()
        while time.monotonic() - heard < SILENCE or item.spec.kind not in _REPLACED:
            await asyncio.sleep(WATCH_EVERY)
            if await _ask(item.spec):
                heard = time.monotonic()
                self._become(item, State.READY)
            else:
                self._become(item, State.SILENT)
        self._on_event(f"{item.name} has not answered for {SILENCE:.0f} s; ending it")
        process.kill()

    def _become(self, item: Managed, state: State) -> None:
        if item.state is not state:
            item.state = state
            self._on_change()


async def _ask(spec: ProcessSpec) -> bool:
    if spec.ready is None:
        return True
    try:
        async with asyncio.timeout(PROBE_TIMEOUT):
            return await spec.ready()
    except (OSError, TimeoutError):
        return False


async def _first_yes(spec: ProcessSpec) -> None:
    while True:
        if await _ask(spec):
            return
        await asyncio.sleep(PROBE_EVERY)
