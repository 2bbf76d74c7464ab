"""What devices and clients wrote down: the history that `checker.py` judges. Pure.

A line of the devices' log is `time device connection kind text`; times are nanoseconds of
CLOCK_MONOTONIC, which all processes of a machine share. A connection's number is used once.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum
from typing import NamedTuple

SECOND = 1_000_000_000  # nanoseconds


class Kind(StrEnum):
    """What happened at a device."""

    OPENED = "O"  # text: the peer's address
    LINE = "L"  # text: a command
    FIN = "F"  # the peer closed
    RESET = "R"  # the peer reset, or is gone
    CUT = "X"  # the device itself ended it
    SECOND_WRITER = "S"  # a connection while another was open: refused. text: the peer's address
    REFUSED_LINE = "l"  # the first line on a refused connection


ENDS = frozenset((Kind.FIN, Kind.RESET, Kind.CUT))


class Event(NamedTuple):
    """One line of the devices' log."""

    at: int
    device: int
    connection: int
    kind: Kind
    text: str = ""

    @property
    def token(self) -> str:
        """The token of a mark, else nothing."""
        words = self.text.split()
        return words[-1] if words and words[0] in ("MARK", "HOLD") else ""


class Outcome(StrEnum):
    """What the platform said of a call."""

    DONE = "done"
    NOT_RUN = "not run"  # a promise: the device saw nothing and will see nothing
    FAILED = "failed"  # it may have run: any other error, or no answer in time


class Call(NamedTuple):
    """One call of the load; each has a token of its own."""

    token: str
    device: int
    sent: int
    answered: int
    outcome: Outcome
    words: str = ""  # of an error


def parse(lines: Iterable[str]) -> list[Event]:
    """Events of the devices' log, in its order."""
    events = []
    for line in lines:
        at, device, connection, kind, text = line.rstrip("\n").split(" ", 4)
        events.append(Event(int(at), int(device), int(connection), Kind(kind), text))
    return events


def carried(events: Iterable[Event], at: int) -> list[Event]:
    """The connections still open after these events, as if each had been opened `at`."""
    still: dict[int, Event] = {}
    for event in events:
        if event.kind is Kind.OPENED:
            still[event.connection] = event
        elif event.kind in ENDS:
            still.pop(event.connection, None)
    return [event._replace(at=at) for event in still.values()]
