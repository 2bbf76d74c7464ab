"""What a driver author may catch, and what core shows when a driver file is unusable.

`code` is the HTTP-like status a caller sees when the error leaves a driver's function.
"""

from __future__ import annotations

import traceback
from typing import Final

from placeos.wire.errors import CallError, Failure

LONGEST: Final = 8_000  # characters of an error or of a line of the log


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


class LeaseLost(Offline):
    """This node may not write to its devices now: another one may have taken its place."""


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
    """What an error says, or its class. It may be any driver's own: this never raises."""
    name = type(error).__name__
    try:
        text = str(error)
    except Exception as problem:
        return f"{name} (its text cannot be had: {type(problem).__name__})"
    return sendable(text) or name


def sendable(text: str) -> str:
    """A text as it can be sent: without its middle if it is long, without half characters
    (what `surrogateescape` leaves)."""
    if len(text) > LONGEST:
        half = LONGEST // 2 - 32  # room for what follows: a text is cut once
        left_out = len(text) - 2 * half
        text = f"{text[:half]} … ({left_out} characters were left out) … {text[-half:]}"
    return text if text.isascii() else text.encode(errors="backslashreplace").decode()


def backtrace_of(error: BaseException) -> list[str]:
    """Where an error came from, innermost last: `file:line in function`."""
    frames = traceback.extract_tb(error.__traceback__)[-20:]
    return [f"{frame.filename}:{frame.lineno} in {frame.name}" for frame in frames]


def raised(error: BaseException) -> CallError:
    """What a caller sees of an error of a driver."""
    if isinstance(error, CallError):
        return error
    try:
        code = getattr(error, "code", 500)
    except Exception:  # a property of a driver's own
        code = 500
    return CallError(
        Failure.RAISED,
        text_of(error),
        code=code if isinstance(code, int) and 400 <= code <= 599 else 500,
        kind=type(error).__name__,
        backtrace=backtrace_of(error),
    )
