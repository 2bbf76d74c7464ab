"""What a driver author may catch, and what core shows when a driver file is unusable.

`code` is the HTTP-like status a caller sees when the error leaves a driver's function.
"""

from __future__ import annotations

import traceback
from typing import Final

from placeos.wire.errors import CallError, Failure

LONGEST: Final = 100_000  # characters of one message or line; more is cut off


class DriverError(Exception):
    """Base of the SDK's errors. Raise it, or a subclass, to refuse a call with a reason."""

    code = 500

    def __init__(self, message: str, *, code: int | None = None) -> None:
        super().__init__(message)
        if code is not None:
            self.code = code


class NoReply(DriverError):
    """The device did not answer a command, in any of its attempts."""

    code = 504


class Offline(DriverError):
    """The device is not connected."""

    code = 503


class Superseded(DriverError):
    """A newer command of the same name took this one's place before it was sent."""

    code = 409


class Withdrawn(DriverError):
    """The command was taken out of the queue before it was answered."""

    code = 503


class Busy(DriverError):
    """The command queue is full."""

    code = 503


class RemoteError(DriverError):
    """A function of another module failed. `kind` is the class name of what it raised."""

    def __init__(self, message: str, *, code: int, kind: str = "", failure: str = "") -> None:
        super().__init__(message, code=code)
        self.kind = kind
        self.failure = failure


class BadArguments(DriverError):
    """A call with too few, too many or wrongly typed arguments; names function and argument."""

    code = 400


class InvalidSettings(DriverError):
    """Settings that do not fit the driver's `Settings` class; names the path."""

    code = 400


class InvalidDriver(DriverError):
    """A driver file that cannot be used. The message names file, line and reason."""


def text_of(error: BaseException) -> str:
    """What an error says, or its class if it says nothing or cannot."""
    try:
        return str(error) or type(error).__name__
    except Exception:  # the class is a driver's own, and so may be its mistakes
        return type(error).__name__


def sendable(text: str) -> str:
    """`text` as it can be sent on: no half characters (what `surrogateescape` leaves), no end
    of it that nobody would read."""
    if len(text) > LONGEST:
        text = f"{text[:LONGEST]} … and {len(text) - LONGEST} characters more"
    return text if text.isascii() else text.encode(errors="backslashreplace").decode()


def backtrace_of(error: BaseException) -> list[str]:
    """Where an error came from, innermost last: `file:line in function`."""
    frames = traceback.extract_tb(error.__traceback__)[-20:]
    return [f"{frame.filename}:{frame.lineno} in {frame.name}" for frame in frames]


def raised(error: BaseException) -> CallError:
    """What a caller sees of an error of a driver."""
    if isinstance(error, CallError):
        return error
    code = getattr(error, "code", 500)
    return CallError(
        Failure.RAISED,
        text_of(error),
        code=code if isinstance(code, int) and 400 <= code <= 599 else 500,
        kind=type(error).__name__,
        backtrace=backtrace_of(error),
    )
