"""The nodes of the cluster and what runs on them."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from placeos.api import errors
from placeos.api.call import Call, Reply, nothing, reply
from placeos.api.routes import Parameter, Role, Route
from placeos.cluster.registry import NodeInfo
from placeos.cluster.view import View, owners
from placeos.model.module import Module
from placeos.store import Unavailable, queries
from placeos.wire.errors import CallError
from placeos.wire.frame import Command, Header

ASK_TIMEOUT = 3.0  # seconds; a node that is slower is left out
Stats = dict[str, Any]

_NOT_LOAD = ("processes", "errors", "links", "membership")


def routes() -> list[Route]:
    """All routes of the cluster."""
    common: dict[str, Any] = {"tag": "Cluster", "role": Role.ADMIN, "scopes": ("cluster",)}
    status = Parameter("include_status", bool)
    return [
        Route(method="GET", path="/cluster", handler=index, query=(status,),
              returns=list[dict[str, object]], summary="The nodes with their place and load",
              **common),
        Route(method="GET", path="/cluster/{id}", handler=show, query=(status,),
              returns=list[dict[str, object]], summary="The drivers of one node", **common),
        Route(method="DELETE", path="/cluster/{id}", handler=terminate, status=202,
              query=(Parameter("driver", str, "Id of a driver", required=True),),
              summary="End the processes of a driver; they start again", **common),
    ]  # fmt: skip


async def index(call: Call) -> Reply:
    """Every node that answers."""
    with_status = call.flag("include_status")
    found, owned = await asyncio.gather(stats_of_nodes(call), count_owned(call))
    view = call.services.router.view
    return reply(
        [
            _node(node, stats, with_status=with_status) | place(node, stats, view, owned)
            for node, stats in found
        ]
    )


def place(
    node: NodeInfo, stats: Stats | None, view: View | None, owned: Mapping[str, int] | None
) -> Stats:
    """A node's place in the cluster. `lease_age`: seconds since its lease was last renewed;
    `owned`: how many modules the view gives to each node, None if that is not known."""
    member = view.member(node.incarnation) if view is not None else None
    return {
        "incarnation": node.incarnation,
        "version": node.version,
        "zone": node.zone,
        "wish": node.wish,
        "eligible": member is not None and member.eligible,
        "modules_owned": owned.get(node.identity, 0) if owned is not None else None,
        "lease_age": ((stats or {}).get("membership") or {}).get("lease_age"),
    }


async def count_owned(call: Call) -> dict[str, int] | None:
    """How many modules the view gives to each node; None without PostgreSQL."""
    view = call.services.router.view
    if view is None:
        return {}
    try:
        modules = await queries.ids(call.database, Module, ordered=False)
    except Unavailable:
        return None
    return dict(Counter(await owners_of(view, modules)))


async def owners_of(view: View, modules: Sequence[str]) -> list[str]:
    """The owner of each module, beside the loop; empty when nobody is eligible."""
    return await asyncio.to_thread(owners, view, modules)


async def show(call: Call) -> Reply:
    """What runs on one node."""
    identity = _known(call)
    stats = await ask_stats(call, identity)
    if stats is None:
        raise not_registered(identity)
    with_status = call.flag("include_status")
    return reply([_driver(process, stats, with_status) for process in stats.get("processes", [])])


async def terminate(call: Call) -> Reply:
    """End the processes of a driver on one node, with all their modules; both start again."""
    identity, driver = _known(call), call.need("driver")
    header = Header(Command.TERMINATE, function=driver, user=call.claims.sub)
    try:
        _, payload = await call.services.router.ask(identity, header, b"", timeout=ASK_TIMEOUT)
    except CallError as error:
        raise not_registered(identity) from error
    if payload == b"0":
        raise errors.not_found(f"no process of driver {driver!r} runs on {identity}")
    return nothing(202)


def _known(call: Call) -> str:
    """The node of the path. Raises 404."""
    identity = call.path("id")
    if identity not in {node.identity for node in call.services.router.nodes()}:
        raise not_registered(identity)
    return identity


def not_registered(identity: str) -> errors.ApiError:
    """The 404 for a node."""
    return errors.not_found(f"core not registered: {identity}")


async def stats_of_nodes(call: Call) -> list[tuple[NodeInfo, Stats]]:
    """Every node that answers, with what it says of itself."""
    nodes = sorted(call.services.router.nodes(), key=lambda node: node.identity)
    answers = await asyncio.gather(*(ask_stats(call, node.identity) for node in nodes))
    return [(node, stats) for node, stats in zip(nodes, answers, strict=True) if stats is not None]


async def ask_stats(call: Call, identity: str) -> Stats | None:
    """What a node says of itself; None when it does not answer."""
    header = Header(Command.STATS, user=call.claims.sub)
    try:
        _, payload = await call.services.router.ask(identity, header, b"", timeout=ASK_TIMEOUT)
        return msgspec.json.decode(payload, type=Stats)
    except (CallError, msgspec.MsgspecError):
        return None


def _node(registered: NodeInfo, stats: Stats, *, with_status: bool) -> Stats:
    processes = stats.get("processes", [])
    load = {name: value for name, value in stats.items() if name not in _NOT_LOAD}
    node: Stats = {
        "id": registered.identity,
        "uri": registered.address,
        "load": {"local": load, "edge": {}},
    }
    if with_status:
        modules = sum(len(process.get("modules", [])) for process in processes)
        node["status"] = {
            "available_repositories": [],
            "unavailable_repositories": [],
            "compiled_drivers": [one.get("driver") for one in processes if not one.get("problem")],
            "unavailable_drivers": [
                {"name": one.get("file"), "reason": one["problem"]}
                for one in processes
                if one.get("problem")
            ],
            "run_count": {"local": {"modules": modules, "drivers": len(processes)}, "edge": {}},
        }
    return node


def _driver(process: Stats, stats: Stats, with_status: bool) -> Stats:
    """A driver's process. `errors`: what is wrong with its modules, by their ids."""
    modules = process.get("modules", [])
    local: Stats = {"modules": modules}
    if with_status:
        told = stats.get("errors", {})
        rest = {name: value for name, value in process.items() if name not in ("driver", "modules")}
        local["status"] = {
            "module_instances": len(modules),
            "memory_total": stats.get("memory_total"),
            "errors": {module: told[module] for module in modules if module in told},
            **rest,
        }
    return {"driver": process.get("driver"), "local": local, "edge": {}}
