"""`hang.py PID SECONDS`: one thread of a process, its main one, stands still; the others go on.

This is a core whose loop hangs while its renewal thread, and so its lease, lives. By ptrace, for
SIGSTOP stops a whole process. A thread that sleeps in the kernel holds no lock of the
interpreter, so it is caught there. Needs root. When this program ends, the thread goes on.
"""

from __future__ import annotations

import ctypes
import os
import sys
import time
from pathlib import Path

_SEIZE, _INTERRUPT = 0x4206, 0x4207
_WALL = 0x40000000


def main() -> None:
    """Hold the thread, say `held`, wait."""
    pid, seconds = int(sys.argv[1]), float(sys.argv[2])
    ptrace = ctypes.CDLL(None, use_errno=True).ptrace
    ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]

    def ask(request: int) -> None:
        if ptrace(request, pid, None, None) != 0:
            raise OSError(ctypes.get_errno(), "ptrace")

    ask(_SEIZE)
    while _state(pid) != "S":
        time.sleep(0.001)
    ask(_INTERRUPT)
    os.waitpid(pid, _WALL)
    sys.stdout.write("held\n")
    sys.stdout.flush()
    time.sleep(seconds)


def _state(pid: int) -> str:
    text = Path(f"/proc/{pid}/task/{pid}/stat").read_text()
    return text.rpartition(")")[2].split()[0]


if __name__ == "__main__":
    main()
