"""The port other services call: execute, debug, ignore, and what core is asked about itself.

The payloads of calls pass unread.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import Final

from placeos.core.calls import Origin, Switch
from placeos.wire.errors import CallError, Failure
from placeos.wire.frame import Command, Header
from placeos.wire.gate import Gate, LinkCounts
from placeos.wire.link import Hello, Link, local_path
from placeos.wire.tls import Certificates

log = logging.getLogger("placeos.core")

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
        counts: LinkCounts | None = None,
        tls: Certificates | None = None,
    ) -> None:
        self._address = address
        self._secret = secret
        self._identity = identity
        self._switch = switch
        self._debug = debug
        self._asks = asks
        self._certificate = tls.own if tls is not None else b""
        self._gate = Gate(self._make_link, counts=counts or LinkCounts(), tls=tls)
        self._origins: dict[Link, Origin] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self.port = 0

    async def __aenter__(self) -> Listener:
        host, port = self._address
        sockets = await _bound(host, port)
        self.port = sockets[0].getsockname()[1]
        await self._gate.__aenter__()
        for sock in sockets:
            self._gate.serve(sock)
        local = socket.socket(socket.AF_UNIX)
        try:
            local.bind(local_path(f"{host}:{self.port}"))
            self._gate.serve(local)
        except OSError as error:  # TCP serves everybody
            local.close()
            log.warning("no local links", extra={"reason": str(error)})
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._gate.__aexit__()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _make_link(self) -> Link:
        link = Link(
            self._request,
            hello=Hello(service="core", identity=self._identity),
            secret=self._secret,
            certificate=self._certificate,
            server=True,
            on_closed=self._closed,
        )
        link.on_cancel = partial(self._cancelled, link)
        return link

    def _origin(self, link: Link) -> Origin:
        """Made with the first call: who proves nothing leaves nothing here."""
        origin = self._origins.get(link)
        if origin is None:
            origin = self._origins[link] = Origin(link)
        return origin

    def _cancelled(self, link: Link, sequence: int) -> None:
        origin = self._origins.get(link)
        if origin is not None:
            origin.cancel(sequence)

    def _closed(self, link: Link, reason: Exception | None) -> None:
        origin = self._origins.pop(link, None)
        if origin is not None:
            origin.closed()
        self._debug.closed(link)

    def _request(self, link: Link, header: Header, payload: bytes) -> None:
        command = header.command
        if command == Command.EXECUTE:
            self._switch.execute(self._origin(link), header, payload)
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


async def _bound(host: str, port: int) -> list[socket.socket]:
    """TCP sockets bound to all addresses of `host`, at one port. Raises OSError."""
    loop = asyncio.get_running_loop()
    kind = socket.SOCK_STREAM
    addresses = await loop.getaddrinfo(host or None, port, type=kind, flags=socket.AI_PASSIVE)
    sockets: list[socket.socket] = []
    try:
        for family, _, protocol, _, address in dict.fromkeys(addresses):
            sock = socket.socket(family, kind, protocol)
            sockets.append(sock)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            sock.bind((address[0], port, *address[2:]))
            port = sock.getsockname()[1]
    except BaseException:
        for sock in sockets:
            sock.close()
        raise
    return sockets
