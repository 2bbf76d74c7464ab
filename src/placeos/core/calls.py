"""The switch: calls from links to modules, by rewriting headers and never reading payloads."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final, Protocol

from placeos.wire.errors import CallError, Failure
from placeos.wire.frame import Command, Header
from placeos.wire.link import Link, OnReply
from placeos.wire.waiting import PATIENCE, Patient

MAX_WAITING: Final = 1_000  # calls that wait for one module
END_TIMEOUT: Final = 3.0  # seconds in which the end of a process is explained
SWEEP: Final = 0.25  # seconds between looks at what waited too long

Absence = CallError | None
"""Why a module is not there; None: it should be there soon."""


class Call(Patient):
    """One call on its way. As a callable it takes the answer."""

    __slots__ = (
        "cancel_remote",
        "deadline",
        "done",
        "header",
        "link",
        "origin",
        "payload",
        "sent",
        "sequence",
        "since",
        "switch",
        "waited",
    )

    def __init__(self, switch: Switch, origin: Origin, header: Header, payload: bytes) -> None:
        self.switch = switch
        self.origin = origin
        self.header = header
        self.payload = payload
        self.sequence = header.sequence  # towards the origin
        self.link: Link | None = None  # the link it was sent on
        self.sent = 0  # its number there
        self.cancel_remote: Callable[[], None] | None = None
        self.deadline = 0.0  # loop time; 0 until it has to wait
        self.since = 0.0  # loop time at which it began to wait; 0: it does not
        self.waited = 0.0  # seconds, without the present wait
        self.done = False

    def __call__(self, answer: Header, body: bytes) -> None:
        """Pass the answer on to where the call came from."""
        if answer.error and self.switch.lost(self, answer):
            return
        if not self.done:
            self.done = True
            self.origin.open.pop(self.sequence, None)
            answer.sequence = self.sequence
            self.goes_on()
            if self.waited:
                answer.waited += int(self.waited * 1000)
            self.origin.link.answer(answer, body)

    def waits(self, seconds: float) -> None:
        """It waits here or at another core: the origin hears that its time stands still."""
        if seconds > 0:
            self.origin.link.wait(self.sequence, seconds)

    def stands(self, now: float) -> None:
        """It begins to wait; what it waited elsewhere counts."""
        if not self.deadline:
            self.deadline = now + max(0.0, PATIENCE - self.header.waited / 1000)
        self.since = now
        self.waits(self.deadline - now)

    def goes_on(self) -> None:
        """It waits no more."""
        if self.since:
            self.waited += asyncio.get_running_loop().time() - self.since
            self.since = 0.0

    def fail(self, error: CallError) -> None:
        """Answer with an error."""
        self(Header(Command.ERROR, code=error.code, error=error.failure), error.detail())

    def cancel(self) -> None:
        """The origin no longer waits."""
        self.done = True
        if self.link is not None:
            self.link.cancel(self.sent)
        elif self.cancel_remote is not None:
            self.cancel_remote()


class Origin:
    """A link that calls come from: another service's, or a driver process's."""

    __slots__ = ("link", "open")

    def __init__(self, link: Link) -> None:
        self.link = link
        self.open: dict[int, Call] = {}

    def cancel(self, sequence: int) -> None:
        """A CANCEL frame came."""
        call = self.open.pop(sequence, None)
        if call is not None:
            call.cancel()

    def closed(self) -> None:
        """The link is gone: what is still queued for it shall not run."""
        calls, self.open = self.open, {}
        for call in calls.values():
            call.cancel()


class Remote(Protocol):
    """The way to other cores."""

    def call(self, header: Header, payload: bytes, on_reply: OnReply) -> Callable[[], None]:
        """As `cluster.routing.Router.call`."""
        ...


class Switch:
    """Knows on which link each running module is, and keeps calls for those that start.

    `absence(module)` decides about a module that does not run here: an error to answer with,
    or None when it should be back soon. The owner runs `run()`.
    """

    def __init__(self, absence: Callable[[str], Absence]) -> None:
        self.running: dict[str, Link] = {}
        self.on_started: Callable[[str], None] = _nothing
        """Hears that a module runs (again), before the calls that waited for it go."""
        self._absence = absence
        self._waiting: dict[str, list[Call]] = {}
        self._lost: dict[Link, list[Call]] = {}

    def execute(self, origin: Origin, header: Header, payload: bytes) -> None:
        """Forward one call to a module of this node."""
        call = Call(self, origin, header, payload)
        if call.sequence:
            origin.open[call.sequence] = call
        link = self.running.get(header.module)
        if link is not None:
            self._send(call, link)
        else:
            self._wait(call)

    def execute_elsewhere(
        self, origin: Origin, header: Header, payload: bytes, remote: Remote
    ) -> None:
        """Forward one call to the core that owns the module."""
        call = Call(self, origin, header, payload)
        if call.sequence:
            origin.open[call.sequence] = call
        call.cancel_remote = remote.call(header, payload, call)

    def _send(self, call: Call, link: Link) -> None:
        call.goes_on()
        try:
            call.sent = link.call(call.header, call.payload, call)
            call.link = link
        except CallError as error:
            if error.failure == Failure.NOT_RUN:  # the process ended this very moment
                self._wait(call)
            else:
                call.fail(error)

    def _wait(self, call: Call) -> None:
        module = call.header.module
        error = self._absence(module)
        if error is None:
            waiting = self._waiting.setdefault(module, [])
            if len(waiting) < MAX_WAITING:
                call.stands(asyncio.get_running_loop().time())
                waiting.append(call)
                return
            error = CallError(Failure.BUSY, "too many calls are waiting for this module")
        call.fail(error)

    # -- what becomes of processes --------------------------------------------------------------

    def lost(self, call: Call, answer: Header) -> bool:
        """Whether a call was cut by the end of its process: it is answered by `ended`."""
        link = call.link
        if link is None or link.is_open:
            return False
        if answer.error == Failure.NOT_RUN:  # not a byte of it was sent: the next one gets it
            call.link = None
            self._wait(call)
            return True
        if answer.error != Failure.MAY_HAVE_RUN:
            return False
        call.link = None  # its answer is not taken for another loss
        call.deadline = asyncio.get_running_loop().time() + END_TIMEOUT
        self._lost.setdefault(link, []).append(call)
        return True

    def ended(self, link: Link, reason: str) -> None:
        """The process at the other end of a link ended; why is known now."""
        for call in self._lost.pop(link, ()):
            message = f"its driver process {reason} while '{call.header.function}' ran"
            call.fail(CallError(Failure.MAY_HAVE_RUN, message))

    # -- what becomes of modules ----------------------------------------------------------------

    def started(self, module: str, link: Link) -> None:
        """The module runs on this link: calls may go, those that waited first."""
        self.running[module] = link
        self.on_started(module)
        for call in self._waiting.pop(module, ()):
            if not call.done:
                self._send(call, link)

    def stopped(self, module: str) -> None:
        """The module does not run at present."""
        self.running.pop(module, None)

    def look_again(self, module: str) -> None:
        """Calls that wait for the module may have become hopeless."""
        waiting = self._waiting.get(module)
        if waiting is not None and (error := self._absence(module)) is not None:
            del self._waiting[module]
            for call in waiting:
                if not call.done:
                    call.fail(error)

    async def run(self) -> None:
        """Give up what waited too long, until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(SWEEP)
            now = loop.time()
            for module, waiting in list(self._waiting.items()):
                left = [call for call in waiting if not call.done and call.deadline > now]
                for call in waiting:
                    if not call.done and call.deadline <= now:
                        call.fail(_late())
                if left:
                    self._waiting[module] = left
                else:
                    self._waiting.pop(module, None)
            for link, calls in list(self._lost.items()):
                if calls[0].deadline <= now:
                    self.ended(link, "was lost")


def _nothing(_module: str) -> None:
    """Nobody wants to know."""


def _late() -> CallError:
    return CallError(Failure.NOT_RUN, "the module is being started and did not come up in time")
