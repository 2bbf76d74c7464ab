"""The view, who owns what and why, and orders to the cores, by REST. etcd is real."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import httpx
import msgspec
import pytest

from placeos.api import app
from placeos.api.cluster_view import waiting_for, weigh
from placeos.cluster import reading
from placeos.cluster.etcd import Etcd, Put
from placeos.cluster.orders import DRAIN
from placeos.cluster.reading import ASSERTED, RELEASED
from placeos.cluster.registry import PREFIX, NodeInfo, Registration, member_key
from placeos.cluster.view import VIEW_KEY, Member, Past, View, owner
from placeos.model.driver import Driver, Role
from placeos.model.module import Module
from placeos.model.repository import Repository
from placeos.model.system import System
from placeos.store import records

Admin = httpx.AsyncClient
NAMES = ("core-1", "core-2", "core-3")


class Cluster:
    """Three cores as etcd and their answers tell of them."""

    def __init__(self, platform: Any) -> None:
        self.platform = platform
        self.view = View(
            "e",
            7,
            tuple(Member(one, f"i-{one}", eligible=one != "core-3") for one in NAMES),
            completed=True,
            base=tuple(Past(one, f"i-{one}") for one in NAMES),
        )
        self.wishes = dict.fromkeys(NAMES, "ready") | {"core-3": "draining"}
        self.stats: dict[str, dict[str, object]] = {}
        for one in NAMES:
            self.say(one)

    def say(self, node: str, waiting: tuple[str, ...] = (), **stats: object) -> None:
        """What a core answers to STATS."""
        membership = {"view": self.view.number, "lease_age": 0.5, "waiting_for": waiting}
        self.stats[node] = {"modules": 0, "membership": membership, **stats}

    async def publish(self, *released: str, **keys: str) -> None:
        """Write it to etcd, and have the router know it."""
        etcd, cores = self.platform.services.etcd, self.platform.cores
        cores.view = self.view
        cores.stats = {one: json.dumps(stats).encode() for one, stats in self.stats.items()}
        cores.nodes = lambda: [
            NodeInfo("core", one, f"i-{one}", "127.0.0.1:1", "0.1.0", f"zone of {one}", wish)
            for one, wish in self.wishes.items()
        ]
        found = {VIEW_KEY: msgspec.json.encode(self.view)}
        for one, wish in self.wishes.items():
            value = Registration(f"i-{one}", "127.0.0.1:1", wish=wish, remembers=15)
            found[member_key("core", one)] = msgspec.json.encode(value)
        found |= {f"{RELEASED}i-{one}": self.view.name.encode() for one in released}
        await etcd.txn([], [Put(key, value) for key, value in found.items()])

    async def keys(self, prefix: str) -> list[str]:
        """Keys in etcd below a prefix."""
        found = (await self.platform.services.etcd.list(prefix)).items
        return [item.key.removeprefix(prefix) for item in found]


@pytest.fixture
async def cluster(platform: Any) -> Cluster:
    made = Cluster(platform)
    await made.publish(*NAMES)
    return made


@pytest.fixture
async def modules(platform: Any) -> list[Module]:
    async with platform.services.database.transaction() as session:
        system = await records.insert(session, System(name="Room"))
        repository = await records.insert(
            session, Repository(name="R", folder_name="r", uri="file:///r")
        )
        driver = await records.insert(
            session,
            Driver(
                name="D", file_name="d.py", commit="HEAD", role=Role.LOGIC,
                module_name="Plain", repository_id=repository.id,
            ),
        )  # fmt: skip
        return [
            await records.insert(
                session,
                Module(
                    driver_id=driver.id, name="Plain", custom_name=f"m{n:02}", role=Role.LOGIC,
                    control_system_id=system.id, running=True,
                ),
            )
            for n in range(20)
        ]  # fmt: skip


async def test_each_node_is_shown_with_its_place(
    admin: Admin, cluster: Cluster, modules: list[Module]
) -> None:
    found = {one["id"]: one for one in (await admin.get("/cluster")).json()}
    first, third = found["core-1"], found["core-3"]
    assert (first["zone"], first["version"], first["incarnation"]) == (
        "zone of core-1", "0.1.0", "i-core-1"
    )  # fmt: skip
    assert (first["wish"], first["eligible"], first["lease_age"]) == ("ready", True, 0.5)
    assert (third["wish"], third["eligible"], third["modules_owned"]) == ("draining", False, 0)
    owned = [owner(cluster.view, module.id) for module in modules]
    assert first["modules_owned"] == owned.count("core-1")
    assert sum(one["modules_owned"] for one in found.values()) == 20
    assert "membership" not in first["load"]["local"]


async def test_the_view_is_shown_with_what_it_waits_for(admin: Admin, cluster: Cluster) -> None:
    shown = (await admin.get("/cluster/view")).json()
    assert (shown["number"], shown["completed"], shown["current"]) == (7, True, True)
    assert shown["waiting_for"] == []
    lost = Past("core-0", "i-0", fate="lost")
    cluster.view = msgspec.structs.replace(cluster.view, number=8, completed=False, base=(lost,))
    unreleased = "core-2 has not released view 8"
    nobody = "nobody vouches that these have ended: core-0 (i-0)"
    for one in NAMES:
        cluster.say(one, (unreleased, nobody))
    cluster.stats["core-3"]["membership"] = {"view": 7, "waiting_for": ["something of before"]}
    await cluster.publish("core-1", "core-3")
    shown = (await admin.get("/cluster/view")).json()
    assert shown["waiting_for"] == [unreleased, nobody]
    assert [one["released"] for one in shown["members"]] == [True, False, True]
    assert shown["base"] == [
        {"identity": "core-0", "incarnation": "i-0", "standalone": False, "fate": "lost"}
    ]
    assert [one["id"] for one in shown["cores"]] == list(NAMES)


def test_there_is_always_a_reason_for_an_unfinished_view() -> None:
    fresh = View("e", 3, (Member("a", "1"),))
    assert waiting_for(fresh, None, []) == ["view 3 was written a moment ago"]
    assert waiting_for(None, None, []) == ["there is no view yet"]
    assert waiting_for(msgspec.structs.replace(fresh, completed=True), None, []) == []
    dark = View("e", 3, (Member("a", "1", eligible=False),), completed=True)
    assert waiting_for(dark, None, []) == ["no core takes modules"]
    amiss = {"membership": {"view": 0, "waiting_for": ["etcd holds no view to believe"]}}
    assert "etcd holds no view to believe" in waiting_for(None, None, [amiss])


@pytest.mark.parametrize(
    ("completed", "known", "told"),
    [
        (False, 2, False),  # it has not read this one yet
        (False, 3, True),
        (True, 3, False),  # it has not read yet that it is completed
        (True, 0, True),  # it cannot believe any
        (True, 4, True),  # etcd got old data back
    ],
)
def test_what_a_core_says_counts_if_it_is_about_this_view(
    completed: bool, known: int, told: bool
) -> None:
    view = View("e", 3, (Member("a", "1"),), completed=completed)
    stats = {"membership": {"view": known, "waiting_for": ["its reason"]}}
    assert ("its reason" in waiting_for(view, None, [stats, None])) == told


async def test_who_owns_what_is_listed_in_pages(
    admin: Admin, cluster: Cluster, modules: list[Module]
) -> None:
    everything = await admin.get("/cluster/modules", params={"limit": 7})
    assert everything.headers["X-Total-Count"] == "20"
    assert 'rel="next"' in everything.headers["Link"]
    assert [one["custom_name"] for one in everything.json()] == [f"m{n:02}" for n in range(7)]
    seen: list[str] = []
    for node in ("core-1", "core-2", "core-3"):
        answer = await admin.get("/cluster/modules", params={"node": node})
        found = answer.json()
        assert answer.headers["X-Total-Count"] == str(len(found))
        assert {one["node"] for one in found} <= {node}
        seen += [one["id"] for one in found]
    assert sorted(seen) == sorted(module.id for module in modules)
    assert (await admin.get("/cluster/modules?node=core-9")).status_code == 404
    one = (await admin.get("/cluster/modules", params={"node": "core-1", "offset": 1})).json()
    assert len(one) == sum(owner(cluster.view, m.id) == "core-1" for m in modules) - 1


async def test_a_module_is_explained(admin: Admin, cluster: Cluster, modules: list[Module]) -> None:
    module = modules[0].id
    mine = owner(cluster.view, module)
    other = next(one for one in ("core-1", "core-2") if one != mine)
    cluster.say(other, processes=[{"driver": "d", "modules": [module]}])
    await cluster.publish(*NAMES)
    found = (await admin.get(f"/cluster/explain/{module}")).json()
    assert (found["module"]["node"], found["view"], found["runs_on"]) == (mine, 7, [other])
    assert found["waiting_for"] == [f"{other} to stop it", f"{mine} to start it"]
    assert found["why"][0] == f"of the 2 cores that take modules it weighs most on {mine}"
    weights = [int(one["weight"], 16) for one in found["weights"]]
    assert weights == sorted(weights, reverse=True)
    assert next(one["node"] for one in found["weights"] if one["eligible"]) == mine

    cluster.view = msgspec.structs.replace(cluster.view, exceptions=((module, other),))
    await cluster.publish(*NAMES)
    found = (await admin.get(f"/cluster/explain/{module}")).json()
    assert found["module"]["exception"] is True
    assert found["why"] == [f"an exception of view 7 gives it to {other}"]
    assert found["waiting_for"] == []
    assert (await admin.get("/cluster/explain/mod-none")).status_code == 404


async def test_a_heavier_core_that_takes_nothing_is_named(
    admin: Admin, cluster: Cluster, modules: list[Module]
) -> None:
    heavier = [m for m in modules if weigh(cluster.view, m.id)[0].node == "core-3"]
    found = (await admin.get(f"/cluster/explain/{heavier[0].id}")).json()
    assert found["why"][1] == "it weighs more on core-3, which takes no modules: it is draining"


async def test_a_core_is_drained_and_undrained(admin: Admin, cluster: Cluster) -> None:
    assert (await admin.post("/cluster/core-1/drain")).status_code == 202
    assert await cluster.keys(DRAIN) == ["core-1"]
    refused = await admin.post("/cluster/core-2/drain")
    assert refused.status_code == 409
    assert refused.json()["error"] == "no other core would take the modules of core-2"
    assert (await admin.post("/cluster/core-2/drain?force=true")).status_code == 202
    shown = (await admin.get("/cluster/view")).json()
    assert shown["drained"] == ["core-1", "core-2"]
    assert [one["drained"] for one in shown["cores"]] == [True, True, False]
    for node in ("core-1", "core-2", "core-2"):
        assert (await admin.delete(f"/cluster/{node}/drain")).status_code == 202
    assert await cluster.keys(DRAIN) == []
    for answer in (
        await admin.post("/cluster/core-9/drain"),
        await admin.delete("/cluster/core-9/drain"),
    ):
        assert answer.status_code == 404
        assert answer.json()["error"] == "core not registered: core-9"


async def test_a_building_without_cores_says_who_was_drained(
    admin: Admin, cluster: Cluster
) -> None:
    for node in NAMES:
        assert (await admin.post(f"/cluster/{node}/drain?force=true")).status_code == 202
    members = tuple(Member(one, f"i-{one}", eligible=False) for one in NAMES)
    cluster.view = msgspec.structs.replace(cluster.view, members=members)
    await cluster.publish(*NAMES)
    shown = (await admin.get("/cluster/view")).json()
    assert shown["waiting_for"] == [
        "no core takes modules; told to be drained: core-1, core-2, core-3"
    ]


async def test_balancing_removes_exceptions(admin: Admin, cluster: Cluster) -> None:
    cluster.view = msgspec.structs.replace(cluster.view, exceptions=(("mod-1", "core-1"),))
    await cluster.publish(*NAMES)
    answer = await admin.post("/cluster/rebalance")
    assert answer.status_code == 200
    versions = answer.json()
    assert set(versions) == {"old_version", "new_version"}
    assert versions["old_version"] != versions["new_version"]
    assert all(one.startswith("3-") and len(one) == 18 for one in versions.values())
    after = reading.read(await cluster.platform.services.etcd.list(PREFIX)).seen.view
    assert after == msgspec.structs.replace(cluster.view, number=8, completed=False, exceptions=())
    again = await admin.post("/cluster/rebalance")  # nobody released it yet
    assert again.status_code == 409


async def test_a_core_is_asserted_dead(admin: Admin, cluster: Cluster) -> None:
    async def say(**body: str) -> httpx.Response:
        return await admin.post("/cluster/assert-dead", json=body)

    lost = Past("core-0", "i-0", fate="lost")
    cluster.view = msgspec.structs.replace(cluster.view, base=(*cluster.view.base, lost))
    await cluster.publish(*NAMES)
    registered = await say(identity="core-1")
    assert registered.status_code == 409
    assert registered.json()["error"] == "core-1 (i-core-1) is registered: it runs"
    assert (await say(incarnation="*")).status_code == 409
    unknown = await say(identity="core-9")
    assert unknown.status_code == 404
    assert "core-9" in unknown.json()["error"]
    assert (await say()).status_code == 422
    assert (await admin.post("/cluster/assert-dead", json={"identity": 1})).status_code == 400
    assert await cluster.keys(ASSERTED) == []
    told = await say(identity="core-0")
    assert told.json() == {"identity": "core-0", "incarnations": ["i-0"]}
    assert await cluster.keys(ASSERTED) == ["i-0"]
    assert (await admin.get("/cluster/view")).json()["asserted"] == ["i-0"]


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/cluster/view"),
        ("GET", "/cluster/modules"),
        ("GET", "/cluster/explain/mod-1"),
        ("POST", "/cluster/core-1/drain"),
        ("DELETE", "/cluster/core-1/drain"),
        ("POST", "/cluster/rebalance"),
        ("POST", "/cluster/assert-dead"),
    ],
)
async def test_only_administrators(platform: Any, cluster: Cluster, method: str, path: str) -> None:
    support = platform.bearer(platform.first.user_id, 1)
    assert (await support.request(method, path, json={})).status_code == 403
    reader = platform.bearer(platform.first.user_id, 2, "cluster.read")
    expected = 403 if method != "GET" else (404 if "explain" in path else 200)
    assert (await reader.request(method, path, json={})).status_code == expected


async def test_without_etcd_orders_are_refused_and_the_last_view_is_shown(
    platform: Any, cluster: Cluster
) -> None:
    async with Etcd(["http://127.0.0.1:1"]) as gone:
        services = dataclasses.replace(platform.services, etcd=gone)
        transport = httpx.ASGITransport(app.create(services), raise_app_exceptions=False)  # type: ignore[arg-type]
        headers = {"x-api-key": str(platform.first.api_key)}
        base = "http://localhost/api/engine/v2"
        async with httpx.AsyncClient(transport=transport, base_url=base, headers=headers) as admin:
            for path in ("/cluster/core-1/drain", "/cluster/rebalance"):
                answer = await admin.post(path)
                assert answer.status_code == 503
                assert "etcd" in answer.json()["error"]
            shown = (await admin.get("/cluster/view")).json()
            assert (shown["number"], shown["current"]) == (7, False)
            assert {one["released"] for one in shown["members"]} == {None}
            assert (await admin.get("/cluster")).status_code == 200
