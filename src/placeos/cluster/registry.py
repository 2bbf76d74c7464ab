"""What etcd holds of the cluster, followed by a watch and kept through every outage."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Final

import msgspec

from placeos.cluster.etcd import Compacted, Etcd, EtcdError, KeyValue, pause
from placeos.cluster.handover import Wish
from placeos.cluster.view import VIEW_KEY, View

log = logging.getLogger("placeos.cluster")

PREFIX: Final = "placeos/"


class NodeInfo(msgspec.Struct, frozen=True):
    """A registered instance of a service, as its key in etcd tells."""

    service: str
    identity: str
    incarnation: str
    address: str  # host:port of its link listener or HTTP server
    version: str = ""
    zone: str = ""
    wish: Wish = "ready"
    revision: int = 0  # of the key: grows when another incarnation takes it


class Registration(msgspec.Struct, frozen=True):
    """The value of `placeos/<service>/<identity>`."""

    incarnation: str
    address: str
    version: str = ""
    zone: str = ""
    wish: Wish = "ready"  # this and what follows: of cores only; see `handover.Live`
    standalone: bool = False
    dead: tuple[str, ...] = ()
    remembers: int = 0


def member_key(service: str, identity: str) -> str:
    """Key under which an instance registers."""
    return f"{PREFIX}{service}/{identity}"


class Registry:
    """Nodes by service and the core view, as last seen. The owner runs `run()`.

    `on_change` is called on the loop after every difference. While etcd is away everything
    stays as it was.
    """

    def __init__(self, etcd: Etcd) -> None:
        self._etcd = etcd
        self._nodes: dict[str, dict[str, NodeInfo]] = {}
        self.view: View | None = None
        self.view_revision = 0  # mod_revision of the view key; 0 while there is none
        self.listeners: list[Callable[[], None]] = []
        self.loaded = asyncio.Event()
        self._listed = 0  # revision of the last listing: the watch may still be behind it

    def nodes(self, service: str) -> dict[str, NodeInfo]:
        """Registered instances of a service, by identity."""
        return self._nodes.get(service, {})

    def services(self) -> list[str]:
        """Names of services with a registered instance."""
        return sorted(name for name, nodes in self._nodes.items() if nodes)

    async def run(self) -> None:
        """Follow etcd until cancelled."""
        attempt = 0
        while True:
            try:
                revision = await self.refresh()
                attempt = 0
                while True:
                    revision = await self._follow(revision)
            except Compacted:
                continue
            except EtcdError as error:
                if attempt == 0:
                    log.warning("cluster view is stale", extra={"reason": str(error)})
                await pause(attempt)
                attempt += 1

    async def refresh(self) -> int:
        """List everything now; the revision it is of. Raises EtcdError."""
        listing = await self._etcd.list(PREFIX)
        nodes: dict[str, dict[str, NodeInfo]] = {}
        view: KeyValue | None = None
        for item in listing.items:
            if item.key == VIEW_KEY:
                view = item
                continue
            node = _node(item)
            if node is not None:
                nodes.setdefault(node.service, {})[node.identity] = node
        self._listed = listing.revision
        changed = nodes != self._nodes
        self._nodes = nodes
        if view is not None:
            changed |= self._set_view(view)
        else:
            self.view_revision = 0  # the last view stays in use until another is written
        self.loaded.set()
        if changed:
            self._announce()
        return listing.revision

    async def _follow(self, revision: int) -> int:
        async for changes in self._etcd.watch(PREFIX, revision + 1):
            if changes.revision < revision:
                raise Compacted  # etcd lost its data and counts from the beginning
            changed = False
            for event in changes.events:
                if event.revision > self._listed:
                    changed |= self._apply(event.key, event.item)
            if changes.events:  # others carry a revision whose events may still be on their way
                revision = max(revision, changes.revision)
            if changed:
                self._announce()
        return revision

    def _apply(self, key: str, item: KeyValue | None) -> bool:
        if key == VIEW_KEY:
            if item is None:
                self.view_revision = 0
                return True  # somebody has to write it again
            return self._set_view(item)
        service, _, identity = key.removeprefix(PREFIX).partition("/")
        nodes = self._nodes.setdefault(service, {})
        node = _node(item) if item is not None else None
        if node is None:
            return nodes.pop(identity, None) is not None
        changed = nodes.get(identity) != node
        nodes[identity] = node
        return changed

    def _set_view(self, item: KeyValue) -> bool:
        self.view_revision = item.mod_revision
        try:
            view = msgspec.json.decode(item.value, type=View)
        except msgspec.MsgspecError as error:
            log.warning("unreadable view", extra={"reason": str(error)})
            return False
        changed = view != self.view
        self.view = view
        return changed

    def _announce(self) -> None:
        for listener in tuple(self.listeners):
            listener()


def _node(item: KeyValue) -> NodeInfo | None:
    service, _, identity = item.key.removeprefix(PREFIX).partition("/")
    try:
        found = msgspec.json.decode(item.value, type=Registration)
    except msgspec.MsgspecError:
        return None
    return NodeInfo(
        service=service,
        identity=identity,
        incarnation=found.incarnation,
        address=found.address,
        version=found.version,
        zone=found.zone,
        wish=found.wish,
        revision=item.mod_revision,
    )
