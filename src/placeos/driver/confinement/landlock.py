"""Which files a process may reach, by the kernel's Landlock (no privilege needed).

Source: linux/landlock.h. A rule holds for a file or for a folder with all in it; whatever no
rule allows is refused. From ABI 6 on signals and abstract sockets end at the process too.
"""

from __future__ import annotations

import ctypes
import os
import stat
import struct
from collections.abc import Iterable
from typing import Final

from placeos.driver.confinement.kernel import system_call

_CREATE_RULESET: Final = 444  # numbers of system calls, the same on all processors
_ADD_RULE: Final = 445
_RESTRICT_SELF: Final = 446
_VERSION: Final = 1  # flag of _CREATE_RULESET: which ABI
_PATH_BENEATH: Final = 1
_WITHOUT_AUDIT: Final = 1  # flag of _RESTRICT_SELF, from ABI 7 on
_SCOPES: Final = 0b11  # abstract sockets, signals

_EXECUTE: Final = 1 << 0
_WRITE_FILE: Final = 1 << 1
_READ_FILE: Final = 1 << 2
_READ_FOLDER: Final = 1 << 3
_TRUNCATE: Final = 1 << 14
_IOCTL: Final = 1 << 15
_OF_FILES: Final = _EXECUTE | _WRITE_FILE | _READ_FILE | _TRUNCATE | _IOCTL
_RIGHTS: Final = {1: (1 << 13) - 1, 2: (1 << 14) - 1, 3: (1 << 15) - 1, 5: (1 << 16) - 1}
"""All rights that an ABI knows."""


def restrict(read: Iterable[str], write: Iterable[str], *, execute: bool) -> str:
    """From now on only these can be read, and only those written; what was reached."""
    try:
        abi = system_call(_CREATE_RULESET, None, 0, _VERSION)
        handled = _RIGHTS[max(known for known in _RIGHTS if known <= abi)]
        ruleset = _ruleset(abi, handled)
        try:
            reading = _READ_FILE | _READ_FOLDER | (_EXECUTE if execute else 0)
            for path in read:
                _allow(ruleset, path, reading)
            for path in write:
                _allow(ruleset, path, handled & ~_EXECUTE)
            system_call(_RESTRICT_SELF, ruleset, _WITHOUT_AUDIT if abi >= 7 else 0)
        finally:
            os.close(ruleset)
    except OSError as error:
        return f"no: {error.strerror}"
    scope = "files and signals" if abi >= 6 else "files"
    return f"ABI {abi}: {scope}"


def _ruleset(abi: int, handled: int) -> int:
    attributes = struct.pack("QQQ", handled, 0, _SCOPES if abi >= 6 else 0)
    size = 24 if abi >= 6 else 16 if abi >= 4 else 8
    return system_call(_CREATE_RULESET, ctypes.c_char_p(attributes), size, 0)


def _allow(ruleset: int, path: str, rights: int) -> None:
    """Nothing happens if there is no such file."""
    try:
        file = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError:
        return
    try:
        if not stat.S_ISDIR(os.fstat(file).st_mode):
            rights &= _OF_FILES
        rule = struct.pack("=Qi", rights, file)
        system_call(_ADD_RULE, ruleset, _PATH_BENEATH, ctypes.c_char_p(rule), 0)
    finally:
        os.close(file)
