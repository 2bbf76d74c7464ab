"""How long a frame was under way, so that time stuck in a cut link counts against a deadline.

Clocks of two machines differ by an unknown offset, so a single frame tells nothing. But the
smallest difference between arrival here and `Header.sent` there that was seen lately is the
offset plus the shortest way; whatever a later frame takes beyond that, it spent waiting:
in a socket's buffer, in a network that was cut, or for a loop that was frozen. Pings every two
seconds keep the smallest difference fresh, and forgetting it after a minute keeps the drift of
the clocks (at most 500 ppm while one is slewed) below 30 ms. The shortest way itself, and
what is constant, is not counted: it is the error, and on the caller's side.
"""

from __future__ import annotations

import time
from typing import Final

WINDOW: Final = 30_000  # milliseconds; the smallest difference of this and the last one is used


def now_ms() -> int:
    """Milliseconds on CLOCK_BOOTTIME, which goes on while the machine sleeps."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1_000_000


class Transit:
    """Learns from the frames of one link."""

    __slots__ = ("_before", "_least", "_until")

    def __init__(self) -> None:
        self._least: int | None = None  # of the present window
        self._before: int | None = None  # of the one before
        self._until = 0

    def age(self, sent: int, now: int) -> int:
        """Milliseconds that a frame sent at `sent` (there) and read at `now` (here) waited."""
        difference = now - sent
        least = self._least
        if least is None or now >= self._until:
            self._before, least = least, difference
            self._until = now + WINDOW
        elif difference < least:
            least = difference
        self._least = least
        before = self._before
        return difference - (least if before is None or least < before else before)
