"""Messages of a device that wait to be read. Pure."""

from __future__ import annotations

from collections import deque
from typing import Final

from placeos.driver.command import Match

MAX_MESSAGES: Final = 4000
MAX_BYTES: Final = 4 * 1024 * 1024


class Inbox:
    """In order of arrival. When there are too many the oldest are dropped, never the latest."""

    __slots__ = ("_messages", "_size")

    def __init__(self) -> None:
        self._messages: deque[bytes] = deque()
        self._size = 0

    def __len__(self) -> int:
        return len(self._messages)

    def put(self, data: bytes) -> bool:
        """Add one. False: others were dropped for it."""
        self._messages.append(data)
        self._size += len(data)
        fits = True
        while len(self) > MAX_MESSAGES or (self._size > MAX_BYTES and len(self) > 1):
            self.take()
            fits = False
        return fits

    def take(self) -> bytes:
        """The oldest. Raises IndexError if there is none."""
        data = self._messages.popleft()
        self._size -= len(data)
        return data

    def find(self, match: Match | None) -> bytes | None:
        """Take the oldest that `match` accepts."""
        for data in self._messages:
            if match is None or match(data):
                self._messages.remove(data)
                self._size -= len(data)
                return data
        return None

    def clear(self) -> None:
        """Drop all."""
        self._messages.clear()
        self._size = 0
