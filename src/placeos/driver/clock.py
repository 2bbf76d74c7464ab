"""The wall clock of drivers. Everything that asks for the date asks here, so that a test can
tell another time (monotonic time is always `loop.time()`)."""

from __future__ import annotations

import time
from collections.abc import Callable

_source: Callable[[], float] = time.time


def now() -> float:
    """Unix seconds."""
    return _source()


def set_source(source: Callable[[], float]) -> None:
    """Ask `source` from now on; the test harness does so in a process of its own."""
    global _source
    _source = source
