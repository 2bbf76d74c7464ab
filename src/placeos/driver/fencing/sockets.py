"""TCP sockets to devices: what holds for each of them, from its creation to its end.

* It lives with SO_LINGER (1, 0): when the process ends, by whatever cause, the kernel resets
  the connection and throws away what it has not sent, megabytes perhaps, instead of sending it
  on behalf of a core that no longer exists (socket(7), and tcp_close in the kernel).
* It takes nothing new while earlier bytes are unsent (TCP_NOTSENT_LOWAT, tcp(7)): what waits
  for a slow device waits in this process, where a check can still hold it back, and the kernel
  holds a segment of it at most. Sent and not yet acknowledged bytes are not limited, so that
  this costs no throughput.
* Where it ends in good order, all of it has been acknowledged (SIOCOUTQ is 0) before lingering
  is switched off, so that the device sees the usual FIN. With anything left it sees a reset.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import socket
import struct
from collections.abc import Callable
from typing import Final

CLOSE_WITHIN: Final = 1.0  # seconds a device may take to acknowledge what it was sent
_LOOK_EVERY: Final = 0.005  # seconds between two looks at a queue that is to empty

_RESET: Final = struct.pack("@ii", 1, 0)  # struct linger
_FINISH: Final = struct.pack("@ii", 0, 0)
_OUT_QUEUE: Final = 0x5411  # SIOCOUTQ, linux/sockios.h
_NOT_SENT: Final = getattr(socket, "TCP_NOTSENT_LOWAT", 25)
_KEEP_ALIVE: Final = (
    (socket.TCP_KEEPIDLE, 60),
    (socket.TCP_KEEPINTVL, 30),
    (socket.TCP_KEEPCNT, 3),
)
_UNACKNOWLEDGED: Final = 15_000  # milliseconds until unacknowledged bytes end a connection


def die_unsent(sock: socket.socket) -> None:
    """Have what is unsent die with this process."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
    sock.setsockopt(socket.IPPROTO_TCP, _NOT_SENT, 1)


def tune(sock: socket.socket) -> None:
    """No delay, and notice when the other side is gone."""
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in _KEEP_ALIVE:
        sock.setsockopt(socket.IPPROTO_TCP, option, value)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _UNACKNOWLEDGED)


async def connected(host: str, port: int, *, receive: int = 0) -> socket.socket:
    """A socket connected to a device; the addresses of a name are tried one after the other.

    `receive` limits what the kernel keeps unread, in bytes. Raises OSError.
    """
    loop = asyncio.get_running_loop()
    failed = OSError(f"{host} has no address")
    for family, place in await _places(host, port):
        made = socket.socket(family, socket.SOCK_STREAM)
        try:
            made.setblocking(False)
            if receive:
                made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive)
            die_unsent(made)
            tune(made)
            await loop.sock_connect(made, place)
        except OSError as error:
            made.close()  # the loop has words of its own for it
            failed = OSError(error.errno, os.strerror(error.errno)) if error.errno else error
        except BaseException:
            made.close()
            raise
        else:
            return made
    raise failed


async def _places(host: str, port: int) -> list[tuple[int, tuple[object, ...]]]:
    """Family and address of each; an address is not looked up."""
    for family in (socket.AF_INET, socket.AF_INET6):
        try:
            socket.inet_pton(family, host)
        except OSError:
            continue
        return [(family, (host, port))]
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [(family, place) for family, _, _, _, place in found]


def unsent(sock: socket.socket) -> int:
    """Bytes that the device has not acknowledged; 0 for a socket that is closed."""
    if sock.fileno() < 0:
        return 0
    try:
        return int(struct.unpack("@i", fcntl.ioctl(sock.fileno(), _OUT_QUEUE, bytes(4)))[0])
    except OSError:
        return 0


def before_close(sock: socket.socket) -> None:
    """Let the device see the usual end of a connection, if it has got all it was sent.
    Call this when the socket is about to be closed, with nothing left above it."""
    if sock.fileno() >= 0 and not unsent(sock):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _FINISH)


class Farewell:
    """Calls `end` once a device has all it was sent, or after `CLOSE_WITHIN` seconds: at once
    if it has. `above` counts bytes that the kernel was not given yet."""

    __slots__ = ("_above", "_end", "_loop", "_sock", "_timer", "_until")

    def __init__(
        self, sock: socket.socket, above: Callable[[], int], end: Callable[[], None]
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._sock = sock
        self._above = above
        self._end = end
        self._until = self._loop.time() + CLOSE_WITHIN
        self._timer: asyncio.TimerHandle | None = None
        self._look()

    def cancel(self) -> None:
        """It has ended by itself."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _look(self) -> None:
        self._timer = None
        late = self._loop.time() >= self._until
        if late or not (self._above() or unsent(self._sock)):
            self._end()
        else:
            self._timer = self._loop.call_later(_LOOK_EVERY, self._look)
