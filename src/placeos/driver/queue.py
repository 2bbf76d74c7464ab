"""The command queue of one device: one command in flight, the best one next.

`CommandQueue` decides and knows no clock and no socket: time comes in as an argument, what
has to be done goes out as actions. `Sender` is the asyncio shell around it.
"""

from __future__ import annotations

import asyncio
import logging
import math
from bisect import insort
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum, IntEnum

from placeos.driver.errors import Busy, DriverError, NoReply, Offline, Superseded, Withdrawn

MAX_QUEUED = 1000  # commands; a further one is refused
RETRY_BONUS = 20  # how much a retry gains in priority

Match = Callable[[bytes], bool]


class Gate(IntEnum):
    """Which commands may go out."""

    CLOSED = 0  # none: not connected
    LOGIN = 1  # those of the driver's `login`
    OPEN = 2


class Reason(Enum):
    """Why a command failed."""

    NO_REPLY = "no reply"
    OFFLINE = "offline"
    SUPERSEDED = "superseded"
    WITHDRAWN = "withdrawn"
    BUSY = "busy"


@dataclass(slots=True, eq=False)
class Command:
    """One command and how it is to be treated (seconds for `timeout` and `delay`)."""

    data: bytes
    name: str = ""
    priority: int = 50
    timeout: float = 5.0
    retries: int = 3
    wait: bool = True
    delay: float = 0.0
    match: Match | None = None
    login: bool = False
    # kept by the queue
    attempts: int = 0
    bonus: int = 0
    order: int = 0
    wanted: bool = True  # False once nobody waits for it any more
    first_written: float = 0.0
    expires: float = math.inf  # when it has waited long enough for a connection

    def rank(self) -> tuple[int, int]:
        """Sorts by priority, then by order of arrival."""
        return (-(self.priority + self.bonus), self.order)


@dataclass(slots=True, frozen=True)
class Write:
    """Put the command's bytes on the wire."""

    command: Command


@dataclass(slots=True, frozen=True)
class Done:
    """The command is finished; `reply` is empty for one that waited for none."""

    command: Command
    reply: bytes


@dataclass(slots=True, frozen=True)
class Failed:
    """The command is finished, badly."""

    command: Command
    reason: Reason


Action = Write | Done | Failed


class CommandQueue:
    """What goes out next, and what a reply, a passed time or a lost connection means.

    * Highest priority first, in order of arrival among equals; nothing pre-empts.
    * A named command takes the place of a queued one of the same name. A retry never
      displaces a newer command of its name: it ends as superseded instead.
    * No reply within `timeout`: again, with a higher priority, up to `retries` times more.
    * `delay` is counted from the end of the command it belongs to.
    * Not connected: a new command without a name fails; a named one, and what was queued
      before, waits for the connection as long as it would wait for a reply.
    * Every command ends with exactly one Done or Failed, unless nobody wants it any more.
    """

    def __init__(self) -> None:
        self.gate = Gate.CLOSED
        self._queued: list[Command] = []
        self._current: Command | None = None
        self._deadline = 0.0  # of the current command
        self._not_before = 0.0  # the delay of the previous one
        self._order = 0

    @property
    def current(self) -> Command | None:
        """The command in flight."""
        return self._current

    @property
    def queued(self) -> tuple[Command, ...]:
        """The waiting commands, best first."""
        return tuple(self._queued)

    @property
    def wake_at(self) -> float | None:
        """When `tick` has something to do, if time alone brings it."""
        wake_at = min((command.expires for command in self._queued), default=math.inf)
        if self._current is not None:
            wake_at = min(wake_at, self._deadline)
        elif self._eligible() is not None:
            wake_at = min(wake_at, self._not_before)
        return None if wake_at == math.inf else wake_at

    def push(self, command: Command, now: float) -> list[Action]:
        """Queue a command, or refuse it."""
        actions: list[Action] = []
        older = self._named(command.name)
        if older is not None:
            self._queued.remove(older)
            self._fail(older, Reason.SUPERSEDED, actions)
        if not command.name and not self._may_go(command):
            self._fail(command, Reason.OFFLINE, actions)
        elif len(self._queued) >= MAX_QUEUED:
            self._fail(command, Reason.BUSY, actions)
        else:
            self._order += 1
            command.order = older.order if older is not None else self._order
            self._enqueue(command, now)
        return self._advance(now, actions)

    def accepts(self, data: bytes) -> bool:
        """Whether `data` answers the command in flight."""
        command = self._current
        return command is not None and (command.match is None or command.match(data))

    def reply(self, data: bytes, now: float) -> list[Action]:
        """The command in flight was answered."""
        actions: list[Action] = []
        if self._current is not None:
            self._finish(self._current, data, now, actions)
        return self._advance(now, actions)

    def tick(self, now: float) -> list[Action]:
        """Time has passed."""
        actions: list[Action] = []
        if self._current is not None and now >= self._deadline:
            self._try_again(self._current, Reason.NO_REPLY, now, actions)
        for command in [c for c in self._queued if c.expires <= now]:
            self._queued.remove(command)
            self._fail(command, Reason.OFFLINE, actions)
        return self._advance(now, actions)

    def set_gate(self, gate: Gate, now: float) -> list[Action]:
        """The connection came, is ready, or went."""
        actions: list[Action] = []
        self.gate = gate
        for command in self._queued:
            self._set_expiry(command, now)
        if gate is Gate.CLOSED:
            for command in [c for c in self._queued if c.login]:
                self._queued.remove(command)
                self._fail(command, Reason.OFFLINE, actions)
            if self._current is not None:
                self._try_again(self._current, Reason.OFFLINE, now, actions)
        return self._advance(now, actions)

    def withdraw(self, command: Command, now: float) -> list[Action]:
        """Nobody waits for `command` any more: it is not sent (again)."""
        command.wanted = False
        if command in self._queued:
            self._queued.remove(command)
        return self._advance(now, [])

    def clear(self, now: float, *, current: bool = False) -> list[Action]:
        """Drop all queued commands, with `current` also the one in flight."""
        actions: list[Action] = []
        queued, self._queued = self._queued, []
        for command in queued:
            self._fail(command, Reason.WITHDRAWN, actions)
        if current and self._current is not None:
            command, self._current = self._current, None
            self._fail(command, Reason.WITHDRAWN, actions)
        return self._advance(now, actions)

    # -- inside ---------------------------------------------------------------------------

    def _may_go(self, command: Command) -> bool:
        return self.gate is Gate.OPEN or (self.gate is Gate.LOGIN and command.login)

    def _enqueue(self, command: Command, now: float) -> None:
        command.expires = math.inf
        self._set_expiry(command, now)
        insort(self._queued, command, key=Command.rank)

    def _set_expiry(self, command: Command, now: float) -> None:
        """A wait for the connection begins, goes on, or is over."""
        if self._may_go(command):
            command.expires = math.inf
        elif command.expires == math.inf:
            command.expires = now + command.timeout

    def _named(self, name: str) -> Command | None:
        return next((c for c in self._queued if c.name == name), None) if name else None

    def _eligible(self) -> Command | None:
        return next((command for command in self._queued if self._may_go(command)), None)

    def _advance(self, now: float, actions: list[Action]) -> list[Action]:
        while self._current is None and now >= self._not_before:
            command = self._eligible()
            if command is None:
                break
            self._queued.remove(command)
            if not command.attempts:
                command.first_written = now
            command.attempts += 1
            actions.append(Write(command))
            if command.wait:
                self._current = command
                self._deadline = now + command.timeout
            else:
                self._finish(command, b"", now, actions)
        return actions

    def _finish(self, command: Command, reply: bytes, now: float, actions: list[Action]) -> None:
        self._current = None
        self._not_before = now + command.delay
        if command.wanted:
            actions.append(Done(command, reply))

    def _try_again(
        self, command: Command, reason: Reason, now: float, actions: list[Action]
    ) -> None:
        self._current = None
        self._not_before = now + command.delay
        if not command.wanted:
            return
        if command.attempts > command.retries:
            self._fail(command, reason, actions)
        elif self._named(command.name) is not None:
            self._fail(command, Reason.SUPERSEDED, actions)
        elif self.gate is Gate.CLOSED and (not command.name or command.login):
            self._fail(command, Reason.OFFLINE, actions)
        else:
            command.bonus = RETRY_BONUS
            self._enqueue(command, now)

    def _fail(self, command: Command, reason: Reason, actions: list[Action]) -> None:
        if command.wanted:
            actions.append(Failed(command, reason))


def _error(command: Command, reason: Reason) -> DriverError:
    what = f"the command {command.name!r}" if command.name else "the command"
    match reason:
        case Reason.NO_REPLY:
            tries = f" ({command.attempts} attempts)" if command.attempts > 1 else ""
            return NoReply(f"the device did not answer {what} within {command.timeout:g} s{tries}")
        case Reason.OFFLINE:
            return Offline("the device is not connected")
        case Reason.SUPERSEDED:
            return Superseded(f"a newer {command.name!r} command took its place")
        case Reason.WITHDRAWN:
            return Withdrawn(f"{what} was withdrawn")
        case Reason.BUSY:
            return Busy(f"{MAX_QUEUED} commands are waiting already")


class Sender:
    """Runs a CommandQueue on the event loop.

    `write` puts bytes on the wire; `on_silence` is told when a command ran out of attempts
    and nothing at all was heard from the device since it was first sent.
    """

    __slots__ = (
        "_heard_at",
        "_log",
        "_loop",
        "_on_silence",
        "_queue",
        "_timer",
        "_waiting",
        "_write",
    )

    def __init__(
        self,
        write: Callable[[bytes], None],
        on_silence: Callable[[], None],
        log: logging.Logger,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._queue = CommandQueue()
        self._write = write
        self._on_silence = on_silence
        self._log = log
        self._waiting: dict[Command, asyncio.Future[bytes]] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._heard_at = 0.0

    async def send(self, command: Command) -> bytes:
        """Queue a command and wait for its reply. Raises the errors of `errors.py`."""
        future: asyncio.Future[bytes] = self._loop.create_future()
        self._waiting[command] = future
        self._perform(self._queue.push(command, self._loop.time()))
        try:
            return await future
        finally:
            if self._waiting.pop(command, None) is not None:  # cancelled while waiting
                self._perform(self._queue.withdraw(command, self._loop.time()))

    def offer(self, data: bytes) -> bool:
        """Give a message to the command in flight. False: it is nobody's answer."""
        now = self._heard_at = self._loop.time()
        try:
            accepted = self._queue.accepts(data)
        except Exception:
            self._log.exception("the match function of a command failed")
            accepted = False
        if accepted:
            self._perform(self._queue.reply(data, now))
        return accepted

    def set_gate(self, gate: Gate) -> None:
        """Open or close the way to the device."""
        self._perform(self._queue.set_gate(gate, self._loop.time()))

    def clear(self, *, current: bool = False) -> None:
        """Withdraw what is queued, with `current` also what is in flight."""
        self._perform(self._queue.clear(self._loop.time(), current=current))

    def _tick(self) -> None:
        self._timer = None
        self._perform(self._queue.tick(self._loop.time()))

    def _perform(self, actions: list[Action]) -> None:
        silent = False
        for action in actions:
            command = action.command
            if isinstance(action, Write):
                self._write(command.data)
                continue
            future = self._waiting.pop(command, None)
            if isinstance(action, Failed):
                silent |= action.reason is Reason.NO_REPLY and (
                    self._heard_at < command.first_written
                )
                if future is not None and not future.done():
                    future.set_exception(_error(command, action.reason))
            elif future is not None and not future.done():
                future.set_result(action.reply)
        self._arm()
        if silent:
            self._on_silence()

    def _arm(self) -> None:
        wake_at = self._queue.wake_at
        if self._timer is not None:
            if self._timer.when() == wake_at and not self._timer.cancelled():
                return
            self._timer.cancel()
            self._timer = None
        if wake_at is not None:
            self._timer = self._loop.call_at(wake_at, self._tick)
