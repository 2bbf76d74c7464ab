"""The frame: one codec for both links (service and core, core and driver process).

::

    size    u32 big-endian   bytes that follow
    header  u16 big-endian   length of the header
    header  MessagePack      `Header` as an array; fields are only ever added at its end
    payload                  opaque; JSON by convention

A switch between two links rewrites the header and never decodes the payload.
"""

from __future__ import annotations

import struct
from enum import IntEnum
from typing import Final

import msgspec

MAX_FRAME = 16 * 1024 * 1024  # bytes; a larger frame closes the link
_SMALL: Final = 1024  # bytes; smaller pieces of a frame are gathered, larger ones kept as they came
_GATHERED: Final = 64 * 1024  # bytes of small pieces in one buffer
_PREFIX = struct.Struct(">IH")
PREFIX_SIZE = _PREFIX.size


class Command(IntEnum):
    """What a frame asks for or answers. Numbers are never reused."""

    # the link itself
    HELLO = 1
    PROOF = 2
    PING = 3
    REPLY = 4
    ERROR = 5
    CANCEL = 6
    WAIT = 7  # answer before the answer: the request waits, for `remaining` at most
    # calls: api -> core, core -> core, core <-> driver process
    EXECUTE = 10
    DEBUG = 11
    IGNORE = 12
    LOG = 13
    LOAD = 14
    STATS = 15
    JOBS = 16
    CANCEL_JOB = 17
    REPOSITORY = 18
    GO_ON = 19  # core -> core: may I, although etcd is away?
    # core -> driver process
    START = 20
    UPDATE = 21
    STOP = 22
    TERMINATE = 23  # also api -> core: the processes of a driver
    VALUE = 24
    MESSAGE = 25
    # driver process -> core
    READY = 30
    STATE = 31
    PUBLISH = 32
    BIND = 33
    UNBIND = 34
    MONITOR = 35
    READ = 36
    SYSTEM = 37
    SETTING = 38
    FAULT = 39


COMMANDS: Final = frozenset(int(command) for command in Command)


class Clearance(IntEnum):
    """How much a caller may do; a function names the least it needs."""

    USER = 0
    SUPPORT = 1
    ADMINISTRATOR = 2


class Header(msgspec.Struct, array_like=True, omit_defaults=True):
    """What the switch in the middle needs to know of a frame.

    `sequence` is chosen by the asking side and echoed in REPLY and ERROR; 0 wants no answer.
    `module` is a module id, or `<system id>/<name>/<index>` where core shall resolve it.
    `remaining` is the caller's time left in milliseconds (0: no limit).
    `code` and `error` belong to answers: an HTTP-like status and a `Failure`.
    `depth` is how many calls of modules by modules this one stands in.
    `sent` is the sender's clock in milliseconds, beside `remaining` (see `transit`).
    `waited` is for how many milliseconds a call waited for its module: in a request before it
    was sent, in an answer altogether. They do not count as the caller's time.
    """

    command: int
    sequence: int = 0
    module: str = ""
    function: str = ""
    user: str = ""
    clearance: int = 0
    remaining: int = 0
    code: int = 0
    error: str = ""
    depth: int = 0
    sent: int = 0
    waited: int = 0


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Header).decode


class FrameError(Exception):
    """The peer sent bytes that are no frame; the link cannot go on.

    `reason` is one of a few words to count by: garbage, oversize, unexpected, secret, reflected,
    version.
    """

    def __init__(self, message: str, reason: str = "garbage") -> None:
        super().__init__(message)
        self.reason = reason


def encode(header: Header, payload: bytes = b"") -> bytes:
    """The bytes of one frame. Raises FrameError if it would exceed `MAX_FRAME`."""
    head = _encode(header)
    size = 2 + len(head) + len(payload)
    if size > MAX_FRAME:
        raise FrameError(f"frame of {size} bytes exceeds the limit of {MAX_FRAME}", "oversize")
    return _PREFIX.pack(size, len(head)) + head + payload


def _check(size: int, head: int, limit: int) -> None:
    if size > limit:
        raise FrameError(f"frame of {size} bytes exceeds the limit of {limit}", "oversize")
    if head + 2 > size:
        raise FrameError(f"header of {head} bytes does not fit a frame of {size} bytes")


def _header(data: bytes) -> Header:
    try:
        return _decode(data)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
        raise FrameError(f"unreadable header: {error}") from error


def first_frame(data: bytes, limit: int) -> tuple[Header, bytes, int] | None:
    """The first frame of `data` and where it ends; None while it is not whole.

    For peers that have proved nothing: one frame at a time, none larger than `limit` bytes.
    Raises FrameError as soon as it can be known, before the frame is there.
    """
    if len(data) < PREFIX_SIZE:
        return None
    size, head = _PREFIX.unpack_from(data)
    _check(size, head, limit)
    end = 4 + size
    if len(data) < end:
        return None
    body = PREFIX_SIZE + head
    return _header(data[PREFIX_SIZE:body]), data[body:end], end


class FrameReader:
    """Cuts a byte stream into frames; a large frame is joined once, when it is complete.

    What it keeps of an unfinished frame is what came of it and a few bytes for each piece of
    1 KiB or more; a frame that is announced but does not come costs nothing.
    """

    __slots__ = ("_chunks", "_missing")

    def __init__(self) -> None:
        self._chunks: list[bytes | bytearray] = []
        self._missing = 0  # bytes still needed before cutting is worth another try

    def feed(self, data: bytes) -> list[tuple[Header, bytes]]:
        """All frames completed by `data`. Raises FrameError on malformed or oversized ones."""
        if self._chunks:
            self._keep(data)
            self._missing -= len(data)
            if self._missing > 0:
                return []
            data = b"".join(self._chunks)
        frames: list[tuple[Header, bytes]] = []
        start, end = 0, len(data)
        needed = PREFIX_SIZE
        while end - start >= PREFIX_SIZE:
            size, head = _PREFIX.unpack_from(data, start)
            if size > MAX_FRAME or head + 2 > size:
                _check(size, head, MAX_FRAME)
            stop = start + 4 + size
            if stop > end:
                needed = 4 + size
                break
            body = start + PREFIX_SIZE + head
            frames.append((_header(data[start + PREFIX_SIZE : body]), data[body:stop]))
            start = stop
        rest = data[start:]
        self._chunks = [rest] if rest else []
        self._missing = needed - len(rest)
        return frames

    def _keep(self, data: bytes) -> None:
        """Gather small pieces: an object for each byte would take 40 times its room."""
        if len(data) >= _SMALL:
            self._chunks.append(data)
            return
        last = self._chunks[-1]
        if isinstance(last, bytearray) and len(last) < _GATHERED:
            last += data
        else:
            self._chunks.append(bytearray(data))
