"""The way to the core that owns a module: one link per core, followed through every change.

The hot path makes one small object per call: find the peer of the module in a dict, send,
pass the answer on. Everything else (no owner yet, link down, `moved`) waits aside, bounded.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import Final

from placeos.cluster import view as views
from placeos.cluster.etcd import Etcd, EtcdAccess
from placeos.cluster.logs import Logs
from placeos.cluster.peers import Peer
from placeos.cluster.registry import NodeInfo, Registry
from placeos.wire.errors import CallError, Failure
from placeos.wire.frame import Command, Header
from placeos.wire.link import Link, OnReply, wait_for_answer

log = logging.getLogger("placeos.cluster")

PATIENCE: Final = 8.0  # seconds a call waits for an owner that is not there yet
MAX_WAITING: Final = 10_000  # calls that may wait at once
MAX_CACHED: Final = 200_000  # modules whose owner is remembered
MOVED_PAUSE: Final = 0.05  # seconds before a `moved` call looks again


class _Call:
    """One call under way. Called by its link with the answer."""

    __slots__ = ("deadline", "done", "header", "link", "on_reply", "payload", "router", "sequence")

    def __init__(self, router: Router, header: Header, payload: bytes, on_reply: OnReply) -> None:
        self.router = router
        self.header = header
        self.payload = payload
        self.on_reply = on_reply
        self.link: Link | None = None
        self.sequence = 0
        self.deadline = 0.0  # loop time; 0 until it has to wait
        self.done = False

    def answered(self, answer: Header, body: bytes) -> None:
        self.link = None
        if self.done:
            return
        if answer.command == Command.ERROR and answer.error == Failure.MOVED:
            self.router._moved(self)
            return
        self.done = True
        self.on_reply(answer, body)

    def cancel(self) -> None:
        """The caller is gone: no answer is delivered and the core is told."""
        if self.done:
            return
        self.done = True
        self.router._waiting.pop(self, None)
        if self.link is not None:
            self.link.cancel(self.sequence)


class Router:
    """For callers (api, triggers, cores among each other). The owner runs `run()`.

    Without `registry` it follows etcd by itself; a process that already follows it shares its
    own. Losing etcd changes nothing: the last known members and view stay in use.
    """

    def __init__(
        self,
        etcd_endpoints: EtcdAccess | Sequence[str],
        *,
        secret: bytes,
        service: str,
        identity: str,
        registry: Registry | None = None,
    ) -> None:
        self._endpoints = etcd_endpoints
        self._secret = secret
        self._service = service
        self._identity = identity
        self._registry = registry
        self._peers: dict[str, Peer] = {}
        self._owners: dict[str, Peer] = {}
        self._waiting: dict[_Call, None] = {}
        self._tasks: asyncio.TaskGroup | None = None
        self._logs = Logs(self._open_link)

    async def run(self) -> None:
        """Serve until cancelled."""
        async with Etcd(self._endpoints) as etcd, asyncio.TaskGroup() as tasks:
            self._tasks = tasks
            if self._registry is None:
                self._registry = Registry(etcd)
                tasks.create_task(self._registry.run(), name="router: registry")
            registry = self._registry
            registry.listeners.append(self._members_changed)
            try:
                self._members_changed()
                tasks.create_task(self._give_up_late_calls(), name="router: deadlines")
                await asyncio.get_running_loop().create_future()
            finally:
                self._tasks = None
                registry.listeners.remove(self._members_changed)
                self._fail_all()

    # -- calling ------------------------------------------------------------------------------

    def call(self, header: Header, payload: bytes, on_reply: OnReply) -> Callable[[], None]:
        """Ask the owner of the module id in `header.module`; returns a cancel function.

        `on_reply` gets exactly one REPLY or ERROR frame, never after cancelling. A call waits
        up to 8 s for an owner that is not there (yet); one that was sent and lost ends as
        `may_have_run`. The deadline in `header.remaining` is kept by the other side.
        """
        call = _Call(self, header, payload, on_reply)
        peer = self._owners.get(header.module)
        if peer is None:
            peer = self._locate(header.module)
        if peer is not None and peer.link is not None:
            self._send(call, peer.link)
        else:
            self._wait(call)
        return call.cancel

    async def request(
        self, header: Header, payload: bytes = b"", *, timeout: float
    ) -> tuple[Header, bytes]:
        """Like `call`, awaited. Raises CallError; `timed_out` after `timeout` seconds."""
        if not header.remaining:
            header.remaining = max(1, int(timeout * 1000))
        return await wait_for_answer(lambda on_reply: self.call(header, payload, on_reply), timeout)

    def debug(self, module_id: str, on_line: Callable[[bytes], None]) -> Callable[[], None]:
        """Follow the log of a module; returns a stop function.

        `on_line` gets the JSON of each LogLine. Watchers of one module share one DEBUG, which
        is sent again whenever the module's owner or its link changes.
        """
        return self._logs.watch(module_id, on_line)

    def nodes(self) -> list[NodeInfo]:
        """The cores that are registered at present."""
        return list(self._registry.nodes("core").values()) if self._registry else []

    def owner(self, module_id: str) -> str | None:
        """Identity of the core that owns a module by the present view."""
        view = self._registry.view if self._registry else None
        return views.owner(view, module_id) if view is not None else None

    async def ask(
        self, identity: str, header: Header, payload: bytes = b"", *, timeout: float
    ) -> tuple[Header, bytes]:
        """Ask one particular core. Raises CallError, `not_run` when it is not connected."""
        peer = self._peers.get(identity)
        if peer is None or peer.link is None:
            raise CallError(Failure.NOT_RUN, f"core {identity} is not connected")
        return await peer.link.request(header, payload, timeout=timeout)

    # -- inside: calls ------------------------------------------------------------------------

    def _locate(self, module_id: str) -> Peer | None:
        identity = self.owner(module_id)
        peer = self._peers.get(identity) if identity is not None else None
        if peer is not None:
            if len(self._owners) >= MAX_CACHED:
                self._owners.clear()
            self._owners[module_id] = peer
        return peer

    def _open_link(self, module_id: str) -> Link | None:
        peer = self._owners.get(module_id) or self._locate(module_id)
        return peer.link if peer is not None else None

    def _send(self, call: _Call, link: Link) -> None:
        try:
            call.sequence = link.call(call.header, call.payload, call.answered)
            call.link = link
        except CallError as error:
            if error.failure == Failure.NOT_RUN:
                self._wait(call)
            else:
                _fail(call, error)

    def _wait(self, call: _Call) -> None:
        if len(self._waiting) >= MAX_WAITING:
            _fail(call, CallError(Failure.BUSY, "too many calls are waiting for a core"))
            return
        if not call.deadline:
            call.deadline = asyncio.get_running_loop().time() + PATIENCE
        self._waiting[call] = None

    def _moved(self, call: _Call) -> None:
        """The core no longer owns the module, or not yet: look again, shortly."""
        self._owners.pop(call.header.module, None)
        loop = asyncio.get_running_loop()
        if not call.deadline:
            call.deadline = loop.time() + PATIENCE
        self._waiting[call] = None
        loop.call_later(MOVED_PAUSE, self._again, call)

    def _again(self, call: _Call) -> None:
        if call in self._waiting:
            link = self._open_link(call.header.module)
            if link is not None:
                del self._waiting[call]
                self._send(call, link)

    def _serve_waiting(self) -> None:
        for call in list(self._waiting):
            self._again(call)

    async def _give_up_late_calls(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(0.25)
            now = loop.time()
            for call in [one for one in self._waiting if one.deadline <= now]:
                del self._waiting[call]
                _fail(call, self._why_no_owner(call.header.module))

    def _why_no_owner(self, module_id: str) -> CallError:
        identity = self.owner(module_id)
        reason = f"core {identity} does not answer" if identity else "no core is running"
        return CallError(Failure.NOT_RUN, f"the call was not run: {reason}")

    def _fail_all(self) -> None:
        waiting, self._waiting = self._waiting, {}
        for call in waiting:
            _fail(call, CallError(Failure.NOT_RUN, "this process is stopping"))

    # -- inside: peers ------------------------------------------------------------------------

    def _members_changed(self) -> None:
        if self._registry is None or self._tasks is None:
            return
        self._owners.clear()
        live = self._registry.nodes("core")
        for identity, node in live.items():
            if identity == self._identity and self._service == "core":
                continue
            peer = self._peers.get(identity)
            if peer is None:
                self._peers[identity] = peer = Peer(
                    node,
                    secret=self._secret,
                    service=self._service,
                    identity=self._identity,
                    on_change=self._link_changed,
                    on_frame=self._logs.frame,
                )
                peer.task = self._tasks.create_task(peer.run(), name=f"router: {identity}")
            else:
                peer.moved_to(node)
        self._link_changed()

    def _link_changed(self) -> None:
        # A peer outlives its registration while its link stands: etcd may have lost its data.
        live = self._registry.nodes("core") if self._registry is not None else {}
        for identity, peer in list(self._peers.items()):
            if identity not in live and peer.link is None:
                peer.stop()
                del self._peers[identity]
                self._owners.clear()
        self._serve_waiting()
        self._logs.check()


def _fail(call: _Call, error: CallError) -> None:
    if not call.done:
        call.done = True
        header = Header(Command.ERROR, code=error.code, error=error.failure)
        call.on_reply(header, error.detail())
