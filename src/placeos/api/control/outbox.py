"""What waits for a client that reads more slowly than we write. Pure; no sockets.

Live values are levels: of each binding only the newest waits, so a slow reader costs one
value per binding however many it misses. Answers cannot be left out; they wait up to a bound,
and beyond it the client is given up. Debug lines are dropped and counted.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Final

from placeos.api.control.protocol import clean

MAX_ANSWERS: Final = 1024 * 1024  # bytes of answers that may wait for one client


class Slot:
    """The bytes around one binding's value, made once when it is bound."""

    __slots__ = ("prefix", "suffix")

    def __init__(self, prefix: bytes, suffix: bytes) -> None:
        self.prefix = prefix
        self.suffix = suffix


class Outbox:
    """The outgoing side of one client.

    `write` sends one text message now; it may call `pause` before it returns. `overflow` is
    called once when more than `MAX_ANSWERS` bytes of answers wait.
    """

    __slots__ = (
        "_answers",
        "_overflow",
        "_pong",
        "_size",
        "_values",
        "_write",
        "dropped_lines",
        "paused",
    )

    def __init__(self, write: Callable[[bytes], None], overflow: Callable[[], None]) -> None:
        self.paused = False
        self.dropped_lines = 0
        self._write = write
        self._overflow: Callable[[], None] | None = overflow
        self._answers: deque[bytes] = deque()
        self._values: dict[Slot, bytes] = {}
        self._size = 0
        self._pong = False

    def value(self, slot: Slot, raw: bytes) -> None:
        """Send a live value, or keep it as the newest of its binding."""
        if self.paused:
            self._values[slot] = raw
        elif raw.isascii():
            self._write(b"%b%b%b" % (slot.prefix, raw, slot.suffix))
        else:
            self._write(b"%b%b%b" % (slot.prefix, clean(raw), slot.suffix))

    def forget(self, slot: Slot) -> None:
        """The binding is gone; its waiting value is not sent."""
        self._values.pop(slot, None)

    def answer(self, message: bytes) -> None:
        """Send an answer, or keep it. Past the bound it is dropped and `overflow` is called."""
        if not self.paused:
            self._write(message)
        elif self._size + len(message) <= MAX_ANSWERS:
            self._answers.append(message)
            self._size += len(message)
        elif self._overflow is not None:
            overflow, self._overflow = self._overflow, None
            overflow()

    def pong(self) -> None:
        """Send the text `pong`; while the client does not read, one is as good as many."""
        if self.paused:
            self._pong = True
        else:
            self._write(b"pong")

    def line(self, message: bytes) -> None:
        """Send a debug line, or drop it and count."""
        if self.paused:
            self.dropped_lines += 1
        else:
            self._write(message)

    def pause(self) -> None:
        """The client does not keep up: from now on everything waits."""
        self.paused = True

    def resume(self) -> None:
        """The client reads again: send what waits, until it is paused again."""
        self.paused = False
        if self._pong:
            self._pong = False
            self._write(b"pong")
        while self._answers and not self.paused:
            message = self._answers.popleft()
            self._size -= len(message)
            self._write(message)
        while self._values and not self.paused:
            slot = next(iter(self._values))
            self.value(slot, self._values.pop(slot))

    def clear(self) -> None:
        """The connection is over; nothing is kept."""
        self._answers.clear()
        self._values.clear()
        self._overflow = None
