"""What an administrator can tell the cores: drain, rebalance, and that one runs no more."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import msgspec

from placeos.api import errors
from placeos.api.call import Call, Reply, nothing, reply
from placeos.api.cluster import not_registered
from placeos.api.routes import Parameter, Role, Route
from placeos.cluster import ownership
from placeos.cluster.orders import Order, Orders, Refused, Unknown
from placeos.cluster.view import View

log = logging.getLogger("placeos.api")


class Versions(msgspec.Struct):
    """Names of two views: number of members, and a hash of what the view says."""

    old_version: str
    new_version: str


class DeadNode(msgspec.Struct):
    """A core that runs no more: its name, or one incarnation, or `*` where nobody knows a view."""

    identity: str = ""
    incarnation: str = ""


class Asserted(msgspec.Struct):
    """The incarnations that are taken for dead now."""

    identity: str
    incarnations: list[str]


def routes() -> list[Route]:
    """All routes of orders."""
    common: dict[str, Any] = {"tag": "Cluster", "role": Role.ADMIN, "scopes": ("cluster",)}
    force = Parameter("force", bool, "even if no other core takes modules")
    return [
        Route(method="POST", path="/cluster/{id}/drain", handler=drain, status=202,
              query=(force,), summary="Move all modules off a node, and give it none", **common),
        Route(method="DELETE", path="/cluster/{id}/drain", handler=undrain, status=202,
              summary="Let a node take modules again", **common),
        Route(method="POST", path="/cluster/rebalance", handler=rebalance, returns=Versions,
              summary="Place every module by the rule: no exceptions", **common),
        Route(method="POST", path="/cluster/assert-dead", handler=assert_dead, body=DeadNode,
              returns=Asserted, summary="Vouch that a lost node runs no more", **common),
    ]  # fmt: skip


async def drain(call: Call) -> Reply:
    """Asked for; the hand-over takes a moment. Kept until it is taken back."""
    identity = call.path("id")
    with _answered(identity):
        force = call.flag("force")
        await Orders(call.services.etcd).drain(identity, _order(call), force=force)
    _say(call, "drain", identity)
    return nothing(202)


async def undrain(call: Call) -> Reply:
    """Also of a node that is not there at present."""
    identity = call.path("id")
    with _answered(identity):
        await Orders(call.services.etcd).undrain(identity)
    _say(call, "undrain", identity)
    return nothing(202)


async def rebalance(call: Call) -> Reply:
    """Where every module is has never another reason than the members, but for exceptions."""
    with _answered(""):
        before, after = await Orders(call.services.etcd).rebalance()
    _say(call, "rebalance", "", view=after.number)
    return reply(Versions(version(before), version(after)))


async def assert_dead(call: Call) -> Reply:
    """The operator's word, on which others may take its place."""
    body = await call.object("DeadNode")
    try:
        dead = msgspec.convert(body, DeadNode)
    except msgspec.ValidationError as error:
        raise errors.bad_request(str(error)) from None
    if not (dead.identity or dead.incarnation):
        raise errors.missing("identity", "String")
    wanted = dead.identity or dead.incarnation
    with _answered(wanted, f"the view has no core {wanted!r}, nobody waits for it"):
        named = await Orders(call.services.etcd).assert_dead(
            dead.identity, dead.incarnation, _order(call)
        )
    _say(call, "assert dead", dead.identity, incarnations=named)
    return reply(Asserted(dead.identity, named))


def version(view: View) -> str:
    """A view's name as clients know it."""
    return f"{len(view.members)}-{ownership.digest(view.name.encode()):016x}"


@contextmanager
def _answered(identity: str, missing: str = "") -> Iterator[None]:
    """404 and 409 for what cannot be done."""
    try:
        yield
    except Unknown as error:
        raise (errors.not_found(missing) if missing else not_registered(identity)) from error
    except Refused as error:
        raise errors.conflict(str(error)) from error


def _order(call: Call) -> Order:
    return Order(call.claims.sub, int(time.time()))


def _say(call: Call, order: str, node: str, **more: object) -> None:
    """Who told the cores what is asked later: always in the log."""
    log.warning(
        "order to the cluster",
        extra={"order": order, "node": node, "user": call.claims.sub, **more},
    )
