"""Forking a process that takes along whatever it starts, however deep, when it ends.

The first process of a pid namespace cannot be outlived by the others in it: the kernel kills
them (pid_namespaces(7)). A death signal reaches the children of a process only, and not what
those start; and nobody is left to kill a group of processes when a core and its fork parents
were ended by their timers.
"""

from __future__ import annotations

import os
from typing import Final

from placeos.driver.confinement.kernel import call, libc

_NEW_PID_SPACE: Final = 0x20000000  # CLONE_NEWPID, linux/sched.h


def fork(*, apart: bool) -> tuple[int, str]:
    """`os.fork`, and with `apart` into a pid namespace of its own; why not, if that failed.

    The child is process 1 there, and its parent 0. Raises OSError.
    """
    if not apart:
        return os.fork(), ""
    own = os.open("/proc/self/ns/pid", os.O_RDONLY | os.O_CLOEXEC)
    try:
        refused = call(libc.unshare, _NEW_PID_SPACE)
        pid = os.fork()
        if pid and refused is None:
            failed = call(libc.setns, own, _NEW_PID_SPACE)
            if failed is not None:
                raise failed
    finally:
        os.close(own)
    return pid, "" if refused is None else str(refused.strerror)
