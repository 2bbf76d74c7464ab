"""Presence of people from a sensor that flickers. Pure: time comes in as an argument."""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Presence:
    """What a `PresenceSmoother` makes of its sensor.

    `state` is None before the first observation. `changed`: `state` is another one than when it
    was last asked for. `raw` is the last observation. `on` and `off` are the shares (0 to 1) of
    the time observed, within the window, in which the sensor said so; `confidence` is that of
    `state`. `observed_for` is in seconds; from the length of the window on, the window is
    `full` and `state` may change.
    """

    state: bool | None
    changed: bool
    raw: bool | None
    confidence: float
    on: float
    off: float
    observed_for: float
    full: bool


class PresenceSmoother:
    """Believes a sensor that said the same for most of a while: one for each sensor.

    The first observation counts at once. After that the state changes when, within the last
    `window` seconds, the sensor said otherwise for at least the share `threshold` of the time,
    and never before it was observed for a whole window. Call `observe` with what it says, and
    `poll` with each tick of a timer. `now` is in seconds of any clock that only goes forward,
    the event loop's if not given.
    """

    __slots__ = ("_began", "_said", "_state", "_told", "threshold", "window")

    def __init__(self, *, window: float = 180.0, threshold: float = 0.7) -> None:
        if not window > 0 or not 0.5 < threshold <= 1:
            raise ValueError("a window is above 0 s, a threshold above 0.5 and at most 1")
        self.window = window
        self.threshold = threshold
        self._said: deque[tuple[float, bool]] = deque()  # since when it has said what
        self._began = 0.0
        self._state: bool | None = None
        self._told: bool | None = None

    def observe(self, present: bool, now: float | None = None) -> Presence:
        """The sensor says this from now on."""
        now = self._time(now)
        if self._state is None:
            self._state = present
            self._began = now
        if not self._said or self._said[-1][1] is not present:
            self._judge(now)
            self._said.append((now, present))
        return self.poll(now)

    def poll(self, now: float | None = None) -> Presence:
        """How it is now."""
        now = self._time(now)
        on, off, observed = self._judge(now)
        changed, self._told = self._state is not self._told, self._state
        return Presence(
            state=self._state,
            changed=changed,
            raw=self._said[-1][1] if self._said else None,
            confidence=0.0 if self._state is None else on if self._state else off,
            on=on,
            off=off,
            observed_for=observed,
            full=observed >= self.window,
        )

    def _judge(self, now: float) -> tuple[float, float, float]:
        """Forget what lies before the window, and change the state if it is time to."""
        if not self._said:
            return 0.0, 0.0, 0.0
        begin = now - self.window
        while len(self._said) > 1 and self._said[1][0] <= begin:
            self._said.popleft()
        spans = zip(self._said, [*list(self._said)[1:], (now, True)], strict=True)
        lengths = [(said, until - max(since, begin)) for (since, said), (until, _) in spans]
        observed = max(0.0, now - self._began)
        total = sum(length for _, length in lengths)
        if total <= 0:  # it has only begun
            on = 1.0 if self._said[-1][1] else 0.0
        else:
            on = sum(length for said, length in lengths if said) / total
        other = (1.0 - on) if self._state else on
        if observed >= self.window and other >= self.threshold:
            self._state = not self._state
        return on, 1.0 - on, observed

    def _time(self, now: float | None) -> float:
        now = asyncio.get_running_loop().time() if now is None else now
        return max(now, self._said[-1][0]) if self._said else now
