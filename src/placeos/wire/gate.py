"""The gate: accepts links, lets in who proves the cluster secret, and counts who does not.

A stranger can hold one of a bounded number of places for a bounded time, and no more memory
than a HELLO. When places run out, the one that was held longest is taken away, first from
whoever holds the most: an honest handshake takes milliseconds, so it finishes in a flood too.
Links that were let in are a separate number and feel nothing of it.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
import struct
from collections import Counter
from collections.abc import Callable
from typing import Final

from placeos.wire import link as links
from placeos.wire.frame import FrameError
from placeos.wire.link import Link
from placeos.wire.tls import Certificates

log = logging.getLogger("placeos.wire")

MAX_LINKS: Final = 1_000  # that were let in
MAX_STRANGERS: Final = 256  # connections that have proved nothing yet
MAX_OF_ONE: Final = 32  # of them from one address
BACKLOG: Final = 1024  # connections the kernel keeps for us
SILENCE: Final = 10.0  # seconds; the other side pings every 2 s, so a silent link is half open
LOOK: Final = 1.0  # seconds between looks for silent links
QUIET: Final = 10.0  # seconds between two log lines for one reason
RETRY: Final = 0.2  # seconds before accepting again after an error (no descriptors)


class LinkCounts:
    """How many links stand, and how many were refused for which reason, since the start.

    crowded, full: no place; late: the handshake took too long; left: the other side closed
    before its proof; lost: the connection broke; tls: no TLS, or no certificate of ours;
    garbage, oversize, unexpected, secret, reflected, version: as `FrameError.reason`.
    """

    def __init__(self) -> None:
        self.open = 0
        self.refused: Counter[str] = Counter()
        self._told: dict[str, tuple[float, int]] = {}

    def refuse(self, reason: str, source: str, now: float) -> None:
        """Count, and log at most every `QUIET` seconds for each reason.

        Who leaves by himself is only counted: probes of health do nothing else.
        """
        self.refused[reason] += 1
        if reason in ("left", "lost"):
            return
        at, count = self._told.get(reason, (-QUIET, 0))
        if now - at >= QUIET:
            self._told[reason] = (now, self.refused[reason])
            about = {"reason": reason, "source": source, "count": self.refused[reason] - count}
            log.warning("link refused", extra=about)

    def snapshot(self) -> dict[str, object]:
        """For STATS."""
        return {"open": self.open, "refused": dict(self.refused)}


class _Stranger:
    """A connection that has proved nothing yet."""

    __slots__ = ("crowded", "source", "task")

    def __init__(self, source: str) -> None:
        self.source = source
        self.crowded = False
        self.task: asyncio.Task[None] | None = None


class Gate:
    """Serves listening sockets. Use it as an async context manager.

    `make_link` gives a server link with the cluster secret, and with the own certificate if
    there is `tls`. Links over unix sockets are never TLS: they do not leave the machine.
    """

    def __init__(
        self,
        make_link: Callable[[], Link],
        *,
        counts: LinkCounts,
        tls: Certificates | None = None,
    ) -> None:
        self.counts = counts
        self._make_link = make_link
        self._tls = tls
        self._strangers: dict[_Stranger, None] = {}  # oldest first
        self._of: Counter[str] = Counter()
        self._links: set[Link] = set()
        self._sockets: list[socket.socket] = []
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Gate:
        self._tasks.append(asyncio.create_task(self._watch(), name="gate: silent links"))
        return self

    async def __aexit__(self, *_: object) -> None:
        tasks = [*self._tasks, *(one.task for one in self._strangers if one.task is not None)]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for sock in self._sockets:
            sock.close()
        for link in list(self._links):
            link.close("this side is stopping")

    def serve(self, sock: socket.socket) -> None:
        """Accept from a bound socket, TCP or unix, until the end; the gate closes it."""
        sock.setblocking(False)
        sock.listen(BACKLOG)
        self._sockets.append(sock)
        self._tasks.append(asyncio.create_task(self._accept(sock), name="gate: accept"))

    # -- strangers ----------------------------------------------------------------------------

    async def _accept(self, sock: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        local = sock.family == socket.AF_UNIX
        while True:
            try:
                connection, address = await loop.sock_accept(sock)
            except OSError as error:
                log.warning("no link accepted", extra={"reason": str(error)})
                await asyncio.sleep(RETRY)
                continue
            stranger = _Stranger(_user(connection) if local else _network(address[0]))
            self._make_room(stranger.source)
            self._strangers[stranger] = None
            self._of[stranger.source] += 1
            stranger.task = asyncio.create_task(self._meet(stranger, connection, local))

    def _make_room(self, source: str) -> None:
        """Take a place away where there are too many."""
        if self._of[source] >= MAX_OF_ONE:
            self._send_away(source)
        elif len(self._strangers) >= MAX_STRANGERS:
            self._send_away(self._of.most_common(1)[0][0])

    def _send_away(self, source: str) -> None:
        for stranger in self._strangers:
            if stranger.source == source:
                stranger.crowded = True
                if stranger.task is not None:
                    stranger.task.cancel()
                self._forget(stranger)
                return

    def _forget(self, stranger: _Stranger) -> None:
        if stranger in self._strangers:
            del self._strangers[stranger]
            self._of[stranger.source] -= 1
            if not self._of[stranger.source]:
                del self._of[stranger.source]

    async def _meet(self, stranger: _Stranger, connection: socket.socket, local: bool) -> None:
        """One connection until it is let in or refused."""
        link = self._prepare()
        try:
            async with asyncio.timeout(links.HANDSHAKE_TIMEOUT):
                await self._connect(link, connection, local)
                await link.ready
        except asyncio.CancelledError:
            if not stranger.crowded:
                raise
            if link not in self._links:  # else its proof came in the very same turn
                self._refuse("crowded", stranger)
        except (FrameError, OSError, EOFError, TimeoutError) as error:
            self._refuse(_reason(error), stranger)
        finally:
            self._forget(stranger)
            if link not in self._links:
                link.abort(ConnectionError("not let in"))
                connection.close()

    def _prepare(self) -> Link:
        link = self._make_link()
        link.on_ready = self._let_in
        told = link.on_closed

        def on_closed(link: Link, reason: Exception | None) -> None:
            if link in self._links:
                self._links.discard(link)
                self.counts.open = len(self._links)
            if told is not None:
                told(link, reason)

        link.on_closed = on_closed
        return link

    async def _connect(self, link: Link, connection: socket.socket, local: bool) -> None:
        loop = asyncio.get_running_loop()
        if local:
            await loop.connect_accepted_socket(lambda: link, connection)
            return
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        tls = self._tls.server if self._tls is not None else None
        await loop.connect_accepted_socket(lambda: link, connection, ssl=tls)

    def _let_in(self, link: Link) -> None:
        """The proof was right: this link counts among its own kind from now on."""
        if len(self._links) >= MAX_LINKS:
            raise FrameError("there are too many links", "full")
        self._links.add(link)
        self.counts.open = len(self._links)

    def _refuse(self, reason: str, stranger: _Stranger) -> None:
        self.counts.refuse(reason, stranger.source, asyncio.get_running_loop().time())

    # -- links ----------------------------------------------------------------------------------

    async def _watch(self) -> None:
        """Close links from which nothing comes: their calls are cancelled where they wait."""
        loop = asyncio.get_running_loop()
        while True:
            due = loop.time() + LOOK
            await asyncio.sleep(LOOK)
            now = loop.time()
            if now - due > LOOK:
                continue  # this process stood still: what came meanwhile was not read yet
            for link in [one for one in self._links if now - one.heard > SILENCE]:
                log.warning("closing a silent link", extra={"peer": link.peer.identity})
                link.abort(TimeoutError(f"silent for {SILENCE:g} s"))


def _network(host: str) -> str:
    """What counts as one source: an IPv4 address, or a /64 of IPv6."""
    if ":" not in host or host.startswith("::ffff:"):
        return host
    host = host.partition("%")[0]
    return socket.inet_ntop(socket.AF_INET6, socket.inet_pton(socket.AF_INET6, host)[:8] + bytes(8))


def _user(connection: socket.socket) -> str:
    """The local user at the other end of a unix socket."""
    size = struct.calcsize("3i")
    found = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size)
    return f"user {struct.unpack('3i', found)[1]}"


def _reason(error: Exception) -> str:
    match error:
        case FrameError():
            return error.reason
        case TimeoutError():
            return "late"
        case ssl.SSLError():
            return "tls"
        case ConnectionResetError() | BrokenPipeError():
            return "lost"
        case _:
            return "left"
