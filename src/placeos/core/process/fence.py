"""How long this core may write to devices: told to all its processes, enforced by the kernel.

See `driver/fencing/` for the parts: the page that everybody reads before writing, and the
timers that kill core and its fork parents. Killing either kills what it started: the kernel
sends SIGKILL to the children of a process that ends (PR_SET_PDEATHSIG).
"""

from __future__ import annotations

import contextlib
import socket
import threading
from typing import Final

from placeos.driver.fencing.page import NEVER, WritablePage
from placeos.driver.fencing.timer import KILL_AFTER, KillTimer

__all__ = ["KILL_AFTER", "NEVER", "Fence"]

LOOK: Final = b'{"look":true}'
"""Tells a fork parent to read the page and to set its timer by it."""


class Fence:
    """The deadlines of this core. All methods may be called from any thread.

    Until the first `extend` nothing may be written to a device, and nobody is killed. The
    timers of fork parents follow the page, which each reads whenever anything wakes it: a wake
    that is lost because a parent's socket is full is not missed, for then it has others to read.
    One that reads nothing any more keeps the time it has, and dies.
    """

    def __init__(self) -> None:
        """Raises OSError."""
        self._page = WritablePage()
        self._timer = KillTimer()
        self._lock = threading.Lock()
        self._parents: set[socket.socket] = set()
        self._closed = False

    @property
    def descriptor(self) -> int:
        """Of the page, for a fork parent to map."""
        return self._page.descriptor

    @property
    def lease(self) -> int:
        """The present deadline of modules with `isolation: stop`, in nanoseconds of
        CLOCK_BOOTTIME; 0 if there was none yet."""
        return self._page.lease

    @property
    def extended(self) -> int:
        """That of the others."""
        return self._page.extended

    def extend(self, lease_ns: int, extended_ns: int) -> None:
        """Move the deadlines on; `NEVER` for a core whose place nobody takes.

        What was granted stays granted: a time before the present one changes nothing, unless
        there was no end before. Raises ValueError for an extended deadline before the lease's.
        """
        if extended_ns < lease_ns:
            raise ValueError("the extended deadline is before that of the lease")
        with self._lock:
            if self._closed:
                return
            lease = lease_ns if self.lease == NEVER else max(lease_ns, self.lease)
            extended = extended_ns if self.extended == NEVER else max(extended_ns, self.extended)
            if (lease, extended) == (self.lease, self.extended):
                return
            # Frozen between the two, this process dies by the time set before.
            self._page.write(lease, extended)
            self._timer.arm(extended)
            for parent in self._parents:
                with contextlib.suppress(OSError):  # it is gone, or has enough to read
                    parent.send(LOOK, socket.MSG_DONTWAIT)

    def watch(self, parent: socket.socket) -> None:
        """Wake the fork parent at the other end of this socket at each `extend`."""
        with self._lock:
            self._parents.add(parent)

    def forget(self, parent: socket.socket) -> None:
        """Its socket will be closed. Harmless for one that was not watched."""
        with self._lock:
            self._parents.discard(parent)

    def close(self) -> None:
        """This core has let go of all devices: nothing more may be written, ever, and nobody
        is killed for that. Harmless when it was done."""
        with self._lock:
            if not self._closed:
                self._closed = True
                self._timer.disarm()
                self._page.write(0, 0)
                self._page.close()
