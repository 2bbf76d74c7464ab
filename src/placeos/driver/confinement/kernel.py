"""Calling what Python has no function for."""

from __future__ import annotations

import ctypes
import os
from typing import Any, Final

libc: Final = ctypes.CDLL(None, use_errno=True)


def call(function: Any, *arguments: object) -> OSError | None:
    """Call a function of libc that gives -1 on failure; the failure."""
    if function(*(_wide(argument) for argument in arguments)) != -1:
        return None
    number = ctypes.get_errno()
    return OSError(number, os.strerror(number))


def system_call(number: int, *arguments: object) -> int:
    """A system call that libc has no function for. Raises OSError."""
    found = libc.syscall(ctypes.c_long(number), *(_wide(argument) for argument in arguments))
    if found == -1:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))
    return int(found)


def _wide(argument: object) -> object:
    """Arguments of variadic functions are read as whole registers."""
    return ctypes.c_ulong(argument) if isinstance(argument, int) else argument
