"""A link to one core, opened again whenever it is lost."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable
from typing import Final

from placeos.cluster.view import NodeInfo
from placeos.wire.errors import CallError
from placeos.wire.frame import Command, Header
from placeos.wire.link import Hello, Link

log = logging.getLogger("placeos.cluster")

CONNECT: Final = 2.0  # seconds for the connection and for the handshake
BACKOFF: Final = (0.05, 2.0)  # seconds: first and longest pause between tries
PROBE: Final = 2.0  # seconds between pings of a silent link
SILENCE: Final = 6.0  # seconds without an answer to a ping: the link is half open

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
    ) -> None:
        self.node = node
        self.link: Link | None = None
        self.task: asyncio.Task[None] | None = None
        self._secret = secret
        self._service = service
        self._identity = identity
        self._on_change = on_change
        self._on_frame = on_frame
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
            except (OSError, TimeoutError) as error:
                extra = {"core": self.node.identity, "reason": str(error) or "time-out"}
                log.info("no link to core", extra=extra)
            try:
                async with asyncio.timeout(pause * random.uniform(0.7, 1.3)):  # noqa: S311
                    await self._hurry.wait()
                pause = BACKOFF[0]
            except TimeoutError:
                pause = min(pause * 2, BACKOFF[1])

    async def _session(self) -> None:
        host, _, port = self.node.address.rpartition(":")
        link: Link | None = None
        try:
            async with asyncio.timeout(CONNECT):
                _, link = await asyncio.get_running_loop().create_connection(
                    lambda: Link(
                        self._request,
                        hello=Hello(service=self._service, identity=self._identity),
                        secret=self._secret,
                    ),
                    host.strip("[]"),
                    int(port),
                )
                peer = await link.ready
            if peer.identity != self.node.identity:
                raise ConnectionError(f"{self.node.address} is {peer.identity}")
            self.link = link
            self._on_change()
            await self._probe(link)
        finally:
            was_open, self.link = self.link is not None, None
            if link is not None:
                link.abort(ConnectionError("closed"))
            if was_open:
                self._on_change()

    async def _probe(self, link: Link) -> None:
        """Return when the link is closed; close it when pings stay unanswered."""
        while not link.closed.done():
            done, _ = await asyncio.wait([link.closed], timeout=PROBE)
            if done:
                return
            try:
                await link.request(Header(Command.PING), timeout=SILENCE)
            except CallError as error:
                raise ConnectionError(error.message) from error

    def _request(self, link: Link, header: Header, payload: bytes) -> None:
        self._on_frame(header, payload)
