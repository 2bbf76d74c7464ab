"""A command to a device, how it is to be treated, and how it may end."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum, IntEnum
from typing import Any, Final

from placeos.driver.errors import Busy, DriverError, NoReply, Offline, Superseded, Withdrawn

MAX_QUEUED: Final = 1000  # commands; a further one is refused
MAX_PARTS: Final = 10_000  # messages of one reply

Match = Callable[[Any], bool]


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
    TOLD = "told"  # by whoever carries it out, with an error of its own


@dataclass(frozen=True, kw_only=True)
class Queue:
    """`queue = Queue(timeout=2, delay=0.1)`: what holds for all commands of a driver that say
    nothing else (see `Driver.send`), and how many may wait for their reply at once."""

    priority: int = 50
    timeout: float = 5.0
    retries: int = 3
    wait: bool = True
    delay: float = 0.0
    in_flight: int = 1

    def __post_init__(self) -> None:
        if self.timeout <= 0 or self.retries < 0 or self.delay < 0 or self.in_flight < 1:
            raise ValueError(
                "a queue has a timeout above 0, retries and delay of at least 0, and in_flight "
                "of at least 1"
            )


@dataclass(slots=True, eq=False)
class Command:
    """One command and how it is to be treated (seconds for `timeout` and `delay`).

    `data` is whatever the sender's `write` takes, bytes as a rule. `via`, if given, carries
    it out instead: whoever does that ends it by `Sender.reply` or `Sender.fail`.
    """

    data: Any
    name: str = ""
    priority: int = 50
    timeout: float = 5.0
    retries: int = 3
    wait: bool = True
    delay: float = 0.0
    match: Match | None = None
    login: bool = False
    until: Match | None = None  # tells the last message of a reply of several
    clears: bool = False  # its reply withdraws all that is queued
    via: Callable[[Command], None] | None = None
    # kept by the queue
    attempts: int = 0
    bonus: int = 0
    order: int = 0
    wanted: bool = True  # False once nobody waits for it any more
    heard: int = 0  # messages of the device before it was first written
    deadline: float = 0.0  # of its reply, while it is in flight
    expires: float = math.inf  # when it has waited long enough for a connection
    parts: list[Any] = field(default_factory=list)

    def rank(self) -> tuple[int, int]:
        """Sorts by priority, then by order of arrival."""
        return (-(self.priority + self.bonus), self.order)


@dataclass(slots=True, frozen=True)
class Write:
    """Put the command on the wire."""

    command: Command


@dataclass(slots=True, frozen=True)
class Done:
    """The command is finished. `reply` is empty bytes for one that waited for none, and the
    list of its messages for one with `until`."""

    command: Command
    reply: Any


@dataclass(slots=True, frozen=True)
class Failed:
    """The command is finished, badly; `error` is what was told, if anything was."""

    command: Command
    reason: Reason
    error: Exception | None = None


Action = Write | Done | Failed


def error_of(failed: Failed, cause: str = "") -> Exception:
    """What the sender of the command gets; `cause` is why there is no connection."""
    command = failed.command
    if failed.error is not None:
        return failed.error
    what = f"the command {command.name!r}" if command.name else "the command"
    error: DriverError
    match failed.reason:
        case Reason.NO_REPLY:
            tries = f" ({command.attempts} attempts)" if command.attempts > 1 else ""
            error = NoReply(f"the device did not answer {what} within {command.timeout:g} s{tries}")
        case Reason.OFFLINE:
            error = Offline(f"the device is not connected{cause and ': '}{cause}")
        case Reason.SUPERSEDED:
            error = Superseded(f"a newer {command.name!r} command took its place")
        case Reason.BUSY:
            error = Busy(f"{MAX_QUEUED} commands are waiting already")
        case _:
            error = Withdrawn(f"{what} was withdrawn")
    return error
