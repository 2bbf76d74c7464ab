"""The command queue of one device at work on the event loop."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any

from placeos.driver.command import Action, Command, Failed, Gate, Reason, Write, error_of
from placeos.driver.queue import CommandQueue


class Sender:
    """Runs a CommandQueue on the event loop.

    `write` puts a command's data on the wire. `on_silence` is told when a command ran out of
    attempts and nothing at all was heard from the device since it was first sent; `on_wanted`
    when commands wait for a connection; `on_idle` when the last command has ended.
    """

    __slots__ = (
        "_heard",
        "_log",
        "_loop",
        "_on_idle",
        "_on_silence",
        "_on_wanted",
        "_queue",
        "_timer",
        "_waiting",
        "_write",
        "cause",
    )

    def __init__(
        self,
        write: Callable[[Any], None],
        on_silence: Callable[[], None],
        log: logging.Logger,
        *,
        in_flight: int = 1,
        on_demand: bool = False,
        on_wanted: Callable[[], None] | None = None,
        on_idle: Callable[[], None] | None = None,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._queue = CommandQueue(in_flight=in_flight, on_demand=on_demand)
        self._write = write
        self._on_silence = on_silence
        self._on_wanted = on_wanted
        self._on_idle = on_idle
        self._log = log
        self._waiting: dict[Command, asyncio.Future[Any]] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._heard = 0  # messages; the clock is too coarse to tell which came first
        self.cause = ""
        """Why there is no connection, if that is known."""

    @property
    def busy(self) -> bool:
        """Whether any command is queued or in flight."""
        return self._queue.busy

    @property
    def current(self) -> Command | None:
        """The command that has been in flight for longest."""
        return self._queue.current

    async def send(self, command: Command) -> Any:
        """Queue a command and wait for its reply. Raises the errors of `errors.py`, and what
        `fail` was given."""
        future: asyncio.Future[Any] = self._loop.create_future()
        self._waiting[command] = future
        self._perform(self._queue.push(command, self._loop.time()))
        if self._on_wanted is not None and not future.done() and self._queue.gate is Gate.CLOSED:
            self._on_wanted()
        try:
            return await future
        finally:
            if self._waiting.pop(command, None) is not None:  # cancelled while waiting
                self._perform(self._queue.withdraw(command, self._loop.time()))

    def offer(self, data: Any) -> bool:
        """Give a message to the command it answers. False: it is nobody's answer."""
        self._heard += 1
        command = self._queue.whose(data, self._no_match)
        if command is None:
            return False
        self.reply(command, data)
        return True

    def _no_match(self, error: Exception) -> None:
        """A match function failed: the message is not for that command, perhaps for another."""
        self._log.error("the match function of a command failed", exc_info=error)

    def reply(self, command: Command, data: Any) -> None:
        """A command in flight was answered. Harmless once it has ended."""
        now = self._loop.time()
        self._heard += 1
        try:
            actions = self._queue.reply(data, now, command)
        except Exception as error:  # of the command's `until`
            actions = self._queue.fail(command, error, now)
        self._perform(actions)

    def fail(self, command: Command, error: Exception, *, again: bool = False) -> None:
        """End a command with `error` now. `again`: only if it has no attempt left. Harmless
        once it has ended."""
        self._perform(self._queue.fail(command, error, self._loop.time(), again=again))

    def extend(self, command: Command | None = None) -> None:
        """Wait for the reply as long again from now; of the first in flight if not given."""
        self._queue.extend(self._loop.time(), command)
        self._arm()

    def set_gate(self, gate: Gate) -> None:
        """Open or close the way to the device."""
        self._perform(self._queue.set_gate(gate, self._loop.time()))

    def clear(self, *, current: bool = False, error: Exception | None = None) -> None:
        """Withdraw what is queued, with `current` also what is in flight. They end with
        `error` if one is given."""
        self._perform(self._queue.clear(self._loop.time(), current=current, error=error))

    def _tick(self) -> None:
        self._timer = None
        self._perform(self._queue.tick(self._loop.time()))

    def _perform(self, actions: Iterable[Action]) -> None:
        silent = False
        ended = False
        waiting = deque(actions)
        while waiting:
            action = waiting.popleft()
            if isinstance(action, Write):
                waiting.extend(self._put(action.command))
                continue
            ended = True
            future = self._waiting.pop(action.command, None)
            if isinstance(action, Failed):
                unheard = self._heard == action.command.heard
                silent |= action.reason is Reason.NO_REPLY and unheard
                if future is not None and not future.done():
                    future.set_exception(error_of(action, self.cause))
            elif future is not None and not future.done():
                future.set_result(action.reply)
        self._arm()
        if silent:
            self._on_silence()
        if ended and self._on_idle is not None and not self._queue.busy:
            self._on_idle()

    def _put(self, command: Command) -> list[Action]:
        """Write it; what follows if that fails (the next one is written, which may fail too)."""
        if command.attempts == 1:
            command.heard = self._heard
        try:
            if command.via is not None:
                command.via(command)
            else:
                self._write(command.data)
        except Exception as error:
            future = self._waiting.pop(command, None)
            if future is not None and not future.done():
                future.set_exception(error)
            return self._queue.fail(command, error, self._loop.time())
        return []

    def _arm(self) -> None:
        wake_at = self._queue.wake_at
        if self._timer is not None:
            if self._timer.when() == wake_at and not self._timer.cancelled():
                return
            self._timer.cancel()
            self._timer = None
        if wake_at is not None:
            self._timer = self._loop.call_at(wake_at, self._tick)
