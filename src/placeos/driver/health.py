"""What of a driver fails at present: told once when it begins, and once when it is over."""

from __future__ import annotations

import asyncio
import logging
from typing import Protocol

from placeos.driver.errors import Offline, backtrace_of, text_of


def rethrow_own(error: BaseException) -> None:
    """Raise `error` if it ends the present task, or the process, and is no failure
    of what runs in it.

    That something else was cancelled for which the task waited is one, and so is that a library
    gave up with `sys.exit`.
    """
    if isinstance(error, asyncio.CancelledError):
        task = asyncio.current_task()
        if task is None or task.cancelling():
            raise error
    elif isinstance(error, KeyboardInterrupt | GeneratorExit):
        raise error


class Tell(Protocol):
    """Shows an administrator a fault of one cause, or (None) that it is over."""

    def __call__(
        self, cause: str, message: str | None, backtrace: list[str] | None = None
    ) -> None: ...


class Health:
    """The parts of one driver that are called again and again: hooks, handlers, timers.

    The first failure in a row is logged with its traceback and shown to administrators; the
    ones after it go to who debugs, however many there are a second.
    """

    __slots__ = ("_failing", "_log", "_tell")

    def __init__(self, log: logging.Logger, tell: Tell) -> None:
        self._log = log
        self._tell = tell
        self._failing: dict[str, int] = {}

    def failed(self, part: str, error: BaseException) -> None:
        """`part` raised. That a device is offline is no failure: `connected` says it.

        Raises `error` if it ends the present task or the process (`rethrow_own`).
        """
        rethrow_own(error)
        if isinstance(error, Offline):
            self._log.debug("%s: %s", part, error)
            return
        failures = self._failing[part] = self._failing.get(part, 0) + 1
        if failures > 1:
            self._log.debug("%s failed again: %s", part, text_of(error))
            return
        self._log.error("%s failed", part, exc_info=error)
        name = type(error).__name__
        text = "what it waited for was cancelled" if name == "CancelledError" else text_of(error)
        self._tell(part, f"{part}: {name}: {text}", backtrace_of(error))

    def well(self, part: str) -> None:
        """`part` did what it should."""
        if self._failing:
            failures = self._failing.pop(part, 0)
            if failures:
                self._log.info("%s works again after %d failures", part, failures)
                self._tell(part, None)
