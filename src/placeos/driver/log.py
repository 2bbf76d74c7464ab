"""Logging of a driver process: JSON lines on standard error, and live to whoever debugs.

Warnings and worse (or what the setting `persistent_log_level` says) go to standard error.
While somebody debugs a module, everything from `debug` up also goes to core as LOG frames,
and with it what is sent to and received from the device. Both ways are bounded for each
module, so that none can flood a disk or drown the lines of the others. Values of secret
settings are shown by neither.
"""

from __future__ import annotations

import asyncio
import logging
import sys
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from typing import Final

import msgspec

from placeos.driver.errors import InvalidSettings, sendable, text_of
from placeos.driver.flood import Allowance
from placeos.driver.mask import Mask

Forward = Callable[[int, str], None]  # level of the wire, text
OnFlood = Callable[[bool], None]  # True: it began; False: it is over

RATE: Final = 50.0  # lines a second of one module, and as many at once as
BURST: Final = 200
TELL_EVERY: Final = 1.0  # seconds between two lines that tell how many were dropped
CALM: Final = 60.0  # seconds without a dropped line after which a flood is over
SHOWN: Final = 256  # bytes of a message of the wire

LEVELS: Final = {
    "trace": 5,
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "notice": 25,
    "warn": logging.WARNING,
    "warning": logging.WARNING,
    "error": logging.ERROR,
    "fatal": logging.CRITICAL,
    "none": logging.CRITICAL + 1,
}
"""Values of the setting `persistent_log_level`."""


def log_level(settings: Mapping[str, msgspec.Raw]) -> int:
    """The least level to be kept, as the settings say. Raises InvalidSettings."""
    raw = settings.get("persistent_log_level")
    given = "warn" if raw is None else msgspec.json.decode(raw)
    found = LEVELS.get(given.lower()) if isinstance(given, str) else None
    if found is None:
        names = ", ".join(LEVELS)
        raise InvalidSettings(f"setting 'persistent_log_level': expected one of {names}")
    return found


_TRACE: Final = 0  # as the wire counts
_WARN: Final = 4
_WIRE_LEVELS = ((50, 6), (40, 5), (30, _WARN), (25, 3), (20, 2), (10, 1))


def wire_level(level: int) -> int:
    """Python's level as the wire counts: 0 trace, 1 debug, 2 info, 3 notice, 4 warn, 5 error,
    6 fatal."""
    return next((wire for least, wire in _WIRE_LEVELS if level >= least), _TRACE)


_PRINTABLE: Final = [
    chr(n) if 32 <= n < 127 and chr(n) not in '\\"' else f"\\x{n:02x}" for n in range(256)
]
for _char, _escape in {"\\": "\\\\", '"': '\\"', "\r": "\\r", "\n": "\\n", "\t": "\\t"}.items():
    _PRINTABLE[ord(_char)] = _escape


def describe_bytes(data: bytes) -> str:
    """`9 bytes  "%1POWR 1\\r"  25 31 50 …`: printable and hex, the first `SHOWN` bytes."""
    head = bytes(data[:SHOWN])
    text = "".join(_PRINTABLE[byte] for byte in head)
    more = f" … and {len(data) - SHOWN} bytes more" if len(data) > SHOWN else ""
    return f'{len(data)} byte{"s" if len(data) != 1 else ""}  "{text}"  {head.hex(" ")}{more}'


class _Way:
    """One way out of a module's log, with its own allowance."""

    __slots__ = ("_loop", "_say", "_timer", "allowance", "last_drop", "on_flood")

    def __init__(self, say: Callable[[str], None], on_flood: OnFlood | None) -> None:
        self._loop = asyncio.get_running_loop()
        self._say = say
        self._timer: asyncio.TimerHandle | None = None
        self.allowance = Allowance(RATE, BURST)
        self.on_flood = on_flood
        self.last_drop = 0.0

    def allows(self) -> bool:
        now = self._loop.time()
        if self.allowance.allows(now):
            return True
        self.last_drop = now
        if self._timer is None:
            if self.on_flood is not None:
                self.on_flood(True)
            self._timer = self._loop.call_later(TELL_EVERY, self._tell)
        return False

    def _tell(self) -> None:
        """Tell how many were dropped, until it has been calm for a while."""
        dropped = self.allowance.take_dropped()
        if dropped:
            self._say(f"({dropped} lines were dropped: more than {RATE:g} a second)")
        calm = self._loop.time() - self.last_drop >= CALM
        self._timer = None if calm else self._loop.call_later(TELL_EVERY, self._tell)
        if calm and self.on_flood is not None:
            self.on_flood(False)

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
            dropped = self.allowance.take_dropped()
            if dropped:
                self._say(f"({dropped} lines were dropped)")


class ModuleLogger(logging.Logger):
    """The logger of one module; not registered anywhere, so it goes when its module goes.

    `on_flood` is told when lines for standard error are being dropped, and when that is over.
    Lines may come from any thread.
    """

    def __init__(self, module_id: str, on_flood: OnFlood | None = None) -> None:
        super().__init__(module_id)
        self._loop = asyncio.get_running_loop()
        self._thread = threading.get_ident()
        self._persistent = logging.WARNING
        self._threshold = logging.WARNING
        self._kept = _Way(self._say_kept, on_flood)
        self._live = _Way(self._say_live, None)
        self.forward: Forward | None = None
        self.mask = Mask()

    def set_debug(self, forward: Forward | None) -> None:
        """Start (or, with None, stop) giving every line to `forward`."""
        self.forward = forward
        self._set_threshold()

    def set_persistent(self, level: int) -> None:
        """The least level that goes to standard error."""
        self._persistent = level
        self._set_threshold()

    def _set_threshold(self) -> None:
        live = logging.DEBUG if self.forward is not None else self._persistent
        self._threshold = min(live, self._persistent)

    def isEnabledFor(self, level: int) -> bool:  # noqa: N802 - a method of the base class
        """Whether a line of that level goes anywhere."""
        return level >= self._threshold

    def handle(self, record: logging.LogRecord) -> None:
        """Deliver one record."""
        if threading.get_ident() != self._thread:
            self._loop.call_soon_threadsafe(self.handle, record)
            return
        if self.mask:
            record.msg, record.args = self.mask.text(_text(record)), ()
            record.exc_info = None  # it is in the text now
        live = self.forward is not None and record.levelno >= logging.DEBUG
        live = live and self._live.allows()
        kept = record.levelno >= self._persistent and self._kept.allows()
        if live and self.forward is not None:
            self.forward(wire_level(record.levelno), _text(record))
        if kept:
            _stderr.handle(record)

    def wire(self, direction: str, data: bytes) -> None:
        """Show to whoever debugs what was `sent` to or `received` from the device."""
        if self.forward is not None and self._live.allows():
            self.forward(_TRACE, f"{direction} {describe_bytes(self.mask.data(data))}")

    def close(self) -> None:
        """Tell what is still to be told; the module ends."""
        self._kept.close()
        self._live.close()

    def _say_kept(self, text: str) -> None:
        record = self.makeRecord(self.name, logging.WARNING, "", 0, text, (), None)
        _stderr.handle(record)

    def _say_live(self, text: str) -> None:
        if self.forward is not None:
            self.forward(_WARN, text)


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


_stderr = JsonLines()


def configure() -> None:
    """Send what the SDK and libraries log to standard error, from warnings up."""
    root = logging.getLogger()
    root.handlers[:] = [_stderr]
    root.setLevel(logging.WARNING)


def _text(record: logging.LogRecord) -> str:
    try:
        text = record.getMessage()
    except Exception as error:  # a wrong format string in a driver must not break the driver
        try:
            text = f"{record.msg} {record.args!r} (not formatted: {error})"
        except Exception:
            text = f"(a line that cannot be formatted: {text_of(error)})"
    if record.exc_info and record.exc_info[0] is not None:
        text += "\n" + "".join(traceback.format_exception(*record.exc_info)).rstrip()
    return sendable(text)
