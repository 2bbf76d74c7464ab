"""One client of the control websocket: its bindings, its running calls, its debug streams.

Everything happens on the event loop and nothing waits: a call is a callback, and only a
system that is not in memory yet costs a task. Closing the session releases all of it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from typing import Final, Protocol

from placeos.api.control import protocol
from placeos.api.control.outbox import Outbox, Slot
from placeos.api.control.protocol import ErrorCode, Refusal, Request
from placeos.model.tokens import Claims
from placeos.wire.errors import CallError, Failure
from placeos.wire.frame import Command, Header
from placeos.wire.waiting import Grace, Patient

EXEC_TIMEOUT: Final = 10.0  # seconds a call may take
ANSWER_TIMEOUT: Final = 11.0  # seconds after which a core that does not answer is not waited for
MAX_CALLS: Final = 1024  # calls of one client under way at once
MAX_BINDINGS: Final = 10_000  # of one client
MAX_DEBUGS: Final = 256  # modules one client may debug at once

log = logging.getLogger("placeos.control")

OnReply = Callable[[Header, bytes], None]
Stop = Callable[[], None]


class Lookups(Protocol):
    """Which module is at a place of a system (`state.Lookups`)."""

    def known(self, system: str) -> Mapping[str, str] | None:
        """`"Display/1"` → module id, if the system is in memory."""

    async def resolve(self, system: str, name: str, index: int) -> str | None:
        """The module id, or None if there is no such module."""


class Binding(Protocol):
    """What `Bindings.bind` returns."""

    def close(self) -> None:
        """No value arrives after this."""


class Bindings(Protocol):
    """Live values that follow every remap (`state.Bindings`)."""

    def bind(
        self, system: str, name: str, index: int, key: str, on_value: Callable[[bytes], None]
    ) -> Binding:
        """Hand the present value, if any, and every change to `on_value` as raw JSON."""


class Router(Protocol):
    """The way to the cores (`cluster.Router`)."""

    def call(self, header: Header, payload: bytes, on_reply: OnReply) -> Stop:
        """Ask the owner of a module; returns what cancels it."""

    def debug(self, module_id: str, on_line: Callable[[bytes], None]) -> Stop:
        """Hand each line of a module's log (LogLine JSON) to `on_line`; returns what stops it."""


class Services:
    """What all sessions share."""

    __slots__ = ("bindings", "lookups", "router")

    def __init__(self, lookups: Lookups, bindings: Bindings, router: Router) -> None:
        self.lookups = lookups
        self.bindings = bindings
        self.router = router


class _Call(Patient):
    """One exec under way. As a callable it takes the answer."""

    __slots__ = ("_calls", "_grace", "_meta", "_outbox", "cancel", "deadline", "id")

    def __init__(
        self, id: int, meta: bytes, deadline: float, calls: dict[_Call, None], outbox: Outbox
    ) -> None:
        self.id = id
        self.deadline = deadline
        self.cancel: Stop | None = None
        self._meta = meta
        self._calls = calls
        self._outbox = outbox
        self._grace = Grace()

    def waits(self, seconds: float) -> None:
        """The time for which its module is handed over is not the caller's."""
        self.deadline += self._grace.add(seconds)

    def __call__(self, header: Header, payload: bytes) -> None:
        """The REPLY or ERROR frame is there. Ignored when nobody waits any more."""
        if self._calls.pop(self, _GONE) is _GONE:
            return
        if header.command == Command.REPLY:
            waited = header.waited
            message = protocol.executed(self.id, payload, self._meta, header.code, waited)
        else:
            error = CallError.parse(header.error, header.code, payload)
            error.waited = header.waited
            message = protocol.call_failed(self.id, error)
        self._outbox.answer(message)

    def failed(self, error: CallError) -> None:
        """It ends here, without an answer of a core."""
        if self._calls.pop(self, _GONE) is not _GONE:
            if self.cancel is not None:
                self.cancel()
            self._outbox.answer(protocol.call_failed(self.id, error))


_GONE: Final = object()


class Session:
    """Serves the requests of one client. `received` never raises and never blocks."""

    def __init__(self, services: Services, outbox: Outbox, claims: Claims) -> None:
        self.claims = claims
        self._services = services
        self._outbox = outbox
        self._loop = asyncio.get_running_loop()
        self._bindings: dict[tuple[str, str, int, str], tuple[Binding, Slot]] = {}
        self._debugs: dict[str, Stop] = {}
        self._calls: dict[_Call, None] = {}
        self._lookups: set[asyncio.Task[None]] = set()
        self._sweep: asyncio.TimerHandle | None = None

    def received(self, text: str) -> None:
        """One text message of the client."""
        if text == "ping":
            self._outbox.pong()
            return
        id = None
        try:
            request = protocol.parse(text)
            id = request.id
            self._serve(request)
        except Refusal as refusal:
            self._outbox.answer(protocol.refused(refusal))
        except Exception:
            log.exception("request failed")
            failure = Refusal(ErrorCode.UNEXPECTED_FAILURE, "failed to execute request", id=id)
            self._outbox.answer(protocol.refused(failure))

    def renew(self, claims: Claims) -> None:
        """The client's rights were looked at again; what they no longer allow ends."""
        self.claims = claims
        if claims.is_support:
            return
        for key in [key for key in self._bindings if key[1].startswith(protocol.PROTECTED)]:
            self._release(key)
        for module in list(self._debugs):
            self._debugs.pop(module)()

    def resume(self) -> None:
        """The client reads again."""
        outbox = self._outbox
        outbox.resume()
        if outbox.dropped_lines and not outbox.paused:
            log.info("debug lines dropped", extra={"lines": outbox.dropped_lines})
            outbox.dropped_lines = 0

    def close(self) -> None:
        """Release everything. Idempotent."""
        for key in list(self._bindings):
            self._release(key)
        for module in list(self._debugs):
            self._debugs.pop(module)()
        calls = list(self._calls)
        self._calls.clear()
        for call in calls:
            if call.cancel is not None:
                call.cancel()
        for task in self._lookups:
            task.cancel()
        if self._sweep is not None:
            self._sweep.cancel()
            self._sweep = None
        self._outbox.clear()

    def _serve(self, request: Request) -> None:
        match request.cmd:
            case "exec":
                self._execute(request)
            case "bind":
                self._bind(request)
            case "unbind":
                self._release(request.key)
                self._outbox.answer(protocol.success(request.id))
            case "debug":
                self._debug(request)
            case _:
                self._ignore(request)

    # -- live values ------------------------------------------------------------------------

    def _bind(self, request: Request) -> None:
        self._check_binding(request)
        meta = protocol.meta(request)
        if request.key not in self._bindings:
            if len(self._bindings) >= MAX_BINDINGS:
                message = f"more than {MAX_BINDINGS} bindings on one connection"
                raise Refusal(ErrorCode.REQUEST_FAILED, message, id=request.id)
            slot = Slot(protocol.notify_prefix(request.id), protocol.notify_suffix(meta))
            value = self._outbox.value

            def on_value(raw: bytes) -> None:
                value(slot, raw)

            binding = self._services.bindings.bind(
                request.sys, request.mod, request.index, request.name, on_value
            )
            self._bindings[request.key] = (binding, slot)
        self._outbox.answer(protocol.bound(request.id, meta))

    def _check_binding(self, request: Request) -> None:
        if not request.mod.startswith(protocol.PROTECTED):
            return
        if not self.claims.is_support:
            message = "attempted to access protected module"
            raise Refusal(ErrorCode.ACCESS_DENIED, message, id=request.id)
        if request.mod == protocol.TRIGGER:
            # No trigger instances exist here yet, so every id is an unknown one.
            message = f"could not find module: sys={request.sys} mod={request.mod}"
            raise Refusal(ErrorCode.MODULE_NOT_FOUND, message, id=request.id)

    def _release(self, key: tuple[str, str, int, str]) -> None:
        known = self._bindings.pop(key, None)
        if known is not None:
            binding, slot = known
            binding.close()
            self._outbox.forget(slot)

    # -- calls ------------------------------------------------------------------------------

    def _execute(self, request: Request) -> None:
        if len(self._calls) >= MAX_CALLS:
            message = f"more than {MAX_CALLS} calls under way on one connection"
            raise Refusal(ErrorCode.UNEXPECTED_FAILURE, message, id=request.id)
        arguments = request.arguments()
        deadline = self._loop.time() + ANSWER_TIMEOUT
        call = _Call(request.id, protocol.meta(request), deadline, self._calls, self._outbox)
        self._calls[call] = None
        if self._sweep is None:
            self._sweep = self._loop.call_at(deadline, self._expire)
        table = self._services.lookups.known(request.sys)
        if table is not None:
            self._route(call, table.get(f"{request.mod}/{request.index}"), request.name, arguments)
            return
        task = self._loop.create_task(self._look_up(call, request, arguments), name="lookup")
        self._lookups.add(task)
        task.add_done_callback(self._lookups.discard)

    async def _look_up(self, call: _Call, request: Request, arguments: bytes) -> None:
        try:
            module = await self._services.lookups.resolve(request.sys, request.mod, request.index)
        except Exception as error:
            log.warning("lookup failed", extra={"reason": str(error)})
            call.failed(CallError(Failure.NOT_RUN, str(error)))
        else:
            self._route(call, module, request.name, arguments)

    def _route(self, call: _Call, module: str | None, function: str, arguments: bytes) -> None:
        if call not in self._calls:
            return  # timed out meanwhile
        if module is None:
            call.failed(CallError(Failure.MODULE_NOT_FOUND, "could not find module"))
            return
        header = Header(
            Command.EXECUTE,
            module=module,
            function=function,
            user=self.claims.sub,
            clearance=self.claims.clearance,
            remaining=int(EXEC_TIMEOUT * 1000),
        )
        try:
            call.cancel = self._services.router.call(header, arguments, call)
        except CallError as error:
            call.failed(error)

    def _expire(self) -> None:
        """Give up on calls that no core answered in time. One timer serves all of them."""
        self._sweep = None
        now = self._loop.time()
        for call in [one for one in self._calls if one.deadline <= now]:
            call.failed(CallError(Failure.TIMED_OUT, f"no answer within {ANSWER_TIMEOUT:g} s"))
        if self._calls:
            soonest = min(call.deadline for call in self._calls)
            self._sweep = self._loop.call_at(soonest, self._expire)

    # -- debug ------------------------------------------------------------------------------

    def _debug(self, request: Request) -> None:
        if not self.claims.is_support:
            raise Refusal(ErrorCode.ACCESS_DENIED, "debug needs support rights", id=request.id)
        module = request.mod
        if module not in self._debugs:
            if len(self._debugs) >= MAX_DEBUGS:
                message = f"more than {MAX_DEBUGS} debug streams on one connection"
                raise Refusal(ErrorCode.REQUEST_FAILED, message, id=request.id)
            id, meta, line = request.id, protocol.meta(request), self._outbox.line

            def on_line(payload: bytes) -> None:
                line(protocol.debug(id, module, meta, payload))

            self._debugs[module] = self._services.router.debug(module, on_line)
        self._outbox.answer(protocol.success(request.id))

    def _ignore(self, request: Request) -> None:
        stop = self._debugs.pop(request.mod, None)
        if stop is not None:
            stop()
        self._outbox.answer(protocol.success(request.id))
