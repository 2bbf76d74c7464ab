"""The command queue of one device: a few commands in flight (one as a rule), the best one next.

It decides, and knows no clock and no socket: time comes in as an argument, what has to be done
goes out as actions. `Sender` (sender.py) is the asyncio shell around it.
"""

from __future__ import annotations

import math
from bisect import insort
from collections.abc import Callable
from typing import Any, Final

from placeos.driver.command import (
    MAX_PARTS,
    MAX_QUEUED,
    Action,
    Command,
    Done,
    Failed,
    Gate,
    Match,
    Queue,
    Reason,
    Write,
)

__all__ = [
    "MAX_QUEUED",
    "Action",
    "Command",
    "CommandQueue",
    "Done",
    "Failed",
    "Gate",
    "Match",
    "Queue",
    "Reason",
    "Write",
]

RETRY_BONUS: Final = 20  # how much a retry gains in priority


class CommandQueue:
    """What goes out next, and what a reply, a passed time or a lost connection means.

    * Highest priority first, in order of arrival among equals; nothing pre-empts. At most
      `in_flight` commands wait for their reply at once, never two of one name.
    * A named command takes the place of a queued one of the same name. A retry never
      displaces a newer command of its name: it ends as superseded instead.
    * A reply belongs to the first one in flight whose `match` accepts it.
    * No reply within `timeout`: again, with a higher priority, up to `retries` times more.
    * `delay` is counted from the end of the command it belongs to.
    * Not connected: a new command without a name fails; a named one, and what was queued
      before, waits for the connection as long as it would wait for a reply. `on_demand`,
      where a command is what makes the connection, all of them wait for it.
    * Every command ends with exactly one Done or Failed, unless nobody wants it any more.
    """

    def __init__(self, *, in_flight: int = 1, on_demand: bool = False) -> None:
        self.gate = Gate.CLOSED
        self._most = in_flight
        self._on_demand = on_demand
        self._queued: list[Command] = []
        self._flying: list[Command] = []
        self._not_before = 0.0  # the delay of what ended last
        self._order = 0

    @property
    def current(self) -> Command | None:
        """The command that has been in flight for longest."""
        return self._flying[0] if self._flying else None

    @property
    def flying(self) -> tuple[Command, ...]:
        """The commands that wait for their reply, in the order in which they were written."""
        return tuple(self._flying)

    @property
    def queued(self) -> tuple[Command, ...]:
        """The waiting commands, best first."""
        return tuple(self._queued)

    @property
    def busy(self) -> bool:
        """Whether any command is queued or in flight."""
        return bool(self._queued or self._flying)

    @property
    def wake_at(self) -> float | None:
        """When `tick` has something to do, if time alone brings it."""
        wake_at = min((command.expires for command in self._queued), default=math.inf)
        for command in self._flying:
            wake_at = min(wake_at, command.deadline)
        if len(self._flying) < self._most and self._eligible() is not None:
            wake_at = min(wake_at, self._not_before)
        return None if wake_at == math.inf else wake_at

    def push(self, command: Command, now: float) -> list[Action]:
        """Queue a command, or refuse it."""
        actions: list[Action] = []
        older = self._named(command.name)
        if not self._may_wait(command):
            self._fail(command, Reason.OFFLINE, actions)
        elif len(self._queued) >= MAX_QUEUED and older is None:
            self._fail(command, Reason.BUSY, actions)
        else:
            self._order += 1
            command.order = self._order
            if older is not None:
                command.order = older.order
                self._queued.remove(older)
                self._fail(older, Reason.SUPERSEDED, actions)
            self._enqueue(command, now)
        return self._advance(now, actions)

    def whose(
        self, data: Any, failed: Callable[[Exception], None] = lambda error: None
    ) -> Command | None:
        """The command in flight that `data` answers. A `match` that failed accepts nothing, and
        `failed` is told."""
        for command in self._flying:
            try:
                if command.match is None or command.match(data):
                    return command
            except Exception as error:
                failed(error)
        return None

    def accepts(self, data: Any) -> bool:
        """Whether `data` answers a command in flight."""
        return self.whose(data) is not None

    def reply(self, data: Any, now: float, command: Command | None = None) -> list[Action]:
        """A command in flight (the first one, if not given) was answered, or a part of it was."""
        actions: list[Action] = []
        command = command or self.current
        if command is not None and command in self._flying:
            if command.until is None:
                self._finish(command, data, now, actions)
            elif len(command.parts) >= MAX_PARTS:
                error = ValueError(f"more than {MAX_PARTS} messages, and still not the last one")
                return self.fail(command, error, now)
            else:
                command.parts.append(data)
                if command.until(data):
                    self._finish(command, command.parts, now, actions)
                else:
                    command.deadline = now + command.timeout
        return self._advance(now, actions)

    def extend(self, now: float, command: Command | None = None) -> None:
        """The device works on it: wait for the reply as long again from now."""
        command = command or self.current
        if command is not None and command in self._flying:
            command.deadline = now + command.timeout

    def fail(
        self, command: Command, error: Exception, now: float, *, again: bool = False
    ) -> list[Action]:
        """A command cannot be carried out. `again`: try it once more if it has attempts left."""
        actions: list[Action] = []
        if command in self._flying:
            if again:
                self._try_again(command, Reason.TOLD, now, actions, error)
            else:
                self._land(command, now)
                self._fail(command, Reason.TOLD, actions, error)
        elif command in self._queued:
            self._queued.remove(command)
            self._fail(command, Reason.TOLD, actions, error)
        return self._advance(now, actions)

    def tick(self, now: float) -> list[Action]:
        """Time has passed."""
        actions: list[Action] = []
        for command in [c for c in self._flying if c.deadline <= now]:
            self._try_again(command, Reason.NO_REPLY, now, actions)
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
            for command in list(self._flying):
                self._try_again(command, Reason.OFFLINE, now, actions)
        return self._advance(now, actions)

    def withdraw(self, command: Command, now: float) -> list[Action]:
        """Nobody waits for `command` any more: it is not sent (again)."""
        command.wanted = False
        if command in self._queued:
            self._queued.remove(command)
        return self._advance(now, [])

    def clear(
        self, now: float, *, current: bool = False, error: Exception | None = None
    ) -> list[Action]:
        """Drop all queued commands, with `current` also those in flight. They end with
        `error` if one is given."""
        actions: list[Action] = []
        self._drop(self._queued, actions, error)
        if current:
            self._drop(self._flying, actions, error)
        return self._advance(now, actions)

    # -- inside ---------------------------------------------------------------------------

    def _may_go(self, command: Command) -> bool:
        return self.gate is Gate.OPEN or (self.gate is Gate.LOGIN and command.login)

    def _may_wait(self, command: Command) -> bool:
        """Whether it may be queued as things are, for now or for a connection to come."""
        if command.login and self.gate is Gate.CLOSED:
            return False
        return bool(command.name) or self._on_demand or self._may_go(command)

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
        flying = {command.name for command in self._flying if command.name}
        return next((c for c in self._queued if self._may_go(c) and c.name not in flying), None)

    def _advance(self, now: float, actions: list[Action]) -> list[Action]:
        while len(self._flying) < self._most and now >= self._not_before:
            command = self._eligible()
            if command is None:
                break
            self._queued.remove(command)
            command.attempts += 1
            command.parts = []
            actions.append(Write(command))
            if command.wait:
                self._flying.append(command)
                command.deadline = now + command.timeout
            else:
                self._finish(command, b"", now, actions)
        return actions

    def _land(self, command: Command, now: float) -> None:
        if command in self._flying:
            self._flying.remove(command)
        self._not_before = max(self._not_before, now + command.delay)

    def _finish(self, command: Command, reply: Any, now: float, actions: list[Action]) -> None:
        self._land(command, now)
        if command.wanted:
            actions.append(Done(command, reply))
        if command.clears:
            self._drop(self._queued, actions)

    def _try_again(
        self,
        command: Command,
        reason: Reason,
        now: float,
        actions: list[Action],
        error: Exception | None = None,
    ) -> None:
        self._land(command, now)
        if not command.wanted:
            return
        if command.attempts > command.retries:
            self._fail(command, reason, actions, error)
        elif self._named(command.name) is not None:
            self._fail(command, Reason.SUPERSEDED, actions)
        elif self.gate is Gate.CLOSED and not self._may_wait(command):
            self._fail(command, Reason.OFFLINE, actions, error)
        else:
            command.bonus = RETRY_BONUS
            self._enqueue(command, now)

    def _drop(
        self, commands: list[Command], actions: list[Action], error: Exception | None = None
    ) -> None:
        dropped = list(commands)
        commands.clear()
        reason = Reason.WITHDRAWN if error is None else Reason.TOLD
        for command in dropped:
            self._fail(command, reason, actions, error)

    def _fail(
        self,
        command: Command,
        reason: Reason,
        actions: list[Action],
        error: Exception | None = None,
    ) -> None:
        if command.wanted:
            actions.append(Failed(command, reason, error))
