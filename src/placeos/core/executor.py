"""Carrying out the plan: bounded concurrency, one step per module at a time, retries."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import random
from collections.abc import Callable, Coroutine, Iterable
from typing import Final

import msgspec
from msgspec import Raw

from placeos.core.calls import Switch
from placeos.core.instances import Instance, Needs
from placeos.core.plan import (
    End,
    Have,
    Launch,
    Start,
    Step,
    Stop,
    Update,
    Want,
    leftovers,
    plan,
)
from placeos.core.process.processes import Processes, Version
from placeos.core.reports import Reports
from placeos.core.state_writer import StateWriter
from placeos.core.together import Together
from placeos.wire.errors import CallError, Failure
from placeos.wire.frame import Command, FrameError, Header
from placeos.wire.link import Link
from placeos.wire.messages import FINISH_FIRST, ModuleStart

log = logging.getLogger("placeos.core")

_Job = Coroutine[object, object, None]

CONCURRENCY: Final = 64  # module steps under way at once
START_TIMEOUT: Final = 10.0  # seconds
STOP_TIMEOUT: Final = 2.0  # seconds
FINISH: Final = 5.2  # seconds for calls under way, which may take 5, before their module moves
BACKOFF: Final = (1.0, 60.0)  # seconds: first and longest pause after a failed step


class Executor:
    """The owner runs `run()`, and tells by `offer` and `want` what should run.

    `on_started(module, metadata)` also follows each accepted update, then with empty
    metadata; `on_stopped(module)` follows each stop that was wanted.
    """

    def __init__(
        self,
        processes: Processes,
        switch: Switch,
        state: StateWriter,
        reports: Reports,
        *,
        on_started: Callable[[str, bytes], None],
        on_stopped: Callable[[str], None],
    ) -> None:
        self.desired: dict[str, Want] = {}
        self.versions: dict[str, Version] = {}
        self.instances: dict[str, Instance] = {}
        self.together = Together()
        self._processes = processes
        self._switch = switch
        self._state = state
        self._reports = reports
        self._on_started = on_started
        self._on_stopped = on_stopped
        self._touched: dict[str, None] = {}
        self._good: dict[str, bytes] = {}
        self._failures: dict[str, int] = {}
        self._needs = Needs()
        self._probing: set[str] = set()
        self._wake = asyncio.Event()
        self._slots = asyncio.Semaphore(CONCURRENCY)
        self._tasks: set[asyncio.Task[None]] = set()
        self._closed = False

    # -- looking ----------------------------------------------------------------------------------

    def want(self, module: str, want: Want | None, *, hand_over: bool = False) -> None:
        """How a module should run from now on; None: not (here). `hand_over`: another core will
        run it: calls under way may end, a start or an update is not waited for."""
        instance = self.instances.get(module)
        if instance is not None and instance.hand_over != hand_over:
            instance.hand_over = hand_over
            (self.together.expect if hand_over else self.together.ended)(module)
            if hand_over and instance.step is not None:
                instance.step.cancel()
        before = self.desired.get(module)
        if before == want:
            return
        if before is not None:
            self._needs.drop(before.version)
        if want is None:
            del self.desired[module]
        else:
            self._needs.add(want.version)
            self.desired[module] = want
        if instance is not None:
            instance.touched.set()
        self.look([module])

    def offer(self, version: Version) -> None:
        """A driver has this version from now on; forget older ones that do not run."""
        for key, old in list(self.versions.items()):
            if old.driver_id == version.driver_id and key not in self._needs:
                del self.versions[key]
        self.versions[version.key] = version

    def look(self, modules: Iterable[str]) -> None:
        """Something about these modules changed: plan them again."""
        self._touched.update(dict.fromkeys(modules))
        self._wake.set()

    def probe(self, version: str) -> None:
        """Load a driver that no module needs, to learn what it says of itself."""
        if version not in self._probing:
            self._probing.add(version)
            self._needs.add(version)
            self._begin(Launch(version))

    def probed(self, version: str) -> None:
        """A process was loaded, or could not be: a probe of it is over."""
        if version in self._probing:
            self._probing.discard(version)
            self._needs.drop(version)
            self._wake.set()

    def reload(self, module: str) -> None:
        """Give a module its payload once more; try a failed one again now."""
        instance = self.instances.get(module)
        if instance is not None:
            instance.payload = b""
            instance.retry = True
            instance.touched.set()
            self.look([module])

    def process_ready(self, key: str) -> None:
        """Modules can be started in this process."""
        self.look([one for one, want in self.desired.items() if want.version == key])

    def process_gone(self, key: str) -> list[str]:
        """All modules in this process ended with it; which those are."""
        gone = self.modules_in(key)
        for module in gone:
            self._switch.stopped(module)
            instance = self.instances[module]
            instance.link = None
            if not instance.busy:  # else its step ends by itself, on the lost link
                self._drop(module, instance)
        self.look(gone)
        return gone

    def modules_in(self, version: str) -> list[str]:
        """Modules in the process of a version."""
        return [one for one, instance in self.instances.items() if instance.version == version]

    def problem(self, module: str) -> CallError | None:
        """Why the module could not be started, if that is so."""
        instance = self.instances.get(module)
        return instance.problem if instance is not None else None

    async def run(self) -> None:
        """Plan and act until cancelled."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            touched, self._touched = self._touched, {}
            self._act(touched)
            await asyncio.sleep(0)

    async def close(self) -> None:
        """Begin nothing more; end all processes, which end their modules."""
        self._closed = True
        self._switch.running.clear()
        await self._processes.end_all()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _act(self, touched: Iterable[str]) -> None:
        if self._closed:
            return
        actual: dict[str, Have] = {}
        wanted: list[str] = list(touched)
        for module in wanted:
            instance = self.instances.get(module)
            if instance is not None:
                actual[module] = Have(instance.version, instance.payload, instance.busy)
        for step in plan(self.desired, actual, self._processes.phases(), wanted):
            self._begin(step)
        for step in leftovers(self._needs, list(self._processes.by_key)):
            self._begin(step)
        for module in wanted:
            self._switch.look_again(module)

    def _begin(self, step: Step) -> None:
        match step:
            case Launch(version):
                known = self.versions.get(version)
                if known is not None:
                    self._processes.launch(known)
            case End(version):
                self._spawn(self._processes.end(version), f"end {version}")
            case Start(module, want):
                instance = Instance(want.version)
                instance.failures = self._failures.pop(module, 0)
                instance.good = self._good.pop(module, b"")
                self.instances[module] = instance
                self._needs.add(want.version)
                starting = self._start(module, instance, want)
                instance.step = self._step(module, instance, starting)
            case Update(module, _, payload):
                instance = self.instances[module]
                update = self._update(module, instance, payload)
                instance.step = self._step(module, instance, update)
            case Stop(module, _):
                instance = self.instances[module]
                self._step(module, instance, self._stop(module, instance))

    def _step(self, module: str, instance: Instance, job: _Job) -> asyncio.Task[None]:
        instance.busy = True
        task = self._spawn(self._carry_out(module, instance, job), f"step {module}")
        task.add_done_callback(functools.partial(self._step_over, module, instance, job))
        return task

    def _spawn(self, job: _Job, name: str) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(job, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("step failed", exc_info=error, extra={"step": task.get_name()})

    async def _carry_out(self, module: str, instance: Instance, job: _Job) -> None:
        # All that moves to other cores stops together: they wait for the last of it.
        async with contextlib.nullcontext() if instance.hand_over else self._slots:
            await job
        if instance.problem is not None:
            await self._pause(module, instance)

    def _step_over(self, module: str, instance: Instance, job: _Job, _: asyncio.Task[None]) -> None:
        job.close()  # it never began if it was cancelled at once
        instance.busy = False
        instance.step = None
        if instance.link is None and self.instances.get(module) is instance:
            self._drop(module, instance)  # whatever it was, it is to be started anew
            if module not in self.desired:  # or not: its start failed, or it was stopped
                self._on_stopped(module)
        self.look([module])

    def _drop(self, module: str, instance: Instance) -> None:
        """The module does not run any more; keep what its next start should know."""
        del self.instances[module]
        self.together.ended(module)
        self._needs.drop(instance.version)
        if instance.good:
            self._good[module] = instance.good
        if instance.failures:
            self._failures[module] = instance.failures

    async def _pause(self, module: str, instance: Instance) -> None:
        """Wait before the next try, or until something else is wanted."""
        delay = min(BACKOFF[0] * 2 ** (instance.failures - 1), BACKOFF[1])
        wanted = self.desired.get(module)
        try:
            async with asyncio.timeout(delay * random.uniform(0.8, 1.2)):  # noqa: S311 - jitter
                while self.desired.get(module) == wanted and not instance.retry:
                    instance.touched.clear()
                    await instance.touched.wait()
        except TimeoutError:
            return
        instance.failures = 0  # it is another thing that is tried

    # -- steps ------------------------------------------------------------------------------------

    async def _start(self, module: str, instance: Instance, want: Want) -> None:
        process = self._processes.by_key.get(want.version)
        link = process.link if process is not None else None
        if link is None:
            return
        state = await self._state.inherit(module, want.version)
        good = instance.good
        self._reports.module_begins(module)
        try:
            # After a crash the last accepted payload goes first: wrong settings that came
            # since must not take its place.
            answer = await self._send_start(link, good or want.payload, state)
        except CallError as error:
            await self._start_failed(module, instance, link, error)
            return
        except asyncio.CancelledError:
            instance.link = link  # it may have started: to be stopped like one that has
            raise
        if process is None or process.link is not link:
            return
        instance.failures = 0
        instance.problem = None
        instance.link = link
        instance.payload = instance.good = good or want.payload
        self._on_started(module, answer)
        self._switch.started(module, link)

    async def _send_start(self, link: Link, payload: bytes, state: dict[str, bytes]) -> bytes:
        start = msgspec.json.decode(payload, type=ModuleStart)
        start.state = {key: Raw(value) for key, value in state.items()}
        start.state_of_other_version = self._state.outdated(start.id)
        header = Header(Command.START, module=start.id)
        try:
            _, answer = await link.request(
                header, msgspec.json.encode(start), timeout=START_TIMEOUT
            )
        except FrameError as error:
            raise CallError(Failure.BAD_REQUEST, f"its settings are too large: {error}") from error
        return answer

    async def _start_failed(
        self, module: str, instance: Instance, link: Link, error: CallError
    ) -> None:
        if error.failure in (Failure.NOT_RUN, Failure.MAY_HAVE_RUN):
            return  # the process ended; that is reported by itself
        log.warning("start failed", extra={"id": module, "reason": error.message})
        self._reports.module_error(module, "start", error.message)
        instance.problem = CallError(Failure.NOT_RUN, f"the module does not start: {error.message}")
        if error.failure == Failure.TIMED_OUT:
            link.send(Header(Command.STOP, module=module))  # it may have started all the same
        instance.good = b""
        instance.failures += 1
        self._switch.look_again(module)

    async def _update(self, module: str, instance: Instance, payload: bytes) -> None:
        link = instance.link
        if link is None:
            return
        instance.payload = payload
        try:
            await link.request(
                Header(Command.UPDATE, module=module), payload, timeout=START_TIMEOUT
            )
        except CallError as error:
            if error.failure not in (Failure.NOT_RUN, Failure.MAY_HAVE_RUN):
                log.warning("update refused", extra={"id": module, "reason": error.message})
                self._reports.module_error(module, "settings", error.message)
            return
        instance.good = payload
        self._reports.module_well(module, "settings")
        self._on_started(module, b"")

    async def _stop(self, module: str, instance: Instance) -> None:
        self._switch.stopped(module)
        link, instance.link = instance.link, None
        instance.good = b""
        if link is not None and link.is_open:
            if instance.hand_over:
                await self._finish(link, module)
            try:
                await link.request(Header(Command.STOP, module=module), timeout=STOP_TIMEOUT)
            except CallError as error:
                if error.failure == Failure.TIMED_OUT:
                    # Its device must be free before anything else drives it.
                    log.error("module does not stop", extra={"id": module})  # noqa: TRY400
                    await self._end_process(instance.version)
        self._on_stopped(module)

    async def _finish(self, link: Link, module: str) -> None:
        """Let calls under way end: its own, and those of all modules that move with it."""
        loop = asyncio.get_running_loop()
        until = loop.time() + FINISH
        header = Header(Command.STOP, module=module, function=FINISH_FIRST)
        try:
            await link.request(header, timeout=FINISH)
        except CallError as error:
            log.info("calls did not end", extra={"id": module, "reason": error.message})
        self.together.ended(module)
        await self.together.wait(until - loop.time())

    async def _end_process(self, version: str) -> None:
        process = self._processes.by_key.get(version)
        child = process.child if process is not None else None
        if process is not None and child is not None:
            process.kill()
            await asyncio.wait([child.exited], timeout=STOP_TIMEOUT)
