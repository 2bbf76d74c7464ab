"""Logging of a driver process: JSON lines on standard error, and live to whoever debugs.

Warnings and worse always go to standard error. While somebody debugs a module, everything
from `debug` up also goes to core as LOG frames.
"""

from __future__ import annotations

import logging
import sys
import time
import traceback
from collections.abc import Callable

import msgspec

Forward = Callable[[int, str], None]  # level of the wire, text

_WIRE_LEVELS = ((50, 6), (40, 5), (30, 4), (20, 2), (10, 1))


def wire_level(level: int) -> int:
    """Python's level as the wire counts: 0 trace, 1 debug, 2 info, 4 warn, 5 error, 6 fatal."""
    return next((wire for least, wire in _WIRE_LEVELS if level >= least), 0)


class ModuleLogger(logging.Logger):
    """The logger of one module; not registered anywhere, so it goes when its module goes."""

    def __init__(self, module_id: str) -> None:
        super().__init__(module_id)
        self.threshold = logging.WARNING
        self.forward: Forward | None = None

    def set_debug(self, forward: Forward | None) -> None:
        """Start (or, with None, stop) giving every line to `forward`."""
        self.forward = forward
        self.threshold = logging.DEBUG if forward is not None else logging.WARNING

    def isEnabledFor(self, level: int) -> bool:  # noqa: N802 - a method of the base class
        """Whether a line of that level goes anywhere."""
        return level >= self.threshold

    def handle(self, record: logging.LogRecord) -> None:
        """Deliver one record."""
        if self.forward is not None:
            self.forward(wire_level(record.levelno), _text(record))
        if record.levelno >= logging.WARNING:
            _stderr.handle(record)


class JsonLines(logging.Handler):
    """One JSON object a line on standard error."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write one record."""
        line = {
            "timestamp": time.time(),
            "level": record.levelname.lower(),
            "logger": record.name,
            "event": _text(record),
        }
        try:
            sys.stderr.write(msgspec.json.encode(line).decode() + "\n")
            sys.stderr.flush()
        except (OSError, ValueError):  # nobody reads it any more; a module must not fail for it
            self.handleError(record)

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802
        """Drop the line: the only place to complain is the one that just failed."""


_stderr = JsonLines(logging.WARNING)


def configure() -> None:
    """Send what the SDK and libraries log to standard error, from warnings up."""
    root = logging.getLogger()
    root.handlers[:] = [_stderr]
    root.setLevel(logging.WARNING)


def _text(record: logging.LogRecord) -> str:
    try:
        text = record.getMessage()
    except Exception as error:  # a wrong format string in a driver must not break the driver
        text = f"{record.msg} {record.args!r} (not formatted: {error})"
    if record.exc_info and record.exc_info[0] is not None:
        text += "\n" + "".join(traceback.format_exception(*record.exc_info)).rstrip()
    return text
