"""The page of memory by which core tells all its processes until when it may write to devices.

Two 64-bit integers, each nanoseconds of CLOCK_BOOTTIME (which goes on while the machine
sleeps). Each is aligned, so that the processor reads and writes it in one piece. Core writes;
everybody else has a mapping that cannot be made writable: the memory is sealed
(F_SEAL_FUTURE_WRITE, Linux 5.1). It cannot shrink either, so reading never fails.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import time
from typing import Final

SIZE: Final = mmap.PAGESIZE
LEASE: Final = 0  # places in the page
EXTENDED: Final = 1
NEVER: Final = 2**62
"""A deadline that is never reached, for a core whose place nobody takes."""

_SEAL_FUTURE_WRITE: Final = 0x0010  # linux/fcntl.h; Python has no name for it
_SEALS: Final = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | _SEAL_FUTURE_WRITE


def now() -> int:
    """Nanoseconds on the clock of all deadlines."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)


class Page:
    """The deadlines, as one of core's processes reads them. 0: nothing may be written yet."""

    def __init__(self, descriptor: int, access: int = mmap.PROT_READ) -> None:
        """Map the page that a descriptor stands for. Raises OSError."""
        self._memory = mmap.mmap(descriptor, SIZE, mmap.MAP_SHARED, access)
        self.deadlines = memoryview(self._memory).cast("q")

    @property
    def lease(self) -> int:
        """When the lease ends: that of modules with `isolation: stop`."""
        return self.deadlines[LEASE]

    @property
    def extended(self) -> int:
        """The same with what the other cores have granted: that of all other modules."""
        return self.deadlines[EXTENDED]

    def close(self) -> None:
        """Give it back. Harmless when that was done."""
        self.deadlines.release()
        self._memory.close()


class WritablePage(Page):
    """The page of a core, which makes it. `descriptor` is for others to map it."""

    def __init__(self) -> None:
        """Raises OSError."""
        self.descriptor = os.memfd_create(
            "placeos deadlines", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING
        )
        try:
            os.ftruncate(self.descriptor, SIZE)
            super().__init__(self.descriptor, mmap.PROT_READ | mmap.PROT_WRITE)
            fcntl.fcntl(self.descriptor, fcntl.F_ADD_SEALS, _SEALS)
        except BaseException:
            os.close(self.descriptor)
            raise

    def write(self, lease: int, extended: int) -> None:
        """Set both deadlines."""
        self.deadlines[LEASE] = lease
        self.deadlines[EXTENDED] = extended

    def close(self) -> None:
        """Give it back; who has mapped it goes on reading."""
        if self.descriptor >= 0:
            super().close()
            os.close(self.descriptor)
            self.descriptor = -1
