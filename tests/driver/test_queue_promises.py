"""What the command queue promises, each searched for a counterexample under a clock of ours.

`History` notes what the queue did; each property looks at it with the eyes of somebody who
knows nothing of the inside.
"""

from __future__ import annotations

import math
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st
from queue_history import History, Note, commands, histories, play, searched, stories

from placeos.driver.queue import (
    RETRY_BONUS,
    Command,
    Done,
    Failed,
    Gate,
    Reason,
    Write,
)


@searched
@given(histories, stories)
def test_nothing_goes_before_what_is_more_urgent(history, story):
    written: set[Command] = set()
    for note in play(history, story).writes():
        command = note.action.command
        rank = command.priority + (RETRY_BONUS if command in written else 0)
        written.add(command)
        for other, other_rank in note.passed_over.items():
            assert other_rank <= rank, f"{other.data} should have gone before {command.data}"


@searched
@given(st.lists(st.sampled_from([10, 50, 90]), max_size=20), st.integers(1, 3))
def test_equals_go_in_order_of_arrival(priorities, in_flight):
    history = History(in_flight=in_flight)
    history.gate(Gate.OPEN)
    for priority in priorities:
        history.push(priority=priority)
    while history.queue.busy:
        history.reply()
    for priority in (10, 50, 90):
        order = [
            n.action.command for n in history.writes() if n.action.command.priority == priority
        ]
        assert order == [command for command in history.pushed if command.priority == priority]


@searched
@given(st.lists(st.sampled_from(["", "", "power", "volume", "input"]), max_size=20))
def test_a_name_keeps_its_place(names):
    history = History(on_demand=True)
    expected: dict[str, int] = {}  # a place in the queue: who stands there
    for number, name in enumerate(names):
        history.push(name=name)
        expected[name or f"unnamed {number}"] = number
    replaced = [note.action.command.data for note in history.failures(Reason.SUPERSEDED)]
    history.gate(Gate.OPEN)
    while history.queue.busy:
        history.reply()
    written = [note.action.command.data for note in history.writes()]
    assert written == list(expected.values())
    assert sorted(replaced + written) == list(range(len(names)))


@searched
@given(histories, stories)
def test_a_retry_never_displaces_a_newer_command_of_its_name(history, story):
    """Unless nobody wants the newer one any more."""
    play(history, story)
    written: dict[Command, int] = {}
    over = dict(history.withdrawn)  # notes made when it was out of the queue for good
    for number, note in enumerate(history.notes):
        if isinstance(note.action, Write):
            written.setdefault(note.action.command, number)
        else:
            over[note.action.command] = number
    for number, note in enumerate(history.notes):
        command = note.action.command
        if isinstance(note.action, Write) and command.name:
            for newer in history.pushed[command.data + 1 :]:
                known = newer.name == command.name and history.begins[newer] <= number
                queued = known and over.get(newer, math.inf) > number
                overtaken = known and written.get(newer, math.inf) < number
                assert not queued, "the stale command wins"
                assert not overtaken, "the stale command goes last, and so wins"


@searched
@given(histories, stories)
def test_attempts_are_bounded(history, story):
    counts = Counter(note.action.command for note in play(history, story).writes())
    for command, count in counts.items():
        assert count <= command.retries + 1
        assert command.wait or count == 1


@searched
@given(histories, stories)
def test_each_attempt_lasts_as_long_as_its_time_out(history, story):
    play(history, story).wait(1000)
    assert not history.queue.flying
    for failed in history.failures(Reason.NO_REPLY):
        command = failed.action.command
        written = [n.now for n in history.writes() if n.action.command is command]
        assert len(written) == command.retries + 1
        assert failed.now == written[-1] + command.timeout


@searched
@given(st.lists(st.sampled_from([1.0, 2.0, 5.0]), min_size=1, max_size=6), st.integers(0, 3))
def test_a_silent_device_is_tried_as_often_and_as_long_as_it_says(timeouts, retries):
    history = History()
    history.gate(Gate.OPEN)
    for timeout in timeouts:
        history.push(timeout=timeout, retries=retries, delay=0.5)
    history.wait(1000)
    times = {command: [] for command in history.pushed}
    for note in history.notes:
        times[note.action.command].append(note.now)
    for command, (*written, end) in times.items():
        pause = command.timeout + command.delay
        assert written == [written[0] + pause * n for n in range(retries + 1)]
        assert end == written[-1] + command.timeout


@searched
@given(histories, stories)
def test_nothing_is_written_during_a_delay(history, story):
    quiet_until = 0.0
    for note in play(history, story).notes:
        command = note.action.command
        if isinstance(note.action, Write):
            assert note.now >= quiet_until
        told = isinstance(note.action, Failed) and note.action.reason in (
            Reason.NO_REPLY,
            Reason.TOLD,
        )
        if isinstance(note.action, Done) or told:
            quiet_until = max(quiet_until, note.now + command.delay)


@searched
@given(st.lists(st.sampled_from([0.0, 0.5, 2.0]), min_size=1, max_size=10), st.floats(0, 10))
def test_a_delay_is_no_longer_than_it_says(delays, idle):
    history = History()
    history.gate(Gate.OPEN)
    for delay in delays:
        history.push(delay=delay, wait=False)
    history.wait(1000)
    history.wait(idle)  # a delay that is over is not slept later
    last = history.push()
    times = [note.now for note in history.writes()]
    assert times[:-1] == [sum(delays[:n]) for n in range(len(delays))]
    assert history.writes()[-1].action.command is last
    assert times[-1] == history.now


identified = st.one_of(
    st.just(("push", 0)),
    st.tuples(st.just("reply"), st.integers(0, 12)),
    st.tuples(st.just("wait"), st.integers(0, 3)),
)


@searched
@given(st.lists(identified, max_size=40), st.integers(1, 3))
def test_a_reply_with_a_match_is_never_credited_to_another(steps, in_flight):
    """Late ones, double ones and ones that were never asked for included."""
    history = History(in_flight=in_flight)
    history.gate(Gate.OPEN)
    for what, number in steps:
        if what == "push":
            mine = len(history.pushed)
            history.push(timeout=1, retries=1, match=lambda data, mine=mine: data == mine)
        elif what == "wait":
            history.wait(number)
        else:
            in_the_air = [command.data for command in history.queue.flying]
            assert (history.queue.whose(number) is not None) == (number in in_the_air)
            history.reply(number)
    for note in history.ends():
        if isinstance(note.action, Done):
            assert note.action.reply == note.action.command.data


@searched
@given(st.lists(st.booleans(), min_size=1, max_size=6))
def test_a_reply_goes_to_the_first_that_accepts_it(matches):
    history = History(in_flight=len(matches))
    history.gate(Gate.OPEN)
    for accepts in matches:
        history.push(match=lambda data, accepts=accepts: accepts)
    expected = matches.index(True) if True in matches else None
    owner = history.queue.whose(b"")
    assert (owner and owner.data) == expected


@searched
@given(histories, stories)
def test_nothing_is_written_without_a_connection(history, story):
    def check(history: History) -> None:
        assert history.queue.gate is not Gate.CLOSED or not history.queue.flying

    history.checks.append(check)
    play(history, story)
    history.gate(Gate.CLOSED)
    before = len(history.writes())
    history.wait(100)
    assert len(history.writes()) == before


@searched
@given(histories, stories, commands)
def test_waiting_for_a_connection_ends(history, story, options):
    play(history, story)
    history.gate(Gate.CLOSED)
    began = history.now
    waiting = list(history.queue.queued)
    history.wait(1000)
    assert not history.queue.busy
    expired = {note.action.command: note.now for note in history.failures(Reason.OFFLINE)}
    for command in waiting:
        assert expired[command] <= began + command.timeout
    fresh = history.push(**options)
    if not (fresh.name or history.on_demand) or fresh.login:
        assert history.ends()[-1].action == Failed(fresh, Reason.OFFLINE)
    else:
        assert history.queue.queued == (fresh,)


@searched
@given(st.lists(commands, min_size=1, max_size=8), st.floats(0, 6))
def test_on_demand_commands_wait_for_the_connection_they_ask_for(many, seconds):
    history = History(on_demand=True)
    pushed = [history.push(**(options | {"login": False, "clears": False})) for options in many]
    assert not history.failures(Reason.OFFLINE)
    history.wait(seconds)
    history.gate(Gate.OPEN)
    while history.queue.busy:
        history.reply()
        history.wait(0.1)
    lost = {note.action.command for note in history.failures(Reason.OFFLINE)}
    superseded = {note.action.command for note in history.failures(Reason.SUPERSEDED)}
    for command in pushed:
        assert command in superseded or (command in lost) == (command.timeout <= seconds)


@searched
@given(histories, stories)
def test_as_many_are_in_flight_as_may_be_and_no_more(history, story):
    def check(history: History) -> None:
        flying = history.queue.flying
        assert len(flying) <= history.in_flight
        names = [command.name for command in flying if command.name]
        assert len(names) == len(set(names))
        if history.queue.gate is Gate.OPEN and len(flying) < history.in_flight:
            could = [command for command in history.queue.queued if command.name not in names]
            wake = history.queue.wake_at
            assert not could or (wake is not None and wake > history.now)

    history.checks.append(check)
    play(history, story)


@searched
@given(histories, stories)
def test_every_command_ends_exactly_once(history, story):
    play(history, story)
    history.perform(lambda queue, now: queue.clear(now, current=True))
    ends = Counter(note.action.command for note in history.ends())
    for command in history.pushed:
        assert ends[command] == (0 if command in history.withdrawn else 1)
    over: set[Command] = set()
    for note in history.notes:
        assert note.action.command not in over, "something happened after its end"
        if not isinstance(note.action, Write):
            over.add(note.action.command)


@searched
@given(histories, stories, st.booleans())
def test_what_is_cleared_is_never_sent(history, story, current):
    play(history, story)
    queued, flying = history.queue.queued, history.queue.flying
    history.perform(lambda queue, now: queue.clear(now, current=current))
    assert history.queue.queued == ()
    assert history.queue.flying == (() if current else flying)
    cleared = {*queued, *(flying if current else ())} - history.withdrawn.keys()
    assert cleared <= {note.action.command for note in history.failures(Reason.WITHDRAWN)}
    before = len(history.writes())
    history.gate(Gate.OPEN)
    history.wait(100)
    assert not {note.action.command for note in history.writes()[before:]} & {*queued}


@searched
@given(st.lists(st.integers(0, 9), max_size=12), st.integers(0, 9), st.integers(0, 4))
def test_a_reply_of_several_messages_ends_with_its_last(messages, last, pause):
    history = History()
    history.gate(Gate.OPEN)
    command = history.push(timeout=5, retries=0, until=lambda data: data == last)
    for message in messages:
        history.wait(pause)  # each message starts the time-out anew
        history.reply(message)
    done = [note.action for note in history.ends()]
    if last in messages:
        assert done == [Done(command, messages[: messages.index(last) + 1])]
    else:
        assert done == []
        history.wait(5)
        assert history.failures(Reason.NO_REPLY)


@searched
@given(histories, stories)
def test_a_reply_that_clears_withdraws_all_that_waits(history, story):
    """What was pushed before it ended and was not written yet is never written."""
    play(history, story)
    gone: set[Command] = set()
    for number, note in enumerate(history.notes):
        command = note.action.command
        if isinstance(note.action, Write):
            assert command not in gone
        elif isinstance(note.action, Done) and command.clears:
            ended = _of(history.notes[:number], Done, Failed)
            known = {c for c in history.pushed if history.begins[c] <= number}
            flying = _flying(history.notes[:number])
            gone |= known - ended - flying - {command}


def _flying(notes: list[Note]) -> set[Command]:
    """Those that may have been in flight: what was written and has not ended."""
    return _of(notes, Write) - _of(notes, Done, Failed)


def _of(notes: list[Note], *kinds: type[object]) -> set[Command]:
    return {note.action.command for note in notes if isinstance(note.action, kinds)}


@searched
@given(st.lists(st.sampled_from(["", "power", "volume"]), max_size=12), st.integers(1, 6))
def test_a_full_queue_refuses_new_ones_and_takes_newer_ones(names, most):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("placeos.driver.queue.MAX_QUEUED", most)
        history = History(on_demand=True)
        waiting: list[str] = []
        for name in names:
            before = len(history.ends())
            command = history.push(name=name)
            ended = [(n.action.command, n.action.reason) for n in history.ends()[before:]]
            if name and name in waiting:
                assert [reason for _, reason in ended] == [Reason.SUPERSEDED]
            elif len(waiting) < most:
                waiting.append(name)
                assert ended == []
            else:
                assert ended == [(command, Reason.BUSY)]
            assert len(history.queue.queued) == len(waiting)


@searched
@given(st.lists(st.tuples(st.booleans(), st.floats(0, 6)), max_size=10))
def test_more_time_counts_from_when_it_was_asked_for(steps):
    history = History()
    history.gate(Gate.OPEN)
    command = history.push(timeout=5, retries=0)
    deadline = 5.0
    for more, pause in steps:
        if more and history.queue.flying:
            history.queue.extend(history.now, command)
            deadline = history.now + 5
        history.wait(pause)
    history.wait(100)
    assert [note.now for note in history.failures(Reason.NO_REPLY)] == [deadline]


@searched
@given(st.lists(commands, max_size=8), st.lists(st.booleans(), max_size=6))
def test_a_device_that_flaps_gets_each_command_no_more_often_than_it_may(many, gates):
    history = History()
    for number, opens in enumerate(gates):
        if number < len(many):
            history.push(**(many[number] | {"wait": True, "login": False}))
        history.gate(Gate.OPEN if opens else Gate.CLOSED)
        history.wait(0.1)
    history.gate(Gate.OPEN)
    while history.queue.busy:
        history.reply()
        history.wait(3)
    counts = Counter(note.action.command for note in history.writes())
    assert all(counts[command] <= command.retries + 1 for command in history.pushed)
    assert len(history.ends()) == len(history.pushed)
