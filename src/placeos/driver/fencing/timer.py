"""A timer by which the kernel kills the process that set it, whatever that process does then.

It is a POSIX timer on CLOCK_BOOTTIME (timer_create(2)): it fires also while the process is
stopped, or has all its threads stuck, and is gone with an exec or in a forked child.
"""

from __future__ import annotations

import ctypes
import signal
import time
from typing import Final

from placeos.driver.confinement.kernel import call, libc

KILL_AFTER: Final = 0.8
"""Seconds from the extended deadline to the end of the process."""

_KILL_AFTER: Final = int(KILL_AFTER * 1e9)
_SECOND: Final = 1_000_000_000  # nanoseconds
_SIGEV_SIGNAL: Final = 0  # asm-generic/siginfo.h
_TIMER_ABSTIME: Final = 1  # linux/time.h


class _Event(ctypes.Structure):  # struct sigevent
    _fields_ = (
        ("value", ctypes.c_void_p),
        ("signal", ctypes.c_int),
        ("notify", ctypes.c_int),
        ("rest", ctypes.c_char * 48),
    )


class _Setting(ctypes.Structure):  # struct itimerspec
    _fields_ = (
        ("every_seconds", ctypes.c_long),
        ("every_nanoseconds", ctypes.c_long),
        ("at_seconds", ctypes.c_long),
        ("at_nanoseconds", ctypes.c_long),
    )


def _functions() -> ctypes.CDLL:
    """Who has them: libc, or, before glibc 2.34, librt."""
    return libc if hasattr(libc, "timer_create") else ctypes.CDLL("librt.so.1", use_errno=True)


class KillTimer:
    """SIGKILL for this process, at a time that is moved on and on. Usable from any thread."""

    def __init__(self) -> None:
        """Make the timer; it is not set. Raises OSError."""
        self._functions = _functions()
        self._id = ctypes.c_void_p()
        event = _Event(signal=signal.SIGKILL, notify=_SIGEV_SIGNAL)
        failed = call(
            self._functions.timer_create,
            ctypes.c_int(time.CLOCK_BOOTTIME),
            ctypes.byref(event),
            ctypes.byref(self._id),
        )
        if failed is not None:
            raise failed

    def arm(self, deadline: int) -> None:
        """Kill this process `KILL_AFTER` past a deadline, and no more at the time set before.

        A time that is past kills at once. Raises OSError.
        """
        self._set(*divmod(deadline + _KILL_AFTER, _SECOND))

    def disarm(self) -> None:
        """Do not kill it. Raises OSError."""
        self._set(0, 0)

    def _set(self, seconds: int, nanoseconds: int) -> None:
        setting = _Setting(at_seconds=seconds, at_nanoseconds=nanoseconds)
        failed = call(
            self._functions.timer_settime,
            self._id,
            ctypes.c_int(_TIMER_ABSTIME),
            ctypes.byref(setting),
            None,
        )
        if failed is not None:
            raise failed
