"""A driver process: one driver file, all its modules, one link to core."""

from __future__ import annotations

import asyncio
import builtins
import faulthandler
import functools
import gc
import logging
import signal
import socket
import sys
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Final, NoReturn

import msgspec
import uvloop

from placeos.driver import log
from placeos.driver.calls import Call, Reply
from placeos.driver.errors import (
    BadArguments,
    DriverError,
    InvalidDriver,
    backtrace_of,
    raised,
    sendable,
)
from placeos.driver.functions import Function
from placeos.driver.loader import Blueprint, load
from placeos.driver.module import TRIED_TO_EXIT, Module
from placeos.driver.schema import encode
from placeos.driver.upstream import Upstream
from placeos.wire.errors import CallError, Failure
from placeos.wire.frame import Command, FrameError, Header
from placeos.wire.link import Hello, Link
from placeos.wire.messages import FINISH_FIRST, ModuleStart

EXIT_UNUSABLE: Final = 3  # the driver file cannot be used
READY_TIMEOUT: Final = 30.0  # seconds core may take to take note of READY
STOP_ALL: Final = 2.0  # seconds for all modules together at TERMINATE

Step = Callable[[], Awaitable[bytes]]  # of a module's life; its result is the answer


class DriverProcess:
    """Serves the link until core ends it or goes away."""

    def __init__(self, path: str, isolation: dict[str, str]) -> None:
        self._path = path
        self._isolation = isolation
        self._modules: dict[str, Module] = {}
        self._turns: dict[str, asyncio.Task[None]] = {}  # the last one of each module
        self._calls: dict[int, asyncio.Task[object]] = {}
        self._ended = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self._blueprint: Blueprint
        self._upstream: Upstream
        self._link: Link
        self._loop: asyncio.AbstractEventLoop

    async def run(self, sock: socket.socket) -> int:
        """Load the driver, serve until the end. Returns the exit status."""
        self._loop = asyncio.get_running_loop()
        link = self._link = Link(
            self._on_frame,
            hello=Hello(service="driver"),
            on_closed=lambda _link, _reason: self._ended.set(),
            on_cancel=self._on_cancel,
        )
        await self._loop.create_connection(lambda: link, sock=sock)
        await link.ready
        self._upstream = Upstream(link)
        sys.exit = builtins.exit = builtins.quit = _refuse_exit  # type: ignore[assignment]
        try:
            self._blueprint = load(self._path)
        except InvalidDriver as error:
            self._upstream.fault("", str(error), backtrace_of(error.__cause__ or error))
            link.close("the driver cannot be used")
            await link.closed
            return EXIT_UNUSABLE
        told = {"isolation": self._isolation, "metadata": self._blueprint.metadata}
        ready = msgspec.json.encode(msgspec.structs.replace(self._blueprint.defaults, **told))
        try:
            await link.request(Header(Command.READY), ready, timeout=READY_TIMEOUT)
        except CallError as error:  # core is gone, or does not want this process
            logging.getLogger("placeos.driver").warning("not taken into use: %s", error)
            return 1
        await self._ended.wait()
        await self._stop_all()
        link.close("terminated")
        await link.closed
        return 0

    # -- frames from core -----------------------------------------------------------------

    def _on_frame(self, link: Link, header: Header, payload: bytes) -> None:
        try:
            self._dispatch(header, payload)
        except CallError as error:
            link.fail(header.sequence, error)
        except (msgspec.MsgspecError, RecursionError) as error:
            link.fail(header.sequence, CallError(Failure.BAD_REQUEST, str(error)))

    def _dispatch(self, header: Header, payload: bytes) -> None:
        match header.command:
            case Command.EXECUTE:
                self._execute(header, payload)
            case Command.VALUE:
                self._upstream.value(payload)
            case Command.MESSAGE:
                self._upstream.message(payload)
            case Command.START:
                start = msgspec.json.decode(payload, type=ModuleStart)
                self._in_turn(header, start.id, functools.partial(self._start, start))
            case Command.UPDATE:
                start = msgspec.json.decode(payload, type=ModuleStart)
                self._in_turn(header, start.id, functools.partial(self._update, start))
            case Command.STOP:
                stop = self._finish if header.function == FINISH_FIRST else self._stop
                self._in_turn(header, header.module, functools.partial(stop, header.module))
            case Command.TERMINATE:
                self._link.reply(header.sequence)
                self._ended.set()
            case Command.DEBUG | Command.IGNORE:
                module = self._module(header.module)
                forward = functools.partial(self._upstream.log, header.module)
                module.log.set_debug(forward if header.command == Command.DEBUG else None)
                self._link.reply(header.sequence)
            case _:
                raise CallError(Failure.BAD_REQUEST, f"a driver process knows no {header.command}")

    def _module(self, module_id: str) -> Module:
        module = self._modules.get(module_id)
        if module is None:
            raise CallError(Failure.MODULE_NOT_FOUND, "could not find module")
        return module

    # -- life cycle -----------------------------------------------------------------------

    def _in_turn(self, header: Header, module_id: str, step: Step) -> None:
        """Start, update and stop of one module happen in the order in which they were asked.

        So a device is released before the module that follows connects to it.
        """
        turn = self._spawn(self._turn(header, self._turns.get(module_id), step))
        self._turns[module_id] = turn
        turn.add_done_callback(functools.partial(self._turn_over, module_id))

    async def _turn(self, header: Header, before: asyncio.Task[None] | None, step: Step) -> None:
        if before is not None:
            await asyncio.wait([before])
        try:
            answer = await step()
        except Exception as error:
            self._link.fail(header.sequence, raised(error))
        else:
            self._link.reply(header.sequence, answer)

    def _turn_over(self, module_id: str, turn: asyncio.Task[None]) -> None:
        if self._turns.get(module_id) is turn:
            del self._turns[module_id]

    async def _start(self, start: ModuleStart) -> bytes:
        present = self._modules.get(start.id)
        if present is not None:
            present.update(start)
        else:
            module = Module(self._blueprint, start, self._upstream)
            if start.debug:
                module.log.set_debug(functools.partial(self._upstream.log, start.id))
            self._modules[start.id] = module
            module.start()
        return msgspec.json.encode(self._blueprint.metadata)

    async def _update(self, start: ModuleStart) -> bytes:
        self._module(start.id).update(start)
        return b"null"

    async def _finish(self, module_id: str) -> bytes:
        module = self._modules.get(module_id)
        if module is not None and self._calls:
            await module.finish(set(self._calls.values()))
        return b"null"

    async def _stop(self, module_id: str) -> bytes:
        module = self._modules.pop(module_id, None)
        if module is not None:
            await module.stop()
        return b"null"

    async def _stop_all(self) -> None:
        for module_id in list(self._modules):
            self._in_turn(Header(Command.STOP), module_id, functools.partial(self._stop, module_id))
        if self._turns:
            await asyncio.wait(self._turns.values(), timeout=STOP_ALL)

    def _spawn(self, job: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = self._loop.create_task(job)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    # -- calls ----------------------------------------------------------------------------

    def _execute(self, header: Header, payload: bytes) -> None:
        module = self._module(header.module)
        function = module.blueprint.functions.get(header.function)
        if function is None:
            raise CallError(
                Failure.FUNCTION_NOT_FOUND, f"could not find function {header.function}"
            )
        if header.clearance < function.clearance:
            raise CallError(
                Failure.ACCESS_DENIED, f"attempted to access privileged function {function.name}"
            )
        try:
            args, named = function.arguments(payload)
        except BadArguments as error:
            raise CallError(Failure.BAD_ARGUMENTS, str(error)) from error
        Execution(self._loop, self._link, header.sequence, module, self._calls).enter(
            function, args, named, _time_for(header, function), header
        )

    def _on_cancel(self, sequence: int) -> None:
        task = self._calls.get(sequence)
        if task is not None:
            task.cancel()


class Execution:
    """One call of a function, answered exactly once."""

    __slots__ = ("_answered", "_calls", "_link", "_loop", "_module", "_sequence", "_timer")

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        link: Link,
        sequence: int,
        module: Module,
        calls: dict[int, asyncio.Task[object]],
    ) -> None:
        self._loop = loop
        self._link = link
        self._sequence = sequence
        self._module = module
        self._calls = calls
        self._answered = False
        self._timer: asyncio.TimerHandle | None = None

    def enter(
        self,
        function: Function,
        args: list[object],
        named: dict[str, object],
        seconds: float,
        header: Header,
    ) -> None:
        """Start the function; after `seconds` (0: never) it is cancelled."""
        loop = self._loop
        deadline = loop.time() + seconds if seconds else 0.0
        call = Call(header.user, deadline, header.depth)
        if function.plain:
            try:
                result = self._module.call_plain(function, args, named, call)
            except BaseException as error:  # or it would end the process, with all modules
                self._module.state.flush()
                self._fail(raised(error))
                return
            if not isinstance(result, Awaitable):
                self._returned(result)
                return
            task = self._module.finish_plain(result, function.name, call, self._returned)
        else:
            task = self._module.call(function, args, named, call, self._returned)
        if seconds:
            # Runs after the task's first step: most calls need no timer.
            loop.call_soon(self._arm, task, call.deadline, function.name, seconds)
        if self._sequence:
            self._calls[self._sequence] = task
        task.add_done_callback(self._done)

    def _arm(self, task: asyncio.Task[object], deadline: float, name: str, seconds: float) -> None:
        if not self._answered:
            self._timer = self._loop.call_at(deadline, self._expire, task, name, seconds)

    def _expire(self, task: asyncio.Task[object], name: str, seconds: float) -> None:
        self._fail(CallError(Failure.TIMED_OUT, f"'{name}' did not end within {seconds:g} s"))
        task.cancel()

    def _done(self, task: asyncio.Task[object]) -> None:
        self._calls.pop(self._sequence, None)
        if self._timer is not None:
            self._timer.cancel()
        if self._answered:
            return
        self._module.state.flush()
        error = None if task.cancelled() else task.exception()
        if error is not None:
            self._fail(raised(error))
        else:
            self._fail(CallError(Failure.MAY_HAVE_RUN, "it was stopped while it ran"))

    def _returned(self, result: object) -> None:
        if self._answered:
            return
        self._answered = True
        self._module.state.flush()  # whoever sees the answer sees the state that led to it
        code = 200
        if isinstance(result, Reply):
            code = result.code
            result = result.value
        try:
            text = encode(result)
        except DriverError as error:
            self._module.log.warning("a result was replaced by null: %s", error)
            text = b"null"
        try:
            self._link.reply(self._sequence, text, code)
        except FrameError as error:
            self._fail(CallError(Failure.RAISED, f"the result is too large: {error}"))

    def _fail(self, error: CallError) -> None:
        self._answered = True
        error.message = sendable(self._module.log.mask.text(error.message))
        self._link.fail(self._sequence, error)


def _time_for(header: Header, function: Function) -> float:
    """Seconds a call may take: what the caller has left, or less if the function says so."""
    limits = [limit for limit in (header.remaining / 1000, function.timeout) if limit > 0]
    return min(limits, default=0.0)


def _refuse_exit(code: object = None) -> NoReturn:
    """Takes the place of `sys.exit`, whose SystemExit would end all modules with the loop."""
    raise DriverError(TRIED_TO_EXIT)


def main(sock: socket.socket, path: str, isolation: dict[str, str], clock: str = "") -> int:
    """Run a driver process on an open link socket. Returns the exit status.

    `isolation` is the level that was reached (see confine.py), for core to know.
    With `clock`, a test tells it the time there (see told_loop.py).
    """
    gc.enable()
    gc.set_threshold(10_000, 50, 100)  # what one call leaves behind is gone by itself
    log.configure()
    faulthandler.register(signal.SIGUSR1, file=sys.stderr, all_threads=False)
    sock.setblocking(False)
    if clock:
        from placeos.driver.told_loop import run_told  # only tests need it

        return run_told(clock, DriverProcess(path, isolation).run(sock))
    return uvloop.run(DriverProcess(path, isolation).run(sock))
