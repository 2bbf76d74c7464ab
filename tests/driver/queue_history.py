"""Any sequence of events, played to a command queue under a clock of ours."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st

from placeos.driver.queue import (
    RETRY_BONUS,
    Action,
    Command,
    CommandQueue,
    Failed,
    Gate,
    Reason,
    Write,
)

Event = Callable[["History"], None]


@dataclass
class Note:
    """One action, and which commands could have gone out with it but still wait (with their
    priority, that of a retry being higher)."""

    now: float
    action: Action
    passed_over: dict[Command, int]


@dataclass
class History:
    """A queue, its clock, and everything it did."""

    in_flight: int = 1
    on_demand: bool = False
    now: float = 0.0
    pushed: list[Command] = field(default_factory=list)
    notes: list[Note] = field(default_factory=list)
    begins: dict[Command, int] = field(default_factory=dict)  # notes made before its push
    withdrawn: dict[Command, int] = field(default_factory=dict)  # notes made before
    checks: list[Callable[[History], None]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.queue = CommandQueue(in_flight=self.in_flight, on_demand=self.on_demand)

    def perform(self, event: Callable[[CommandQueue, float], list[Action]]) -> list[Action]:
        actions = event(self.queue, self.now)
        flying = {command.name for command in self.queue.flying if command.name}
        passed_over = {
            command: command.priority + (RETRY_BONUS if command.attempts else 0)
            for command in self.queue.queued
            if command.name not in flying
            and (self.queue.gate is Gate.OPEN or (self.queue.gate is Gate.LOGIN and command.login))
        }
        self.notes += [Note(self.now, action, passed_over) for action in actions]
        for check in self.checks:
            check(self)
        return actions

    def push(self, **options: Any) -> Command:
        command = Command(len(self.pushed), **options)
        self.pushed.append(command)
        self.begins[command] = len(self.notes)
        self.perform(lambda queue, now: queue.push(command, now))
        return command

    def reply(self, data: Any = b"") -> None:
        owner = self.queue.whose(data)
        if owner is not None:
            self.perform(lambda queue, now: queue.reply(data, now, owner))

    def wait(self, seconds: float) -> None:
        """Time passes as on a loop: whenever the queue asked to be woken, it is."""
        end = self.now + seconds
        while (wake := self.queue.wake_at) is not None and wake <= end:
            assert wake >= self.now or not self.queue.flying, "it asked for the past"
            self.now = max(self.now, wake)
            self.perform(CommandQueue.tick)
        self.now = end

    def gate(self, gate: Gate) -> None:
        self.perform(lambda queue, now: queue.set_gate(gate, now))

    def writes(self) -> list[Note]:
        return [note for note in self.notes if isinstance(note.action, Write)]

    def ends(self) -> list[Note]:
        return [note for note in self.notes if not isinstance(note.action, Write)]

    def failures(self, reason: Reason) -> list[Note]:
        return [
            note
            for note in self.notes
            if isinstance(note.action, Failed) and note.action.reason is reason
        ]


commands = st.fixed_dictionaries(
    {
        "name": st.sampled_from(["", "power", "volume"]),
        "priority": st.sampled_from([50, 60, 90]),
        "timeout": st.sampled_from([1.0, 5.0]),
        "retries": st.integers(0, 3),
        "wait": st.sampled_from([True, True, True, False]),
        "delay": st.sampled_from([0.0, 0.0, 0.5, 2.0]),
        "login": st.sampled_from([False, False, False, True]),
        "clears": st.sampled_from([False, False, False, True]),
    }
)


def _withdraw(number: int) -> Event:
    def event(history: History) -> None:
        if history.pushed:
            command = history.pushed[number % len(history.pushed)]
            if all(note.action.command is not command for note in history.ends()):
                history.withdrawn[command] = len(history.notes)
                history.perform(lambda queue, now: queue.withdraw(command, now))

    return event


def _fail(number: int, again: bool) -> Event:
    def event(history: History) -> None:
        flying = history.queue.flying
        if flying:
            command = flying[number % len(flying)]
            error = RuntimeError("told")
            history.perform(lambda queue, now: queue.fail(command, error, now, again=again))

    return event


def _push(options: dict[str, Any]) -> Event:
    return lambda history: history.push(**options)


def _wait(seconds: float) -> Event:
    return lambda history: history.wait(seconds)


def _gate(gate: Gate) -> Event:
    return lambda history: history.gate(gate)


def _clear(current: bool) -> Event:
    return lambda history: history.perform(lambda queue, now: queue.clear(now, current=current))


pushes = commands.map(_push)
waits = st.sampled_from([0.1, 1.0, 5.0]).map(_wait)
replies = st.just(lambda history: history.reply())
rare = st.one_of(
    st.sampled_from(list(Gate)).map(_gate),
    st.integers(0, 9).map(_withdraw),
    st.builds(_fail, st.integers(0, 9), st.booleans()),
    st.booleans().map(_clear),
)
events = st.sampled_from([pushes] * 6 + [waits] * 3 + [replies] * 2 + [rare]).flatmap(
    lambda kind: kind
)
histories = st.builds(History, in_flight=st.integers(1, 3), on_demand=st.booleans())
stories = st.integers(0, 40).flatmap(lambda n: st.lists(events, min_size=n, max_size=n))
searched = settings(max_examples=150, deadline=None)


def play(history: History, story: list[Event]) -> History:
    history.gate(Gate.OPEN)
    for event in story:
        event(history)
    return history
