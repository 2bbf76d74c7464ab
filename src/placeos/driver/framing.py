"""Cutting a device's byte stream into messages. Pure: bytes in, messages out."""

from __future__ import annotations

from collections.abc import Callable

MAX_MESSAGE = 1024 * 1024  # bytes kept while a message is incomplete
HEAD = 4096  # bytes a `frame` function is shown

FrameLength = Callable[[bytes], int]
"""Given a message's first bytes (up to `HEAD`), its length; 0 or less while it cannot be told."""


class FramingError(Exception):
    """The device sent more than `MAX_MESSAGE` bytes without completing a message, or announced
    a message that is longer."""


class Framer:
    """The stream of one connection.

    With `ends_with`, a message ends at that delimiter, which is cut off; `starts_with` drops
    what comes before a message, so that a stream joined in the middle finds its step again.
    With `length`, messages are that many bytes; with `frame`, as long as it says. With none
    of them each piece read from the socket is a message.

    However small the pieces are, each byte is looked at only a few times.
    """

    __slots__ = ("_buffer", "_ends_with", "_frame", "_length", "_searched", "_starts_with")

    def __init__(
        self,
        *,
        ends_with: bytes = b"",
        starts_with: bytes = b"",
        length: int = 0,
        frame: FrameLength | None = None,
    ) -> None:
        ways = sum((bool(ends_with), length > 0, frame is not None))
        if ways > 1:
            raise ValueError("give one of ends_with, length and frame")
        if starts_with and not ways:
            raise ValueError("starts_with needs one of ends_with, length and frame")
        if not 0 <= length <= MAX_MESSAGE:
            raise ValueError(f"length is a number of bytes, at most {MAX_MESSAGE}")
        self._buffer = bytearray()  # what is left of an incomplete message
        self._searched = 0  # how far it holds no delimiter
        self._ends_with = ends_with
        self._starts_with = starts_with
        self._frame = frame
        self._length = length

    @property
    def cuts(self) -> bool:
        """Whether messages are independent of the pieces they come in."""
        return bool(self._ends_with or self._length or self._frame is not None)

    def feed(self, data: bytes) -> list[bytes]:
        """All messages completed by `data`. Raises FramingError."""
        if not self.cuts:
            return [data]
        buffer: bytes | bytearray = data
        if self._buffer:
            self._buffer += data
            buffer = self._buffer
        messages: list[bytes] = []
        start = 0
        while True:
            start = self._message_start(buffer, start)
            cut = self._message_end(buffer, start)
            if cut is None:
                break
            end, following = cut
            messages.append(bytes(buffer[start:end]))
            start = following
        if buffer is data:
            self._buffer += buffer[start:]
        else:
            del self._buffer[:start]
        self._searched = max(0, self._searched - start)
        if len(self._buffer) > MAX_MESSAGE:
            raise FramingError(f"more than {MAX_MESSAGE} bytes without the end of a message")
        return messages

    def _message_start(self, buffer: bytes | bytearray, start: int) -> int:
        """Where the next message begins, at or after `start`."""
        if not self._starts_with:
            return start
        found = buffer.find(self._starts_with, start)
        if found >= 0:
            return found
        # the marker itself may be cut in two: keep what could be its beginning
        keep = min(len(self._starts_with) - 1, len(buffer) - start)
        while keep and not self._starts_with.startswith(bytes(buffer[len(buffer) - keep :])):
            keep -= 1
        return len(buffer) - keep

    def _message_end(self, buffer: bytes | bytearray, start: int) -> tuple[int, int] | None:
        """Where the message at `start` ends and the next one may begin, if it is complete."""
        if start >= len(buffer) or not buffer.startswith(self._starts_with, start):
            return None
        if self._ends_with:
            unseen = self._searched - len(self._ends_with) + 1  # it may have been cut in two
            end = buffer.find(self._ends_with, max(start + len(self._starts_with), unseen))
            if end < 0:
                self._searched = len(buffer)
                return None
            return end, end + len(self._ends_with)
        size = self._length
        if self._frame is not None:
            size = self._frame(bytes(buffer[start : start + HEAD]))
            if size > MAX_MESSAGE:
                raise FramingError(f"a message of {size} bytes; at most {MAX_MESSAGE} are taken")
        end = start + size
        return None if size <= 0 or end > len(buffer) else (end, end)
