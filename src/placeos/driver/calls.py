"""The call a piece of driver code runs for: on whose behalf, and until when."""

from __future__ import annotations

import asyncio
from contextvars import ContextVar
from dataclasses import dataclass

DEFAULT_TIMEOUT = 30.0  # seconds a module waits for another one outside of any call


@dataclass(frozen=True, slots=True)
class Call:
    """One EXECUTE. `deadline` is in the loop's time; 0 is none."""

    user: str = ""
    deadline: float = 0.0

    def remaining(self) -> float:
        """Seconds left, never quite 0; `DEFAULT_TIMEOUT` for a call without a deadline."""
        if not self.deadline:
            return DEFAULT_TIMEOUT
        return max(0.001, self.deadline - asyncio.get_running_loop().time())


NO_CALL = Call()
present: ContextVar[Call] = ContextVar("present", default=NO_CALL)
