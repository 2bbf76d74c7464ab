"""The call a piece of driver code runs for: on whose behalf, until when, and its answer."""

from __future__ import annotations

import asyncio
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Generic, TypeVar

DEEPEST = 100  # calls of modules by modules within each other
DEFAULT_TIMEOUT = 30.0  # seconds a module waits for another one outside of any call

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Call:
    """One EXECUTE. `deadline` is in the loop's time; 0 is none. `depth` counts the calls of
    modules by modules that led to it."""

    user: str = ""
    deadline: float = 0.0
    depth: int = 0

    def remaining(self) -> float:
        """Seconds left, never quite 0; `DEFAULT_TIMEOUT` for a call without a deadline."""
        if not self.deadline:
            return DEFAULT_TIMEOUT
        return max(0.001, self.deadline - asyncio.get_running_loop().time())


NO_CALL = Call()
present: ContextVar[Call] = ContextVar("present", default=NO_CALL)


@dataclass(frozen=True, slots=True)
class Reply(Generic[T]):
    """What a function returns to answer with another status than 200: `Reply(job, code=202)`.

    `code` is an HTTP status of success, 200 to 299, which the REST API answers with (204 and
    205 have no body). Another module that calls the function gets `value`. To refuse a call,
    raise a DriverError instead.
    """

    value: T
    code: int = 200

    def __post_init__(self) -> None:
        if not 200 <= self.code <= 299:
            raise ValueError(f"Reply: code {self.code} is no success; raise a DriverError instead")
