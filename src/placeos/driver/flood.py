"""Protection against floods: so many lines a second, the rest is counted. Pure."""

from __future__ import annotations


class Allowance:
    """A token bucket: `burst` at once, then `rate` a second. Time comes in as an argument."""

    __slots__ = ("_burst", "_left", "_rate", "_since", "dropped")

    def __init__(self, rate: float, burst: int) -> None:
        self._rate = rate
        self._burst = burst
        self._left = float(burst)
        self._since = 0.0
        self.dropped = 0  # since it was last asked for by `take_dropped`

    def allows(self, now: float) -> bool:
        """Whether one more may pass; one that may not is counted."""
        if now > self._since:
            self._left = min(self._burst, self._left + (now - self._since) * self._rate)
            self._since = now
        if self._left < 1:
            self.dropped += 1
            return False
        self._left -= 1
        return True

    def take_dropped(self) -> int:
        """How many were dropped since this was last asked."""
        dropped, self.dropped = self.dropped, 0
        return dropped
