"""The command queue under a clock of the tests: rules by example, promises by search."""

from __future__ import annotations

import math

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from placeos.driver.queue import (
    MAX_QUEUED,
    Action,
    Command,
    CommandQueue,
    Done,
    Failed,
    Gate,
    Write,
)


def command(data: str = "x", **options: object) -> Command:
    return Command(data.encode(), **options)


def told(actions: list[Action]) -> list[str]:
    """Actions in words: `write a`, `done a`, `a: no reply`."""
    words = []
    for action in actions:
        name = action.command.data.decode()
        match action:
            case Write():
                words.append(f"write {name}")
            case Done():
                words.append(f"done {name}")
            case Failed(reason=reason):
                words.append(f"{name}: {reason.value}")
    return words


def opened() -> CommandQueue:
    queue = CommandQueue()
    queue.set_gate(Gate.OPEN, 0)
    return queue


def test_one_at_a_time_and_the_most_urgent_next():
    queue = opened()
    assert told(queue.push(command("a"), 0)) == ["write a"]
    assert told(queue.push(command("b"), 0)) == []
    assert told(queue.push(command("c"), 0)) == []
    assert told(queue.push(command("urgent", priority=90), 0)) == []
    assert told(queue.reply(b"", 1)) == ["done a", "write urgent"]
    assert told(queue.reply(b"", 1)) == ["done urgent", "write b"]
    assert told(queue.reply(b"", 1)) == ["done b", "write c"]


def test_newer_command_takes_the_place_of_one_of_its_name():
    queue = opened()
    queue.push(command("a"), 0)
    queue.push(command("volume 1", name="volume"), 0)
    queue.push(command("b"), 0)
    assert told(queue.push(command("volume 2", name="volume"), 0)) == ["volume 1: superseded"]
    assert told(queue.reply(b"", 0)) == ["done a", "write volume 2"]
    assert told(queue.reply(b"", 0)) == ["done volume 2", "write b"]


def test_retries_then_gives_up():
    queue = opened()
    queue.push(command("a", retries=2, timeout=5), 0)
    assert queue.wake_at == 5
    assert told(queue.tick(4.9)) == []
    assert told(queue.tick(5)) == ["write a"]
    assert told(queue.tick(10)) == ["write a"]
    assert told(queue.tick(15)) == ["a: no reply"]
    assert queue.wake_at is None


def test_retry_comes_before_its_equals():
    queue = opened()
    queue.push(command("a", timeout=1), 0)
    queue.push(command("b"), 0)
    queue.push(command("c", priority=60), 0)
    assert told(queue.tick(1)) == ["write a"]


def test_stale_retry_gives_way_to_the_newer_command_of_its_name():
    queue = opened()
    queue.push(command("volume 1", name="volume", timeout=1), 0)
    queue.push(command("volume 2", name="volume"), 0)
    assert told(queue.tick(1)) == ["volume 1: superseded", "write volume 2"]


def test_delay_counts_from_the_end_of_its_command():
    queue = opened()
    queue.push(command("a", delay=2), 0)
    queue.push(command("b"), 0)
    assert told(queue.reply(b"", 1)) == ["done a"]
    assert queue.wake_at == 3
    assert told(queue.tick(3)) == ["write b"]
    # long over: nothing waits for it
    queue = opened()
    queue.push(command("a", delay=2), 0)
    queue.reply(b"", 1)
    assert told(queue.push(command("b"), 100)) == ["write b"]


def test_connection_lost_during_a_delay():
    queue = opened()
    queue.push(command("a", delay=2), 0)
    queue.push(command("b", timeout=9), 0)
    queue.reply(b"", 1)
    queue.set_gate(Gate.CLOSED, 2)
    assert told(queue.tick(3)) == []
    assert told(queue.set_gate(Gate.OPEN, 4)) == ["write b"]


def test_command_that_waits_for_no_reply():
    queue = opened()
    assert told(queue.push(command("a", wait=False), 0)) == ["write a", "done a"]
    assert not queue.accepts(b"late")


def test_only_a_matching_reply_is_taken():
    queue = opened()
    queue.push(command("a", match=lambda data: data.startswith(b"A")), 0)
    assert not queue.accepts(b"B=1")
    assert queue.accepts(b"A=1")
    actions = queue.reply(b"A=1", 0)
    assert isinstance(actions[0], Done)
    assert actions[0].reply == b"A=1"


def test_offline():
    queue = CommandQueue()
    assert told(queue.push(command("a"), 0)) == ["a: offline"]
    assert told(queue.push(command("b", name="b", timeout=5), 0)) == []
    assert told(queue.push(command("c", name="c", timeout=3), 0)) == []
    assert queue.wake_at == 3
    assert told(queue.tick(3)) == ["c: offline"]
    assert told(queue.set_gate(Gate.OPEN, 4)) == ["write b"]


def test_command_in_flight_when_the_connection_goes():
    queue = opened()
    queue.push(command("a"), 0)
    assert told(queue.set_gate(Gate.CLOSED, 1)) == ["a: offline"]
    queue.set_gate(Gate.OPEN, 2)
    queue.push(command("b", name="b"), 2)
    assert told(queue.set_gate(Gate.CLOSED, 3)) == []
    assert told(queue.set_gate(Gate.OPEN, 4)) == ["write b"]


def test_a_wait_is_not_prolonged_by_a_connection_that_never_gets_ready():
    queue = CommandQueue()
    queue.push(command("a", name="a", timeout=5), 0)
    for now in range(1, 5):
        gate = Gate.LOGIN if now % 2 else Gate.CLOSED
        assert told(queue.set_gate(gate, now)) == []
    assert queue.wake_at == 5
    assert told(queue.tick(5)) == ["a: offline"]


def test_a_wait_is_over_once_the_connection_is_there():
    queue = opened()
    queue.push(command("a", name="a", timeout=100), 0)
    queue.push(command("b", name="b", timeout=5), 0)
    queue.set_gate(Gate.CLOSED, 1)
    queue.set_gate(Gate.OPEN, 2)
    queue.set_gate(Gate.CLOSED, 4)
    queue.set_gate(Gate.OPEN, 5)
    assert told(queue.tick(9)) == []  # 5 s after the first loss, 5 s after the second
    assert told(queue.set_gate(Gate.CLOSED, 20)) == []
    assert told(queue.tick(24)) == []
    assert told(queue.tick(25)) == ["b: offline"]


def test_a_reply_of_several_messages_begins_anew_with_a_retry():
    queue = opened()
    item = command("a", timeout=5, retries=1, until=lambda data: data == b"end")
    queue.push(item, 0)
    queue.reply(b"one", 1, item)
    assert told(queue.tick(6)) == ["write a"]
    queue.reply(b"one", 7, item)
    assert queue.reply(b"end", 8, item) == [Done(item, [b"one", b"end"])]


def test_login_goes_first_and_alone():
    queue = CommandQueue()
    queue.push(command("power", name="power"), 0)
    assert told(queue.set_gate(Gate.LOGIN, 1)) == []
    assert told(queue.push(command("poll"), 1)) == ["poll: offline"]
    assert told(queue.push(command("password", login=True), 1)) == ["write password"]
    assert told(queue.reply(b"", 1)) == ["done password"]
    assert told(queue.set_gate(Gate.OPEN, 1)) == ["write power"]


def test_withdrawn_command_is_not_sent_but_one_in_flight_still_takes_its_reply():
    queue = opened()
    a, b = command("a"), command("b")
    queue.push(a, 0)
    queue.push(b, 0)
    assert told(queue.withdraw(b, 0)) == []
    assert queue.queued == ()
    queue.withdraw(a, 0)
    assert queue.accepts(b"")
    assert told(queue.reply(b"", 1)) == []


def test_clear():
    queue = opened()
    for name in "abc":
        queue.push(command(name), 0)
    assert told(queue.clear(0)) == ["b: withdrawn", "c: withdrawn"]
    assert told(queue.clear(0, current=True)) == ["a: withdrawn"]


def test_bound():
    queue = CommandQueue()
    for number in range(MAX_QUEUED):
        queue.push(command(name=str(number)), 0)
    assert told(queue.push(command("more", name="more"), 0)) == ["more: busy"]
    assert len(queue.queued) == MAX_QUEUED


class Queue(RuleBasedStateMachine):
    """Any order of events keeps the queue's promises."""

    @initialize()
    def begin(self) -> None:
        self.queue = CommandQueue()
        self.now = 0.0
        self.pushed: list[Command] = []
        self.written: dict[Command, int] = {}
        self.ended: dict[Command, int] = {}
        self.withdrawn: set[Command] = set()
        self.not_before = 0.0

    def perform(self, actions: list[Action]) -> None:
        for action in actions:
            item = action.command
            if isinstance(action, Write):
                assert item.wanted
                assert self.queue.gate is Gate.OPEN or (
                    self.queue.gate is Gate.LOGIN and item.login
                )
                assert self.now >= self.not_before, "written during the delay of another"
                assert item not in self.ended
                newer = self.pushed[self.pushed.index(item) + 1 :]
                assert not any(
                    n.name == item.name and n in self.written for n in newer if n.name
                ), "an older command after a newer one of its name"
                self.written[item] = self.written.get(item, 0) + 1
                assert self.written[item] <= item.retries + 1
            else:
                assert item not in self.withdrawn
                self.ended[item] = self.ended.get(item, 0) + 1
                assert self.ended[item] == 1
                if isinstance(action, Done):
                    self.not_before = self.now + item.delay

    @rule(
        name=st.sampled_from(["", "", "power", "volume"]),
        priority=st.sampled_from([10, 50, 90]),
        timeout=st.sampled_from([1.0, 5.0]),
        retries=st.integers(0, 2),
        wait=st.booleans(),
        delay=st.sampled_from([0.0, 0.0, 2.0]),
        login=st.booleans(),
    )
    def push(self, **options: object) -> None:
        item = Command(str(len(self.pushed)).encode(), **options)
        self.pushed.append(item)
        self.perform(self.queue.push(item, self.now))

    @precondition(lambda self: self.queue.current is not None)
    @rule()
    def reply(self) -> None:
        assert self.queue.accepts(b"ok")
        self.perform(self.queue.reply(b"ok", self.now))

    @rule(seconds=st.sampled_from([0.1, 1.0, 5.0]))
    def wait(self, seconds: float) -> None:
        self.now += seconds
        self.perform(self.queue.tick(self.now))

    @rule(gate=st.sampled_from(list(Gate)))
    def connection(self, gate: Gate) -> None:
        self.perform(self.queue.set_gate(gate, self.now))

    @precondition(lambda self: len(self.pushed) > len(self.ended))
    @rule(data=st.data())
    def withdraw(self, data: st.DataObject) -> None:
        item = data.draw(st.sampled_from([c for c in self.pushed if c not in self.ended]))
        self.withdrawn.add(item)
        self.perform(self.queue.withdraw(item, self.now))

    @rule(current=st.booleans())
    def clear(self, current: bool) -> None:
        self.perform(self.queue.clear(self.now, current=current))
        assert self.queue.queued == ()

    @invariant()
    def nobody_is_forgotten(self) -> None:
        known = {*self.queue.queued, self.queue.current, *self.ended, *self.withdrawn}
        assert all(item in known for item in self.pushed)

    @invariant()
    def sorted_and_without_doubles(self) -> None:
        queued = self.queue.queued
        assert list(queued) == sorted(queued, key=Command.rank)
        names = [item.name for item in queued if item.name]
        assert len(names) == len(set(names))

    @invariant()
    def never_idle_without_a_reason(self) -> None:
        if self.queue.gate is Gate.OPEN and self.queue.queued and self.queue.current is None:
            assert self.queue.wake_at is not None
            assert self.queue.wake_at > self.now or math.isclose(self.queue.wake_at, self.now)

    @invariant()
    def waits_are_bounded(self) -> None:
        if self.queue.gate is not Gate.OPEN and self.queue.queued:
            assert self.queue.wake_at is not None


TestQueue = Queue.TestCase
TestQueue.settings = settings(max_examples=80, stateful_step_count=40, deadline=None)


@given(st.lists(st.integers(0, 100), min_size=1, max_size=20))
def test_priorities_are_kept_in_order(priorities):
    queue = CommandQueue()
    queue.set_gate(Gate.LOGIN, 0)
    for number, priority in enumerate(priorities):
        queue.push(command(str(number), name=str(number), priority=priority), 0)
    order = [write.command for write in queue.set_gate(Gate.OPEN, 0)]
    while queue.current is not None:
        order += [a.command for a in queue.reply(b"", 0) if isinstance(a, Write)]
    expected = sorted(range(len(priorities)), key=lambda n: (-priorities[n], n))
    assert [int(item.data) for item in order] == expected
