"""The way to the core that owns a module: one link per core, followed through every change.

The hot path makes one small object per call: find the peer of the module in a dict, send,
pass the answer on. Everything else (no owner yet, link down, `moved`) waits aside, bounded.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Sequence
from typing import Final

from placeos.cluster import view as views
from placeos.cluster.etcd import Etcd, EtcdAccess
from placeos.cluster.logs import Logs
from placeos.cluster.outlook import Outlook, ViewHint
from placeos.cluster.peers import Peer
from placeos.cluster.registry import NodeInfo, Registry
from placeos.cluster.view import View
from placeos.wire.errors import CallError, Failure
from placeos.wire.frame import Command, FrameError, Header
from placeos.wire.link import Link, OnReply
from placeos.wire.tls import Certificates
from placeos.wire.waiting import PATIENCE, Patient, tell, wait_for_answer

log = logging.getLogger("placeos.cluster")

MAX_WAITING: Final = 10_000  # calls that may wait at once
MAX_CACHED: Final = 200_000  # modules whose owner is remembered
MOVED_PAUSE: Final = (0.05, 1.0)  # seconds before a core that said `moved` is asked again


class _Call(Patient):
    """One call under way. Called by its link with the answer."""

    __slots__ = (
        "deadline",
        "done",
        "header",
        "least",
        "link",
        "not_before",
        "on_reply",
        "payload",
        "refused",
        "router",
        "sequence",
        "since",
        "tries",
        "waited",
    )

    def __init__(self, router: Router, header: Header, payload: bytes, on_reply: OnReply) -> None:
        self.router = router
        self.header = header
        self.payload = payload
        self.on_reply = on_reply
        self.link: Link | None = None
        self.sequence = 0
        self.deadline = 0.0  # loop time; 0 until it has to wait
        self.since = 0.0  # loop time at which it began to wait
        self.waited = 0.0  # seconds, without the present wait
        self.refused: Link | None = None  # the link whose core said `moved` last
        self.not_before = 0.0  # loop time at which that one may be asked again
        self.least = 0  # number of the view that has to be known first
        self.tries = 0
        self.done = False

    def __call__(self, answer: Header, body: bytes) -> None:
        link, self.link = self.link, None
        if self.done:
            return
        if answer.command == Command.ERROR and link is not None:
            if answer.error == Failure.MOVED:
                self.router._moved(self, link, CallError.parse("", 0, body).view)
                return
            if answer.error == Failure.NOT_RUN and not link.is_open:
                self.router._wait(self)  # the link was lost, and not a byte was sent
                return
        self.finish(answer, body)

    def finish(self, answer: Header, body: bytes) -> None:
        """Hand the answer on, once."""
        if not self.done:
            self.done = True
            if self.waited:
                answer.waited += int(self.waited * 1000)
            self.on_reply(answer, body)

    def fail(self, error: CallError) -> None:
        """It ends here."""
        self.finish(Header(Command.ERROR, code=error.code, error=error.failure), error.detail())

    def waits(self, seconds: float) -> None:
        tell(self.on_reply, seconds)

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
    own. Losing etcd changes nothing: the last known members and view stay in use. `view_hint`
    helps a process that starts while etcd is away.
    """

    def __init__(
        self,
        etcd_endpoints: EtcdAccess | Sequence[str],
        *,
        secret: bytes,
        service: str,
        identity: str,
        registry: Registry | None = None,
        tls: Certificates | None = None,
        view_hint: ViewHint | None = None,
    ) -> None:
        self._endpoints = etcd_endpoints
        self._secret = secret
        self._service = service
        self._identity = identity
        self._registry = registry
        self._tls = tls
        self._view_hint = view_hint
        self._outlook: Outlook | None = None
        self._ended = False
        self._reading: asyncio.Task[None] | None = None
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
            outlook = self._outlook = Outlook(registry, self._members_changed)
            registry.listeners.append(self._members_changed)
            try:
                self._members_changed()
                tasks.create_task(self._give_up_late_calls(), name="router: deadlines")
                if self._view_hint is not None:
                    tasks.create_task(outlook.use_hint(self._view_hint), name="router: hint")
                await asyncio.get_running_loop().create_future()
            finally:
                self._tasks = None
                self._ended = True
                registry.listeners.remove(self._members_changed)
                self._fail_all()

    # -- calling ------------------------------------------------------------------------------

    def call(self, header: Header, payload: bytes, on_reply: OnReply) -> Callable[[], None]:
        """Ask the owner of the module id in `header.module`; returns a cancel function.

        `on_reply` gets exactly one REPLY or ERROR frame, never after cancelling. A call waits
        up to 8 s for an owner that is not there (yet), which `on_reply` hears if it is
        `Patient`, and which `waited` of the answer tells; one that was sent and lost ends as
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
        return list(self._outlook.cores().values()) if self._outlook is not None else []

    @property
    def view(self) -> View | None:
        """The view that calls go by; None while none is known."""
        return self._outlook.view if self._outlook is not None else None

    def owner(self, module_id: str) -> str | None:
        """Identity of the core that owns a module by the present view."""
        view = self.view
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
            call.link = link
            call.sequence = link.call(call.header, call.payload, call)
        except CallError as error:
            call.link = None
            if error.failure == Failure.NOT_RUN:
                self._wait(call)
            else:
                call.fail(error)
        except FrameError as error:  # nothing was sent
            call.link = None
            call.fail(CallError(Failure.BAD_REQUEST, str(error)))

    def _wait(self, call: _Call) -> None:
        now = asyncio.get_running_loop().time()
        if not call.deadline:
            call.deadline = now + PATIENCE
        if len(self._waiting) >= MAX_WAITING:
            call.fail(CallError(Failure.BUSY, "too many calls are waiting for a core"))
        elif now >= call.deadline or self._ended:
            call.fail(self._why_no_owner(call))
        else:
            call.since = now
            self._waiting[call] = None
            call.waits(call.deadline - now)

    def _waited(self, call: _Call) -> None:
        """It waits no more."""
        del self._waiting[call]
        now = asyncio.get_running_loop().time()
        call.waited += now - call.since
        call.waits(min(0.0, now - call.deadline))
        call.header.waited = int(call.waited * 1000)

    def _moved(self, call: _Call, link: Link, number: int) -> None:
        """A core says that by its view, with this number (0: unknown), another one is the owner.

        If its view is newer than ours, there is nothing to try before we have that one. If it
        is older, ours stands, and that core will catch up. What it never is: a reason to
        believe less than we know.
        """
        now = asyncio.get_running_loop().time()
        if not call.deadline:
            call.deadline = now + PATIENCE
        call.refused = link
        first, longest = MOVED_PAUSE
        pause = min(first * 2 ** min(call.tries, 10), longest) * random.uniform(0.5, 1.0)  # noqa: S311
        call.tries += 1
        call.not_before = now + pause
        if number > self._number():
            call.least = number
        self._wait(call)
        self._again(call)  # at once if another core is the owner by now
        if call in self._waiting:
            asyncio.get_running_loop().call_at(call.not_before, self._paused, call)
            if call.least > self._number():
                self._catch_up()

    def _number(self) -> int:
        return self._outlook.number if self._outlook is not None else 0

    def _catch_up(self) -> None:
        """A core has a newer view: one task reads it for all calls that wait for it."""
        if self._tasks is None or self._outlook is None:
            return
        if self._reading is None or self._reading.done():
            reading = self._outlook.catch_up(
                lambda: max((call.least for call in self._waiting), default=0)
            )
            self._reading = self._tasks.create_task(reading, name="router: newer view")

    def _again(self, call: _Call) -> None:
        """Send a call that waits, if there is somebody to ask."""
        if call not in self._waiting or call.least > self._number():
            return
        link = self._open_link(call.header.module)
        if link is None:
            return
        if link is call.refused and asyncio.get_running_loop().time() < call.not_before:
            return
        self._waited(call)
        self._send(call, link)

    def _paused(self, call: _Call) -> None:
        call.not_before = 0.0  # a timer may come a fraction of a millisecond early
        self._again(call)

    def _serve_waiting(self) -> None:
        for call in list(self._waiting):
            self._again(call)

    async def _give_up_late_calls(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(0.25)
            now = loop.time()
            for call in [one for one in self._waiting if one.deadline <= now]:
                self._waited(call)
                call.fail(self._why_no_owner(call))

    def _why_no_owner(self, call: _Call) -> CallError:
        identity = self.owner(call.header.module)
        if identity is None:
            reason = "no core is running"
        elif call.refused is not None:
            reason = f"core {call.refused.peer.identity} does not own the module (yet)"
        else:
            reason = f"core {identity} does not answer"
        return CallError(Failure.NOT_RUN, f"the call was not run: {reason}")

    def _fail_all(self) -> None:
        waiting, self._waiting = self._waiting, {}
        for call in waiting:
            call.fail(CallError(Failure.NOT_RUN, "this process is stopping"))

    # -- inside: peers ------------------------------------------------------------------------

    def _members_changed(self) -> None:
        if self._outlook is None or self._tasks is None:
            return
        self._owners.clear()
        live = self._outlook.cores()
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
                    tls=self._tls,
                )
                peer.task = self._tasks.create_task(peer.run(), name=f"router: {identity}")
            else:
                peer.moved_to(node)
        self._link_changed()

    def _link_changed(self) -> None:
        # A peer outlives its registration while its link stands: etcd may have lost its data.
        live = self._outlook.cores() if self._outlook is not None else {}
        for identity, peer in list(self._peers.items()):
            if identity not in live and peer.link is None:
                peer.stop()
                del self._peers[identity]
                self._owners.clear()
        self._serve_waiting()
        self._logs.check()
