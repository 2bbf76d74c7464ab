"""A link to one core, opened again whenever it is lost."""

from __future__ import annotations

import asyncio
import logging
import random
import socket
from collections.abc import Awaitable, Callable
from typing import Final

from placeos.cluster.registry import NodeInfo
from placeos.wire.errors import CallError
from placeos.wire.frame import Command, FrameError, Header
from placeos.wire.link import Hello, Link, local_path
from placeos.wire.tls import Certificates

log = logging.getLogger("placeos.cluster")

CONNECT: Final = 2.0  # seconds for the connection and for the handshake
BACKOFF: Final = (0.05, 2.0)  # seconds: first and longest pause between tries
PROBE: Final = 2.0  # seconds between pings of a silent link
SILENCE: Final = 6.0  # seconds without an answer to a ping: the link is half open

UNREAD: Final = 0.1  # seconds in which what came while this process stood still is read

OnFrame = Callable[[Header, bytes], None]


class Peer:
    """`link` is the open link, or None. `on_change` is called when it opens or is lost."""

    def __init__(
        self,
        node: NodeInfo,
        *,
        secret: bytes,
        service: str,
        identity: str,
        on_change: Callable[[], None],
        on_frame: OnFrame,
        tls: Certificates | None = None,
    ) -> None:
        self.node = node
        self.link: Link | None = None
        self.task: asyncio.Task[None] | None = None
        self._secret = secret
        self._service = service
        self._identity = identity
        self._on_change = on_change
        self._on_frame = on_frame
        self._tls = tls
        self._hurry = asyncio.Event()

    def moved_to(self, node: NodeInfo) -> None:
        """The core registered anew; another incarnation or address means another process."""
        before, self.node = self.node, node
        if (before.incarnation, before.address) != (node.incarnation, node.address):
            self._hurry.set()
            if self.link is not None:
                self.link.abort(ConnectionError("the core was replaced"))

    def stop(self) -> None:
        """End the task that `run` runs in."""
        if self.task is not None:
            self.task.cancel()

    async def run(self) -> None:
        """Keep the link open until cancelled."""
        pause = BACKOFF[0]
        while True:
            self._hurry.clear()
            try:
                await self._session()
                pause = BACKOFF[0]
            except (OSError, FrameError, TimeoutError) as error:
                extra = {"core": self.node.identity, "reason": str(error) or "time-out"}
                log.info("no link to core", extra=extra)
            try:
                async with asyncio.timeout(pause * random.uniform(0.7, 1.3)):  # noqa: S311
                    await self._hurry.wait()
                pause = BACKOFF[0]
            except TimeoutError:
                pause = min(pause * 2, BACKOFF[1])

    async def _session(self) -> None:
        """One link from its opening to its loss. Raises OSError, FrameError or TimeoutError."""
        try:
            link = await self._open(self._connect_locally)
        except (OSError, FrameError, TimeoutError):  # not on this machine
            link = await self._open(self._connect)
        self.link = link
        try:
            self._on_change()
            await self._probe(link)
        finally:
            self.link = None
            link.abort(ConnectionError("closed"))
            self._on_change()

    async def _open(self, connect: Callable[[], Awaitable[Link]]) -> Link:
        link: Link | None = None
        try:
            async with asyncio.timeout(CONNECT):
                link = await connect()
                peer = await link.ready
            if peer.identity != self.node.identity:
                raise ConnectionError(f"{self.node.address} is {peer.identity}")
        except BaseException:
            if link is not None:
                link.abort(ConnectionError("not taken into use"))
            raise
        return link

    async def _connect_locally(self) -> Link:
        loop = asyncio.get_running_loop()
        sock = socket.socket(socket.AF_UNIX)
        try:
            sock.setblocking(False)  # connected by hand: uvloop's clients know no abstract names
            await loop.sock_connect(sock, local_path(self.node.address))
            return (await loop.create_unix_connection(self._make_link, sock=sock))[1]
        except BaseException:
            sock.close()
            raise

    async def _connect(self) -> Link:
        host, _, port = self.node.address.rpartition(":")
        loop = asyncio.get_running_loop()
        tls = self._tls.client if self._tls is not None else None
        made = loop.create_connection(self._make_link, host.strip("[]"), int(port), ssl=tls)
        return (await made)[1]

    def _make_link(self) -> Link:
        hello = Hello(service=self._service, identity=self._identity)
        own = self._tls.own if self._tls is not None else b""
        return Link(self._request, hello=hello, secret=self._secret, certificate=own)

    async def _probe(self, link: Link) -> None:
        """Return when the link is closed; close it when pings stay unanswered."""
        loop = asyncio.get_running_loop()
        missed = False
        while not link.closed.done():
            done, _ = await asyncio.wait([link.closed], timeout=PROBE)
            if done:
                return
            try:
                await link.request(Header(Command.PING), timeout=SILENCE)
                missed = False
            except CallError as error:
                at = loop.time()
                await asyncio.sleep(UNREAD)
                if missed or not link.is_open or link.heard < at:
                    raise ConnectionError(error.message) from error
                missed = True  # once: perhaps it was this process that stood still

    def _request(self, link: Link, header: Header, payload: bytes) -> None:
        self._on_frame(header, payload)
