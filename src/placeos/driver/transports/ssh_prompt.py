"""Cutting what a shell prints into messages, at its prompts. Pure: bytes in, messages out."""

from __future__ import annotations

import re
from typing import Final

from placeos.driver.framing import MAX_MESSAGE, FramingError

LAST_LINE: Final = 256  # bytes; a prompt is not longer

_ERASED: Final = re.compile(rb"(?:[ \x08]*\x08|\r *\r|\r(?!\n)|\x1b\[[0-9;]*[A-Za-z])+")
"""How a pager takes its question from the screen again."""


class PromptFramer:
    """The output of one shell. `paged` counts the pagers that were met and wait for an answer."""

    __slots__ = ("_buffer", "_erasing", "_pager", "_prompt", "paged")

    def __init__(self, prompt: bytes, pager: bytes = b"") -> None:
        self._prompt = re.compile(b"(?:" + prompt + rb")\Z")
        self._pager = re.compile(b"(?:" + pager + rb")\Z") if pager else None
        self._buffer = bytearray()
        self._erasing = False
        self.paged = 0

    def feed(self, data: bytes) -> list[bytes]:
        """The message completed by `data`, if any, without the prompt and without the line
        breaks around it. Raises FramingError."""
        if self._erasing and data:
            self._erasing = False
            erased = _ERASED.match(data)
            data = data[erased.end() :] if erased else data
        self._buffer += data
        if len(self._buffer) > MAX_MESSAGE:
            raise FramingError(f"more than {MAX_MESSAGE} bytes without a prompt")
        begin = max(self._buffer.rfind(b"\n") + 1, len(self._buffer) - LAST_LINE)
        line = bytes(self._buffer[begin:])
        pager = self._pager.search(line) if self._pager is not None else None
        if pager is not None:
            del self._buffer[begin + pager.start() :]
            self.paged += 1
            self._erasing = True
            return []
        prompt = self._prompt.search(line)
        if prompt is None:
            return []
        message = bytes(self._buffer[: begin + prompt.start()]).strip(b"\r\n")
        self._buffer.clear()
        return [message]

    @property
    def last_line(self) -> bytes:
        """What was printed last, to tell why no prompt was found."""
        return bytes(self._buffer[-LAST_LINE:]).rpartition(b"\n")[2]
