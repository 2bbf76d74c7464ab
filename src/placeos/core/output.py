"""What driver processes write to standard error: passed on, bounded, and searched for stacks."""

from __future__ import annotations

import asyncio
import logging
import os
import re
import sys
from collections import deque
from typing import Final

log = logging.getLogger("placeos.core")

CHUNK: Final = 65_536  # bytes read at once
ALLOWANCE: Final = 262_144  # bytes passed on per second; more is dropped and counted
KEPT: Final = 500  # lines kept to be searched
MAX_LINE: Final = 10_000  # bytes of one line
_FRAME: Final = re.compile(rb'^\s*File "(?P<file>.+)", line (?P<line>\d+) in (?P<function>.+)$')


class Output:
    """A pipe whose write end driver processes inherit. `close` it at the end."""

    def __init__(self) -> None:
        self._read, self.write_end = os.pipe()
        os.set_blocking(self._read, False)
        self._rest = b""
        self._lines: deque[tuple[float, bytes]] = deque(maxlen=KEPT)
        self._allowance = float(ALLOWANCE)
        self._filled = 0.0
        self._dropped = 0
        asyncio.get_running_loop().add_reader(self._read, self._readable)

    def close(self) -> None:
        """Stop reading; what is written afterwards is lost."""
        asyncio.get_running_loop().remove_reader(self._read)
        os.close(self._read)
        os.close(self.write_end)

    def stack(self, path: str, since: float) -> str | None:
        """Where a dump written after `since` (loop time) says `path` is: `file:line in f`."""
        wanted = path.encode("ascii", "backslashreplace")  # as faulthandler writes names
        for when, line in self._lines:
            match = _FRAME.match(line) if when >= since else None
            if match is not None and match["file"] == wanted:
                function = match["function"].decode("utf-8", "replace")
                return f"{os.path.basename(path)}:{int(match['line'])} in {function}"  # noqa: PTH119
        return None

    def _readable(self) -> None:
        try:
            data = os.read(self._read, CHUNK)
        except BlockingIOError:
            return
        now = asyncio.get_running_loop().time()
        *lines, self._rest = (self._rest + data).split(b"\n")
        if len(self._rest) > MAX_LINE:
            lines.append(self._rest)
            self._rest = b""
        self._lines.extend((now, line[:MAX_LINE]) for line in lines[-KEPT:])
        self._pass_on(b"\n".join(lines) + b"\n" if lines else b"", now)

    def _pass_on(self, text: bytes, now: float) -> None:
        if not text:
            return
        self._allowance = min(ALLOWANCE, self._allowance + (now - self._filled) * ALLOWANCE)
        self._filled = now
        if len(text) > self._allowance:
            self._dropped += len(text)
            return
        if self._dropped:
            log.warning("driver output dropped", extra={"bytes": self._dropped})
            self._dropped = 0
        self._allowance -= len(text)
        try:
            sys.stderr.buffer.write(text)
            sys.stderr.buffer.flush()
        except (OSError, ValueError, AttributeError):
            self._dropped += len(text)
