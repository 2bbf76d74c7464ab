"""The judge itself: valid histories pass, and each broken promise is seen."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest
from checker import Promise, check
from history import SECOND, Call, Event, Kind, Outcome, carried, parse
from hypothesis import given
from hypothesis import strategies as st

START = 100 * SECOND
Story = tuple[list[Event], list[Call], dict[int, str]]
Mutation = Callable[[Story, random.Random], None]


def at(seconds: float) -> int:
    return START + int(seconds * SECOND)


def story(seed: int, *, devices: int = 3, handovers: int = 3) -> Story:
    """What a platform that keeps its promises leaves behind: beats, marks, hand-overs."""
    chance = random.Random(seed)
    events: list[Event] = []
    calls: list[Call] = []
    told: dict[int, str] = {}
    number = 0
    for device in range(devices):
        now, number = 0.0, number + 1
        events.append(Event(START, device, number, Kind.OPENED, "core-1"))
        for owner in range(handovers + 1):
            for _ in range(chance.randrange(2, 6)):
                now += chance.uniform(0.2, 1.2)
                events.append(Event(at(now), device, number, Kind.LINE, "BEAT"))
                if chance.random() < 0.7:
                    token = f"t{device}.{len(calls)}"
                    sent, seen, done = now + 0.01, now + 0.02, now + chance.uniform(0.03, 5)
                    outcome = chance.choice((Outcome.DONE, Outcome.DONE, Outcome.FAILED))
                    events.append(Event(at(seen), device, number, Kind.LINE, f"MARK {token}"))
                    calls.append(Call(token, device, at(sent), at(done), outcome))
                    if outcome is Outcome.DONE:
                        told[device] = token
            if owner < handovers:
                how = chance.choice((Kind.FIN, Kind.RESET))
                events.append(Event(at(now + 0.1), device, number, how))
                if chance.random() < 0.3:
                    refused = Call(
                        f"n{len(calls)}", device, at(now), at(now + 0.2), Outcome.NOT_RUN
                    )
                    calls.append(refused)
                now, number = now + 0.1 + chance.uniform(0.01, 1.5), number + 1
                events.append(Event(at(now), device, number, Kind.OPENED, "core-2"))
                events.append(Event(at(now + 0.01), device, number, Kind.LINE, f"HELLO {owner}"))
    last = max(event.at for event in events)
    for device in range(devices):  # all beat until the end
        latest = max((one for one in events if one.device == device), key=lambda one: one.at)
        moment = latest.at
        while moment < last:
            moment += SECOND
            events.append(latest._replace(at=moment, kind=Kind.LINE, text="BEAT"))
    return sorted(events, key=lambda one: one.at), calls, told


def rules(told: Story, promise: Promise = Promise(worst=3.0)) -> set[str]:  # noqa: B008
    """Which promises were broken."""
    events, calls, values = told
    end = max(event.at for event in events) + SECOND // 2
    devices = {event.device for event in events}
    verdict = check(events, calls, values, devices=devices, start=START, end=end, promise=promise)
    return set(verdict.rules())


@given(st.integers(0, 2**32))
def test_valid_histories_pass(seed: int) -> None:
    assert rules(story(seed)) == set()


def place(events: list[Event], chance: random.Random, fits: Callable[[Event], bool]) -> int:
    return chance.choice([index for index, event in enumerate(events) if fits(event)])


def is_mark(event: Event) -> bool:
    return bool(event.token)


def second_connection(told: Story, chance: random.Random) -> None:
    events, _, _ = told
    index = place(events, chance, lambda one: one.kind is Kind.LINE)
    one = events[index]
    events.insert(index + 1, Event(one.at, one.device, 10_000, Kind.SECOND_WRITER, "core-9"))


def bytes_on_the_older(told: Story, chance: random.Random) -> None:
    events, _, _ = told
    index = place(events, chance, lambda one: one.kind is Kind.LINE)
    one = events[index]
    opened = Event(one.at, one.device, 10_000, Kind.OPENED, "core-9")
    events[index : index + 1] = [opened, one]


def forgotten_end(told: Story, chance: random.Random) -> None:
    """The older connection is never closed, and speaks once more after the next was opened."""
    events, _, _ = told
    index = place(events, chance, lambda one: one.kind in (Kind.FIN, Kind.RESET))
    one = events.pop(index)
    later = next(
        place
        for place, event in enumerate(events)
        if event.device == one.device and event.connection > one.connection
    )
    events.insert(later + 1, one._replace(at=events[later].at, kind=Kind.LINE, text="BEAT"))


def lost_command(told: Story, chance: random.Random) -> None:
    events, calls, _ = told
    done = {call.token for call in calls if call.outcome is Outcome.DONE}
    index = place(events, chance, lambda one: one.token in done)
    events[index] = events[index]._replace(text="BEAT")


def command_twice(told: Story, chance: random.Random) -> None:
    events, _, _ = told
    index = place(events, chance, is_mark)
    events.insert(index + 1, events[index]._replace(at=events[index].at + 1))


def run_though_refused(told: Story, chance: random.Random) -> None:
    events, calls, _ = told
    index = place(events, chance, is_mark)
    token = events[index].token
    number = next(i for i, call in enumerate(calls) if call.token == token)
    calls[number] = calls[number]._replace(outcome=Outcome.NOT_RUN)


def run_later(told: Story, chance: random.Random) -> None:
    events, calls, _ = told
    token = events[place(events, chance, is_mark)].token
    number = next(i for i, call in enumerate(calls) if call.token == token)
    early = calls[number].sent - 2 * SECOND
    calls[number] = calls[number]._replace(outcome=Outcome.FAILED, sent=early, answered=early)


def another_device(told: Story, chance: random.Random) -> None:
    events, calls, _ = told
    token = events[place(events, chance, is_mark)].token
    number = next(i for i, call in enumerate(calls) if call.token == token)
    calls[number] = calls[number]._replace(device=calls[number].device + 1)


def before_it_was_asked(told: Story, chance: random.Random) -> None:
    events, calls, _ = told
    token = events[place(events, chance, is_mark)].token
    number = next(i for i, call in enumerate(calls) if call.token == token)
    calls[number] = calls[number]._replace(sent=calls[number].sent + SECOND // 50)


def unasked(told: Story, chance: random.Random) -> None:
    events, _, _ = told
    index = place(events, chance, lambda one: one.text == "BEAT")
    events[index] = events[index]._replace(text="MARK of-an-earlier-round")


def long_outage(told: Story, chance: random.Random) -> None:
    """Everything after an opening happens four seconds later."""
    events, calls, _ = told
    index = place(events, chance, lambda one: one.kind is Kind.OPENED and one.at > START)
    moment = events[index].at
    events[:] = [
        one._replace(at=one.at + 4 * SECOND) if one.at >= moment else one for one in events
    ]
    calls[:] = [
        one._replace(answered=one.answered + 4 * SECOND, sent=one.sent + 4 * SECOND)
        if one.sent >= moment
        else one
        for one in calls
    ]


def never_back(told: Story, chance: random.Random) -> None:
    events, _, _ = told
    last = max(event.connection for event in events if event.device == 0)
    keep = [one for one in events if one.connection != last or one.device != 0]
    told[1][:] = [call for call in told[1] if any(call.token == one.token for one in keep)]
    told[2].pop(0, None)
    events[:] = keep


def stale_value(told: Story, chance: random.Random) -> None:
    device = chance.choice(sorted(told[2]))
    told[2][device] = "of-an-earlier-round"


MUTATIONS = {
    second_connection: "two writers",
    bytes_on_the_older: "two writers",
    forgotten_end: "two writers",
    lost_command: "lost",
    command_twice: "twice",
    run_though_refused: "ran all the same",
    run_later: "ran late",
    another_device: "astray",
    before_it_was_asked: "out of time",
    unasked: "unasked",
    long_outage: "outage",
    never_back: "not back",
    stale_value: "final value missed",
}


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda one: one.__name__)
@given(seed=st.integers(0, 2**32))
def test_mutated_histories_fail(mutation: Mutation, seed: int) -> None:
    told = story(seed, devices=4)
    mutation(told, random.Random(seed))
    # Whose promise covers crashes, excuses values that were lost with one.
    assert MUTATIONS[mutation] in rules(told, Promise(worst=3.0, calls_succeed=True))


def line(seconds: float, connection: int, kind: Kind, text: str = "", device: int = 0) -> Event:
    return Event(at(seconds), device, connection, kind, text)


def measured(*events: Event, end: float) -> tuple[list[float], list[bool]]:
    verdict = check(list(events), devices=[0], start=START, end=at(end))
    return (
        [round(outage.seconds, 3) for outage in verdict.outages],
        [outage.over for outage in verdict.outages],
    )


def test_an_outage_begins_with_the_end_of_the_connection() -> None:
    events = [line(0, 1, Kind.OPENED), line(1, 1, Kind.LINE, "BEAT"), line(1.8, 1, Kind.RESET)]
    events += [line(3.3, 2, Kind.OPENED), line(3.4, 2, Kind.LINE, "HELLO 1")]
    assert measured(*events, end=4) == ([1.6], [True])


def test_a_writer_that_went_quiet_long_before_its_end_was_gone_with_its_last_line() -> None:
    events = [line(0, 1, Kind.OPENED), line(1, 1, Kind.LINE, "BEAT"), line(6, 1, Kind.RESET)]
    events += [line(7, 2, Kind.OPENED), line(7, 2, Kind.LINE, "HELLO 1")]
    assert measured(*events, end=8) == ([6.0], [True])


def test_a_writer_that_wakes_up_was_away() -> None:
    events = [line(0, 1, Kind.OPENED), line(1, 1, Kind.LINE, "BEAT"), line(5, 1, Kind.LINE, "BEAT")]
    assert measured(*events, end=6) == ([4.0], [True])


def test_an_open_connection_that_says_nothing_is_no_writer() -> None:
    assert measured(line(0, 1, Kind.OPENED), end=4) == ([4.0], [False])


def test_a_connection_that_never_says_hello_ends_no_outage() -> None:
    events = [line(0, 1, Kind.OPENED), line(1, 1, Kind.FIN), line(2, 2, Kind.OPENED)]
    events += [line(2.5, 2, Kind.FIN), line(3, 3, Kind.OPENED), line(3.1, 3, Kind.LINE, "HELLO 1")]
    assert measured(*events, end=4) == ([2.1], [True])


def test_without_any_connection() -> None:
    assert measured(end=4) == ([4.0], [False])


def test_median_and_failed_calls() -> None:
    events = [line(0, 1, Kind.OPENED), line(1, 1, Kind.FIN), line(2, 2, Kind.OPENED)]
    events += [line(2.5, 2, Kind.LINE, "HELLO 1")]
    promise = Promise(worst=3, median=1, calls_succeed=True)
    calls = [Call("t", 0, at(1), at(2), Outcome.FAILED, "moved")]
    verdict = check(events, calls, devices=[0], start=START, end=at(3), promise=promise)
    assert set(verdict.rules()) == {"median outage", "failed call"}
    assert "BROKEN" in verdict.report()
    assert "moved" in verdict.report()


def test_the_log_is_read_as_it_was_written() -> None:
    text = ["5 0 1 O 127.0.0.1:1\n", "6 0 1 L MARK x\n", "7 1 2 O 127.0.0.1:2\n", "8 1 2 R \n"]
    events = parse(text)
    assert [event.token for event in events] == ["", "x", "", ""]
    assert carried(events, 9) == [Event(9, 0, 1, Kind.OPENED, "127.0.0.1:1")]


def test_whom_a_fault_does_not_concern_must_not_notice_it() -> None:
    events = [line(0, 1, Kind.OPENED), line(1, 1, Kind.FIN), line(1.1, 2, Kind.OPENED)]
    events += [line(1.1, 2, Kind.LINE, "HELLO 1"), line(0, 3, Kind.OPENED, device=1)]
    events += [line(1.1, 3, Kind.LINE, "BEAT", device=1)]
    for spared, rules_broken in ([0], {"disturbed"}), ([1], set()):
        verdict = check(events, devices=[0, 1], start=START, end=at(2), spared=spared)
        assert set(verdict.rules()) == rules_broken
