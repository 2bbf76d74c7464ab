"""The port other services call: execute, debug, ignore, and what core is asked about itself.

The payloads of calls pass unread.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Final

from placeos.core.calls import Origin, Switch
from placeos.wire.errors import CallError, Failure
from placeos.wire.frame import Command, Header
from placeos.wire.link import Hello, Link, local_path

log = logging.getLogger("placeos.core")

MAX_LINKS: Final = 1_000
MAX_DEBUG: Final = 4 * 1024 * 1024  # bytes waiting in a link past which log lines are dropped

Ask = Callable[[Header, bytes], Awaitable[bytes]]
"""Answers a question to core itself (LOAD, STATS, …) with JSON. Raises CallError."""


class DebugLog:
    """Who follows the log of which module. Drivers send lines only while somebody does."""

    def __init__(self, switch: Switch) -> None:
        self._switch = switch
        self._watchers: dict[str, set[Link]] = {}
        switch.on_started = self._started

    def add(self, module: str, link: Link) -> None:
        """DEBUG came."""
        watchers = self._watchers.setdefault(module, set())
        watchers.add(link)
        if len(watchers) == 1:
            self._tell(module, Command.DEBUG)

    def remove(self, module: str, link: Link) -> None:
        """IGNORE came."""
        watchers = self._watchers.get(module)
        if watchers is not None:
            watchers.discard(link)
            if not watchers:
                del self._watchers[module]
                self._tell(module, Command.IGNORE)

    def closed(self, link: Link) -> None:
        """A link is gone with all it followed."""
        for module in [one for one, links in self._watchers.items() if link in links]:
            self.remove(module, link)

    def _started(self, module: str) -> None:
        """The module runs (again): its driver has to be told once more."""
        if module in self._watchers:
            self._tell(module, Command.DEBUG)

    def line(self, module: str, payload: bytes) -> None:
        """A line of a module's log, as JSON."""
        for link in self._watchers.get(module, ()):
            if link.is_open and link.buffered() < MAX_DEBUG:
                link.send(Header(Command.LOG, module=module), payload)

    def _tell(self, module: str, command: Command) -> None:
        link = self._switch.running.get(module)
        if link is not None and link.is_open:
            link.send(Header(command, module=module))


class Listener:
    """Accepts links that know the cluster secret. Use it as an async context manager."""

    def __init__(
        self,
        address: tuple[str, int],
        *,
        secret: bytes,
        identity: str,
        switch: Switch,
        debug: DebugLog,
        asks: Mapping[int, Ask],
    ) -> None:
        self._address = address
        self._secret = secret
        self._identity = identity
        self._switch = switch
        self._debug = debug
        self._asks = asks
        self._origins: dict[Link, Origin] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._servers: list[asyncio.Server] = []
        self.port = 0

    async def __aenter__(self) -> Listener:
        host, port = self._address
        loop = asyncio.get_running_loop()
        server = await loop.create_server(self._make_link, host, port)
        self._servers.append(server)
        self.port = server.sockets[0].getsockname()[1]
        path = local_path(f"{host}:{self.port}")
        try:
            self._servers.append(await loop.create_unix_server(self._make_link, path))
        except OSError as error:  # TCP serves everybody
            log.warning("no local links", extra={"reason": str(error)})
        return self

    async def __aexit__(self, *_: object) -> None:
        for server in self._servers:
            server.close()
        for link in list(self._origins):
            link.close("core is stopping")
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _make_link(self) -> Link:
        link = Link(
            self._request,
            hello=Hello(service="core", identity=self._identity),
            secret=self._secret,
            server=True,
            on_closed=self._closed,
            on_cancel=lambda sequence: origin.cancel(sequence),
        )
        origin = Origin(link)
        self._origins[link] = origin
        if len(self._origins) > MAX_LINKS:
            asyncio.get_running_loop().call_soon(link.close, "too many links")
        return link

    def _closed(self, link: Link, reason: Exception | None) -> None:
        origin = self._origins.pop(link, None)
        if origin is not None:
            origin.closed()
        self._debug.closed(link)

    def _request(self, link: Link, header: Header, payload: bytes) -> None:
        command = header.command
        if command == Command.EXECUTE:
            self._switch.execute(self._origins[link], header, payload)
        elif command == Command.DEBUG:
            self._debug.add(header.module, link)
            link.reply(header.sequence)
        elif command == Command.IGNORE:
            self._debug.remove(header.module, link)
            link.reply(header.sequence)
        elif command in self._asks:
            task = asyncio.get_running_loop().create_task(
                self._ask(link, header, payload, self._asks[command])
            )
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        else:
            error = CallError(Failure.BAD_REQUEST, f"core serves no frame {command}")
            link.fail(header.sequence, error)

    async def _ask(self, link: Link, header: Header, payload: bytes, ask: Ask) -> None:
        try:
            link.reply(header.sequence, await ask(header, payload))
        except CallError as error:
            link.fail(header.sequence, error)
        except Exception as error:  # nobody should wait in vain because of a mistake of ours
            log.exception("question failed", extra={"command": int(header.command)})
            reason = f"core could not answer: {type(error).__name__}"
            link.fail(header.sequence, CallError(Failure.RAISED, reason, code=500))
