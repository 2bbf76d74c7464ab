"""Log files of bounded size."""

from __future__ import annotations

import asyncio
import os
from collections import deque
from pathlib import Path

LIMIT = 5 * 1024 * 1024
_TAIL = 40


class LogFile:
    """Takes a program's output: `<name>.log`, the part before that in `<name>.log.1`.

    The last lines are also kept in memory, to be shown when the program fails.
    """

    def __init__(self, file: Path, *, limit: int = LIMIT) -> None:
        self.file = file
        self._limit = limit
        self._tail: deque[str] = deque(maxlen=_TAIL)
        file.parent.mkdir(parents=True, exist_ok=True)
        self._stream = file.open("ab", buffering=0)
        file.chmod(0o600)
        self._size = self._stream.tell()

    def write(self, data: bytes) -> None:
        """Append. A full disk costs log lines, not the program."""
        self._tail.extend(data.decode(errors="replace").splitlines())
        if self._size + len(data) > self._limit:
            self._turn()
        try:
            self._size += self._stream.write(data) or 0
        except OSError:
            self._size = self._stream.tell()

    def tail(self, lines: int = 8) -> list[str]:
        """The last lines, oldest first."""
        return list(self._tail)[-lines:]

    def close(self) -> None:
        """Close the file; the tail stays readable."""
        self._stream.close()

    def _turn(self) -> None:
        self._stream.close()
        self.file.replace(self.file.with_name(self.file.name + ".1"))
        self._stream = self.file.open("ab", buffering=0)
        self.file.chmod(0o600)
        self._size = 0


class LogPipe:
    """Carries what a program writes into its log file, on the running loop.

    It has no task and knows no end of its own: children of the program may hold the other end
    open for longer than the program lives.
    """

    def __init__(self, log: LogFile) -> None:
        self._log = log
        self._loop = asyncio.get_running_loop()
        self._reader, self.writer = os.pipe()
        os.set_blocking(self._reader, False)
        self._loop.add_reader(self._reader, self._read)

    def started(self) -> None:
        """The program has its end; ours is not needed any more."""
        os.close(self.writer)
        self.writer = -1

    def close(self) -> None:
        """Take what is still there and let go. May be called again."""
        if self._reader < 0:
            return
        while self._reader >= 0 and self._read():
            pass
        self._drop()
        if self.writer >= 0:
            self.started()

    def _read(self) -> bool:
        """Take one piece. False when there is none now."""
        try:
            data = os.read(self._reader, 65_536)
        except BlockingIOError:
            return False
        if data:
            self._log.write(data)
        else:
            self._drop()
        return bool(data)

    def _drop(self) -> None:
        if self._reader >= 0:
            self._loop.remove_reader(self._reader)
            os.close(self._reader)
            self._reader = -1
