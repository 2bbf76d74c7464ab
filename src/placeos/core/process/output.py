"""What a driver process writes to standard output and error.

Each process has a pipe of its own, so that one that floods it waits for itself only. Lines are
passed on with the driver's name, within an allowance; the rest is counted and dropped. The
latest lines are kept, to be searched for stacks and to tell how a process ended.
"""

from __future__ import annotations

import asyncio
import datetime
import logging
import os
import re
import sys
from collections import deque
from typing import Final

import msgspec

log = logging.getLogger("placeos.core")

CHUNK: Final = 65_536  # bytes read at once
SLICE: Final = 0.05  # seconds between two reads of a process that is over its allowance
ALLOWANCE: Final = 65_536  # bytes passed on per second
BURST: Final = 262_144  # bytes passed on at once after a quiet time
TELL_EVERY: Final = 5.0  # seconds between two lines that tell how much was dropped
KEPT: Final = 200  # lines kept to be searched
MAX_LINE: Final = 10_000  # bytes of one line
LAST: Final = (20, 2_000)  # lines and characters of `last_words`
_FRAME: Final = re.compile(rb'^\s*File "(?P<file>.+)", line (?P<line>\d+) in (?P<function>.+)$')


class Output:
    """A pipe whose write end a process inherits. `close` it at the end.

    `title` is the driver that is named in each line; without it lines are passed on as they are.
    """

    def __init__(self, title: str = "") -> None:
        self._read, self.write_end = os.pipe()
        os.set_blocking(self._read, False)
        self._title = title
        self._name = msgspec.json.encode(title)
        self._rest = b""
        self._lines: deque[tuple[float, bytes]] = deque(maxlen=KEPT)
        self._allowance = float(BURST)
        self._filled = 0.0
        self._dropped = 0  # bytes since that was last told
        self._told = 0.0
        self.received = 0
        """Bytes so far."""
        self._loop = asyncio.get_running_loop()
        self._pause: asyncio.TimerHandle | None = None
        self._loop.add_reader(self._read, self._readable)

    def handed_over(self) -> None:
        """The process has its end: ours is closed, so that its last word is seen as such."""
        if self.write_end >= 0:
            os.close(self.write_end)
            self.write_end = -1

    def close(self) -> None:
        """Read what is there and stop; what is written afterwards is lost."""
        self.handed_over()
        for _ in range(4):
            if self._read < 0 or not self._take():
                break
        self._stop()
        now = self._loop.time()
        if self._rest:
            self._take_lines([self._rest], now)
            self._rest = b""
        if self._dropped:
            self._tell_dropped(now)

    def stack(self, path: str, since: float) -> str | None:
        """Where a dump written after `since` (loop time) says `path` is: `file:line in f`."""
        wanted = path.encode("ascii", "backslashreplace")  # as faulthandler writes names
        for when, line in self._lines:
            match = _FRAME.match(line) if when >= since else None
            if match is not None and match["file"] == wanted:
                function = match["function"].decode("utf-8", "replace")
                return f"{os.path.basename(path)}:{int(match['line'])} in {function}"  # noqa: PTH119
        return None

    def last_words(self) -> str:
        """The latest lines that are no log lines: what the interpreter says when it dies."""
        lines, characters = LAST
        plain = [line for _, line in self._lines if not line.startswith(b"{")][-lines:]
        return b"\n".join(plain).decode("utf-8", "replace")[-characters:].strip()

    # -- reading --------------------------------------------------------------------------------

    def _readable(self) -> None:
        self._take()
        if self._allowance <= 0 and self._read >= 0:  # it writes too much: it waits, not we
            self._loop.remove_reader(self._read)
            self._pause = self._loop.call_later(SLICE, self._resume)

    def _resume(self) -> None:
        self._pause = None
        self._loop.add_reader(self._read, self._readable)

    def _stop(self) -> None:
        if self._read < 0:
            return
        if self._pause is not None:
            self._pause.cancel()
        else:
            self._loop.remove_reader(self._read)
        os.close(self._read)
        self._read = -1

    def _take(self) -> int:
        """Read once; how much it was."""
        try:
            data = os.read(self._read, CHUNK)
        except BlockingIOError:
            return 0
        if not data:
            self._stop()
            return 0
        self.received += len(data)
        now = self._loop.time()
        self._allowance = min(BURST, self._allowance + (now - self._filled) * ALLOWANCE)
        self._filled = now
        text = self._rest + data
        if self._allowance <= 0 and len(text) > MAX_LINE:  # do not even look at all of it
            self._dropped += len(text) - MAX_LINE
            text = text[-MAX_LINE:]
        *lines, self._rest = text.split(b"\n")
        if len(self._rest) > MAX_LINE:
            lines.append(self._rest)
            self._rest = b""
        self._take_lines(lines, now)
        return len(data)

    def _take_lines(self, lines: list[bytes], now: float) -> None:
        self._lines.extend((now, line[:MAX_LINE]) for line in lines[-KEPT:])
        passed = []
        for place, line in enumerate(lines):
            if self._allowance <= 0:
                self._dropped += sum(map(len, lines[place:])) + len(lines) - place
                break
            passed.append(self._marked(line))
            self._allowance -= len(passed[-1])
        if passed:
            self._pass_on(b"\n".join(passed) + b"\n")
        if self._dropped and now - self._told >= TELL_EVERY:
            self._tell_dropped(now)

    def _marked(self, line: bytes) -> bytes:
        """A line with the driver's name in it."""
        if not self._title:
            return line
        if line.startswith(b'{"') and line.endswith(b"}"):
            return b'%b,"driver":%b}' % (line[:-1], self._name)
        return msgspec.json.encode(
            {
                "event": line.decode("utf-8", "replace"),
                "level": "info",
                "logger": "placeos.driver.output",
                "timestamp": datetime.datetime.now(datetime.UTC).isoformat(),
                "driver": self._title,
            }
        )

    def _pass_on(self, text: bytes) -> None:
        try:
            sys.stderr.buffer.write(text)
            sys.stderr.buffer.flush()
        except (OSError, ValueError, AttributeError):
            self._dropped += len(text)

    def _tell_dropped(self, now: float) -> None:
        log.warning("driver output dropped", extra={"driver": self._title, "bytes": self._dropped})
        self._dropped = 0
        self._told = now
