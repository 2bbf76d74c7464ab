"""What etcd holds of the cluster, followed by a watch and kept through every outage."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Final

import msgspec

from placeos.cluster.etcd import Etcd, KeyValue, Listing
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
        self.listeners: list[Callable[[], None]] = []
        self.loaded = asyncio.Event()
        self._listed = 0  # revision of the last listing: the watch may still be behind it

    def nodes(self, service: str) -> dict[str, NodeInfo]:
        """Registered instances of a service, by identity."""
        return self._nodes.get(service, {})

    async def run(self) -> None:
        """Follow etcd until cancelled."""
        async for seen in self._etcd.follow(PREFIX):
            if isinstance(seen, Listing):
                self._take(seen)
                continue
            changed = False
            for event in seen.events:
                if event.revision > self._listed:  # a refresh may be ahead of the watch
                    changed |= self._apply(event.key, event.item)
            if changed:
                self._announce()

    async def refresh(self) -> None:
        """List everything now. Raises EtcdError."""
        self._take(await self._etcd.list(PREFIX))

    def _take(self, listing: Listing) -> None:
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
        self.loaded.set()
        if changed:
            self._announce()

    def _apply(self, key: str, item: KeyValue | None) -> bool:
        if key == VIEW_KEY:
            return item is not None and self._set_view(item)  # without one the last stays in use
        service, _, identity = key.removeprefix(PREFIX).partition("/")
        nodes = self._nodes.setdefault(service, {})
        node = _node(item) if item is not None else None
        if node is None:
            return nodes.pop(identity, None) is not None
        changed = nodes.get(identity) != node
        nodes[identity] = node
        return changed

    def _set_view(self, item: KeyValue) -> bool:
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
