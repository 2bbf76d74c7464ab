"""The judge of the chaos suite: reads what devices and clients wrote down, and nothing else. Pure.

What it proves of a stretch of time, or refutes with the line that shows it:

* no device had two writers: no connection came while another one was open, and no byte arrived on
  a connection after a younger one was opened;
* every acknowledged call reached its device while it was under way, and none reached it twice;
  what was said not to have run did not, and what failed did not run later;
* no module was without a writer for longer than promised, and all have one at the end; those
  that the fault does not concern always had one;
* the last value a subscriber was told is the last that was set.
"""

from __future__ import annotations

import re
import statistics
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from history import ENDS, SECOND, Call, Event, Kind, Outcome

LATE = 1.0  # seconds after a call was given up, in which its command may still be under way
WORDS = 160  # characters of what a caller was told
QUIET = 2.5  # seconds without a line (modules beat each second) after which a writer counts as gone


@dataclass(frozen=True)
class Promise:
    """What is promised for a fault. Seconds; None promises nothing."""

    worst: float | None = None
    median: float | None = None
    calls_succeed: bool = False


@dataclass(frozen=True)
class Violation:
    """One broken promise."""

    rule: str
    device: int
    text: str

    def __str__(self) -> str:
        return f"{self.rule}: device {self.device}: {self.text}"


@dataclass(frozen=True)
class Outage:
    """Time without a writer, by the device's log."""

    device: int
    began: int
    ended: int
    over: bool = True  # False: still without one at the end

    @property
    def seconds(self) -> float:
        """How long."""
        return (self.ended - self.began) / SECOND


@dataclass
class Verdict:
    """All that was found."""

    violations: list[Violation] = field(default_factory=list)
    outages: list[Outage] = field(default_factory=list)
    outcomes: Counter[str] = field(default_factory=Counter)
    failures: Counter[str] = field(default_factory=Counter)
    """What callers were told, without its numbers."""
    lines: int = 0
    slowest_call: float = 0.0

    @property
    def ok(self) -> bool:
        """Whether every promise was kept."""
        return not self.violations

    @property
    def by_module(self) -> dict[int, float]:
        """The longest outage of each module that had one, in seconds."""
        longest: dict[int, float] = {}
        for outage in self.outages:
            longest[outage.device] = max(longest.get(outage.device, 0.0), outage.seconds)
        return longest

    @property
    def worst(self) -> float:
        """The longest outage, in seconds."""
        return max(self.by_module.values(), default=0.0)

    @property
    def median(self) -> float:
        """The median over modules that had an outage of their longest, in seconds."""
        return statistics.median(self.by_module.values() or (0.0,))

    def rules(self) -> Counter[str]:
        """How often each rule was broken."""
        return Counter(violation.rule for violation in self.violations)

    def report(self, most: int = 10) -> str:
        """In words, with the first violations."""
        calls = ", ".join(f"{count} {name}" for name, count in sorted(self.outcomes.items()))
        text = [
            f"{'kept' if self.ok else 'BROKEN'}: {self.lines} lines of devices; calls: "
            f"{calls or 'none'} (slowest {self.slowest_call:.2f} s); {len(self.by_module)} modules "
            f"without a writer, median {self.median:.2f} s, worst {self.worst:.2f} s"
        ]
        text += [f"  {count} x {rule}" for rule, count in self.rules().most_common()]
        text += [f"    {violation}" for violation in self.violations[:most]]
        common = self.failures.most_common(most)
        text += [f"  {count} calls failed: {words}" for words, count in common]
        return "\n".join(text)


def check(
    events: Sequence[Event],
    calls: Iterable[Call] = (),
    told: Mapping[int, str] | None = None,
    *,
    devices: Iterable[int],
    start: int,
    end: int,
    promise: Promise = Promise(),
    spared: Iterable[int] = (),
) -> Verdict:
    """Judge what happened between `start` and `end`.

    `events` begins with the connections that were open at `start` (`history.carried`). All
    calls are answered. `told` is the last mark each module's subscribers were told of. Devices
    that are `spared` have nothing to do with the fault: they are promised not to notice it.
    """
    calls = list(calls)
    by_device: dict[int, list[Event]] = {device: [] for device in devices}
    for event in events:
        by_device.setdefault(event.device, []).append(event)
    verdict = Verdict(lines=sum(event.kind is Kind.LINE for event in events))
    for device, own in by_device.items():
        verdict.violations += two_writers(device, own)
        verdict.outages += outages(device, own, start, end)
    verdict.violations += lost_or_repeated(events, calls)
    crashes = () if promise.calls_succeed else verdict.outages
    verdict.violations += missed_values(by_device, calls, told or {}, crashes)
    verdict.violations += broken(promise, verdict, calls)
    verdict.violations += disturbed(verdict.outages, frozenset(spared))
    verdict.outcomes.update(str(call.outcome) for call in calls)
    failed = (call for call in calls if call.outcome is not Outcome.DONE)
    verdict.failures.update(re.sub(r"\d+", "#", call.words)[:WORDS] for call in failed)
    verdict.slowest_call = max(((one.answered - one.sent) / SECOND for one in calls), default=0.0)
    return verdict


def two_writers(device: int, events: Iterable[Event]) -> list[Violation]:
    """Connections beside an open one, and bytes on one after a younger one was opened."""
    found: dict[tuple[str, int], Violation] = {}
    names: dict[int, str] = {}
    open_now: dict[int, int] = {}
    youngest = 0
    for event in events:
        number = event.connection
        if event.kind in (Kind.LINE, Kind.REFUSED_LINE) and event.text.startswith("HELLO"):
            names[number] = event.text.removeprefix("HELLO ")
        if event.kind is Kind.OPENED:
            open_now[number] = event.at
            youngest = max(youngest, number)
        elif event.kind in ENDS:
            open_now.pop(number, None)
        elif event.kind is Kind.SECOND_WRITER:
            older = next(iter(open_now), 0)
            key = ("second", older)
            text = f"connection {number} from {event.text} at {event.at} while {older} is open"
            found.setdefault(key, Violation("two writers", device, text))
        elif event.kind is Kind.LINE and number < youngest:
            text = f"{event.text!r} on connection {number} at {event.at}, after {youngest} opened"
            found.setdefault(("bytes", number), Violation("two writers", device, text))
        elif event.kind is Kind.LINE and number not in open_now:
            text = f"{event.text!r} on connection {number}, which is not open"
            found.setdefault(("closed", number), Violation("broken history", device, text))
    return list(found.values())


def outages(device: int, events: Iterable[Event], start: int, end: int) -> list[Outage]:
    """When a device had no writer.

    One begins when a connection ends, or with its last line when it had gone quiet before that,
    and ends with the first line of the next connection (or of the same, when it wakes up).
    """
    quiet = int(QUIET * SECOND)
    found: list[Outage] = []
    served_by = 0  # a connection that has said something, or was open at the start
    last = start  # its latest sign of life
    closed: int | None = start  # when it ended; none yet
    for event in events:
        if event.kind is Kind.OPENED and event.at <= start:
            served_by, last, closed = event.connection, start, None
        elif event.kind is Kind.LINE:
            same = event.connection == served_by and closed is None
            began = _began(last, closed, quiet)
            if not same or event.at - last > quiet:
                found.append(Outage(device, began, event.at))
            served_by, last, closed = event.connection, event.at, None
        elif event.kind in ENDS and event.connection == served_by and closed is None:
            closed = event.at
    if closed is not None or end - last > quiet:
        found.append(Outage(device, _began(last, closed, quiet), end, over=False))
    return found


def _began(last: int, closed: int | None, quiet: int) -> int:
    """The end of the connection, unless it had been quiet for too long by then."""
    return closed if closed is not None and closed - last <= quiet else last


def lost_or_repeated(events: Iterable[Event], calls: Iterable[Call]) -> list[Violation]:
    """Acknowledged calls without their command, commands twice, or in spite of `not run`."""
    seen: dict[str, list[Event]] = defaultdict(list)
    for event in events:
        if event.kind is Kind.LINE and event.token:
            seen[event.token].append(event)
    found = []
    known = set()
    for call in calls:
        known.add(call.token)
        marks = seen.get(call.token, ())
        if call.outcome is Outcome.DONE and not marks:
            found.append(Violation("lost", call.device, f"{call.token} was acknowledged, not seen"))
        if call.outcome is Outcome.NOT_RUN and marks:
            text = f"{call.token} was said not to have run ({call.words}); seen at {marks[0].at}"
            found.append(Violation("ran all the same", call.device, text))
        for mark in marks:
            if mark.device != call.device:
                text = f"{call.token} was for device {call.device}"
                found.append(Violation("astray", mark.device, text))
            elif mark.at < call.sent or (call.outcome is Outcome.DONE and mark.at > call.answered):
                between = f"{call.sent} and {call.answered}"
                text = f"{call.token} was seen at {mark.at}, not between {between}"
                found.append(Violation("out of time", mark.device, text))
            elif mark.at > call.answered + LATE * SECOND:
                seconds = (mark.at - call.answered) / SECOND
                text = f"{call.token} was seen {seconds:.1f} s after it failed ({call.words})"
                found.append(Violation("ran late", mark.device, text))
    for token, marks in seen.items():
        device = marks[0].device
        if len(marks) > 1:
            times = ", ".join(str(mark.at) for mark in marks)
            found.append(Violation("twice", device, f"{token} at {times}"))
        if token not in known:
            text = f"{token} at {marks[0].at} was not asked for in this time: earlier, or never"
            found.append(Violation("unasked", device, text))
    return found


def missed_values(
    by_device: Mapping[int, Sequence[Event]],
    calls: Iterable[Call],
    told: Mapping[int, str],
    crashes: Iterable[Outage] = (),
) -> list[Violation]:
    """Subscribers whose last value is older than the last acknowledged one.

    What was set in the last second before a crash may have died with the process: state is
    written in batches, and a call is answered before.
    """
    began = defaultdict(list)
    for crash in crashes:
        began[crash.device].append(crash.began)
    acknowledged = {call.token for call in calls if call.outcome is Outcome.DONE}
    found = []
    for device, last in told.items():
        lines = (one for one in by_device.get(device, ()) if one.kind is Kind.LINE)
        marks = [one for one in lines if one.token]
        settled = [
            place
            for place, one in enumerate(marks)
            if one.token in acknowledged
            and not any(moment - SECOND <= one.at <= moment for moment in began[device])
        ]
        if settled and last not in {one.token for one in marks[settled[-1] :]}:
            text = f"told {last!r} at last, but {marks[settled[-1]].token!r} was acknowledged"
            found.append(Violation("final value missed", device, text))
    return found


def disturbed(outages: Iterable[Outage], spared: frozenset[int]) -> list[Violation]:
    """Outages of those whom the fault does not concern."""
    return [
        Violation("disturbed", outage.device, f"{outage.seconds:.2f} s without a writer")
        for outage in outages
        if outage.device in spared
    ]


def broken(promise: Promise, verdict: Verdict, calls: Iterable[Call]) -> list[Violation]:
    """Outages and failed calls beyond what was promised."""
    found = []
    for outage in verdict.outages:
        if not outage.over:
            text = f"no writer at the end, for {outage.seconds:.2f} s"
            found.append(Violation("not back", outage.device, text))
        elif promise.worst is not None and outage.seconds > promise.worst:
            text = f"{outage.seconds:.2f} s without a writer, {promise.worst:g} s promised"
            found.append(Violation("outage", outage.device, text))
    if promise.median is not None and verdict.median > promise.median:
        text = f"median {verdict.median:.2f} s, {promise.median:g} s promised"
        found.append(Violation("median outage", -1, text))
    if promise.calls_succeed:
        found += [
            Violation("failed call", call.device, f"{call.token}: {call.outcome}: {call.words}")
            for call in calls
            if call.outcome is not Outcome.DONE
        ]
    return found
