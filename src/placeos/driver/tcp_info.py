"""What the kernel knows of this process' TCP connections: both ends of a test are compared."""

from __future__ import annotations

import os
import socket
import stat
import struct
from typing import Final

import msgspec

ESTABLISHED: Final = 1  # states as in the kernel's net/tcp_states.h
SYN_SENT: Final = 2
LISTEN: Final = 10

# Places in `struct tcp_info` (linux/tcp.h).
_INFO_SIZE: Final = 232
_RECEIVED: Final = struct.Struct("=Q"), 128
_NOT_SENT: Final = struct.Struct("=I"), 144
_SENT_AND_REPEATED: Final = struct.Struct("=QQ"), 200

End = tuple[str, int]
"""Host and port."""


class Connection(msgspec.Struct, frozen=True):
    """One TCP socket. `written` and `received` count bytes; an end of the stream counts as one
    received."""

    local: End
    peer: End
    state: int
    written: int
    received: int
    unread: bool


def connections() -> list[Connection]:
    """All TCP sockets that this process has open."""
    found = (_look_at(int(name)) for name in os.listdir("/proc/self/fd"))  # noqa: PTH208
    return [connection for connection in found if connection is not None]


def _look_at(fd: int) -> Connection | None:
    try:
        if not stat.S_ISSOCK(os.fstat(fd).st_mode):
            return None
        sock = socket.socket(fileno=os.dup(fd))
    except OSError:  # closed meanwhile: the folder's own descriptor, for one
        return None
    with sock:
        if sock.family not in (socket.AF_INET, socket.AF_INET6):
            return None
        if sock.type != socket.SOCK_STREAM:
            return None
        info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _INFO_SIZE)
        state = info[0]
        written = received = 0
        unread = False
        if len(info) == _INFO_SIZE and state != LISTEN:
            received = _read(_RECEIVED, info)[0]
            sent, repeated = _read(_SENT_AND_REPEATED, info)
            written = sent - repeated + _read(_NOT_SENT, info)[0]
            unread = _has_unread(sock)
        return Connection(_end(sock.getsockname()), _peer(sock), state, written, received, unread)


def _read(place: tuple[struct.Struct, int], info: bytes) -> tuple[int, ...]:
    layout, offset = place
    return layout.unpack_from(info, offset)


def _has_unread(sock: socket.socket) -> bool:
    try:
        return bool(sock.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT))
    except OSError:  # nothing there, or the connection is broken
        return False


def _peer(sock: socket.socket) -> End:
    try:
        return _end(sock.getpeername())
    except OSError:  # not connected (any more)
        return ("", 0)


def _end(address: tuple[str | int, ...]) -> End:
    return (str(address[0]).removeprefix("::ffff:"), int(address[1]))
