"""A platform whose cores live in network namespaces, and reach everything by lines of ours."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import rig as rigs
from checker import Promise
from faults import CRASH, MOVE, SETTLED, UNDISTURBED, all_connected, holds
from line import Line, Proxy, Streams
from netns import WAYS, Namespace, Network, can, network
from rig import Rig
from rounds import Phase

from placeos.local.engines import Engines

PORT = 20_000  # of a core, in its own namespace
ENGINES = ("etcd", "redis", "postgres")


class Apart:
    """The platform, its network, and for each core a namespace and its lines to the engines."""

    def __init__(self, rig: Rig, network: Network) -> None:
        self.rig = rig
        self.network = network
        self.namespaces: dict[str, Namespace] = {}
        self.lines = {name: Line() for name in ENGINES}  # of all cores
        self._proxies: list[Proxy] = []
        self._engines: Engines

    async def start(self, cores: int) -> None:
        """Lines, then cores."""
        ports = {}
        for name, connect in _ways_to(self.rig.engines).items():
            proxy = Proxy(connect, self.lines[name])
            self._proxies.append(proxy)
            ports[name] = await proxy.start(self.network.address(name), 0)

        def address(name: str) -> str:
            return f"{self.network.address(name)}:{ports[name]}"

        self._engines = Engines(
            database_url=f"postgresql://placeos@{address('postgres')}/placeos",
            redis_url=f"redis://{address('redis')}",
            etcd_endpoints=(f"http://{address('etcd')}",),
            pids={},
        )
        self.rig.own = [f"core-{number}" for number in range(1, cores + 1)]
        self.rig.start_again = self.core
        for name in self.rig.own:
            self.namespaces[name] = self.network.member()
        self.rig.revive()

    def core(self, name: str, *, data: str = "", key: str = "") -> None:
        """Start a core in its namespace; see `Rig.core`."""
        where = self.namespaces[key or name]
        self.rig.core(
            name,
            host=where.address,
            port=PORT,
            engines=self._engines,
            prefix=where.prefix,
            data=data,
            key=key,
        )

    async def close(self) -> None:
        """End the lines."""
        for proxy in self._proxies:
            await proxy.close()

    def addresses(self, places: Sequence[str]) -> list[str]:
        """Of places and of cores."""
        return [
            self.namespaces[place].address
            if place in self.namespaces
            else self.network.address(place)
            for place in places
        ]


def _ways_to(engines: Engines) -> dict[str, Callable[[], Awaitable[Streams]]]:
    database = parse_qs(urlsplit(engines.database_url).query)["host"][0]
    redis = engines.redis_url.removeprefix("unix://")
    etcd = urlsplit(engines.etcd_endpoints[0])
    return {
        "postgres": lambda: asyncio.open_unix_connection(f"{database}/.s.PGSQL.5432"),
        "redis": lambda: asyncio.open_unix_connection(redis),
        "etcd": lambda: asyncio.open_connection(etcd.hostname, etcd.port),
    }


@asynccontextmanager
async def running(folder: Path, *, modules: int, cores: int = 3) -> AsyncIterator[Apart]:
    """A platform with its cores apart. Its devices keep half-open connections."""
    with network() as net:
        async with rigs.running(
            folder, modules=modules, cores=0, host=net.address("devices"), second="accept"
        ) as rig:
            apart = Apart(rig, net)
            try:
                await apart.start(cores)
                await rig.balanced()
                yield apart
            finally:
                await apart.close()


# ---- faults

CALLS_MAY_FAIL = Promise(worst=0.0)
RECONNECT = 8.0  # seconds until a connection that was cut has been given up and made again


def cut(
    apart: Apart, name: str, places: Sequence[str], promise: Promise, way: str, seconds: float
) -> list[Phase]:
    """A core is cut off from some places for a while."""

    async def act(rig: Rig) -> None:
        namespace = apart.namespaces[name]
        namespace.cut(apart.addresses(places), way)
        try:
            await asyncio.sleep(seconds)
        finally:
            namespace.heal()

    async def again(rig: Rig) -> None:
        if not rig.cores[name].alive:  # fenced, as it should be; `placeos up` would do this
            apart.core(name)

    what = "all" if len(places) > len(ENGINES) else ", ".join(places)
    return [
        Phase(
            f"cut off from {what} ({way})",
            promise,
            act,
            all_connected,
            SETTLED,
            hurt=(name,),
            rest=RECONNECT,
        ),
        Phase("after the cut", Promise(worst=MOVE.worst), again, holds(name), SETTLED),
    ]


def double_cut_off(apart: Apart, name: str, way: str, seconds: float = 15.0) -> list[Phase]:
    """The same identity starts on a second data folder while the first cannot reach etcd."""
    second = f"{name}-again"

    async def act(rig: Rig) -> None:
        if second not in apart.namespaces:
            apart.namespaces[second] = apart.network.member()
        apart.namespaces[name].cut(apart.addresses(["etcd"]), way)
        try:
            apart.core(name, data=second, key=second)
            await asyncio.sleep(seconds)
        finally:
            apart.namespaces[name].heal()

    async def one_of_them(rig: Rig) -> None:
        for key in (name, second):
            rig.cores[key].terminate()
            if not await asyncio.to_thread(rig.cores[key].wait, 10.0):
                rig.cores[key].kill()
        apart.core(name)

    what = f"identity twice, the first cut off from etcd ({way})"
    promise = Promise(worst=CRASH.worst)
    return [
        Phase(what, CRASH, act, all_connected, SETTLED, (name,), RECONNECT),
        Phase("after the cut", promise, one_of_them, holds(name), SETTLED),
    ]


def slow_lines(apart: Apart, seconds: float = 15.0) -> list[Phase]:
    """200 ms delay and 5 % loss between all cores and the engines."""

    async def act(rig: Rig) -> None:
        for line in apart.lines.values():
            line.delay, line.loss = 0.2, 0.05
        try:
            await asyncio.sleep(seconds)
        finally:
            for line in apart.lines.values():
                line.delay, line.loss = 0.0, 0.0

    return [Phase("200 ms and 5 % loss to the engines", UNDISTURBED, act, all_connected)]


def half_open(apart: Apart, name: str, seconds: float = 15.0) -> list[Phase]:
    """The lines to an engine swallow everything, and close nothing."""

    async def act(rig: Rig) -> None:
        apart.lines[name].swallow = True
        try:
            await asyncio.sleep(seconds)
        finally:
            apart.lines[name].swallow = False

    what = f"half-open lines to {name}"
    return [Phase(what, UNDISTURBED, act, all_connected, SETTLED, rest=RECONNECT)]


NETWORK_FAULTS = (
    *("cut-etcd", "cut-redis", "cut-postgres", "cut-api", "cut-core", "cut-all"),
    *("double-cut-off", "slow", "half-open-etcd", "half-open-redis"),
)


def phases(apart: Apart, fault: str, number: int) -> list[Phase]:
    """Of one of NETWORK_FAULTS, for the core whose turn it is, in the way whose turn it is."""
    ways = [way for way in WAYS if can(way)]
    return _all(apart, number, ways[number % len(ways)])[fault]


def _all(apart: Apart, number: int, way: str) -> dict[str, list[Phase]]:
    names = sorted(name for name in apart.namespaces if not name.endswith("-again"))
    name = names[number % len(names)]
    other = names[(number + 1) % len(names)]
    everything = ["api", "devices", *ENGINES, *(one for one in names if one != name)]
    return {
        "cut-etcd": cut(apart, name, ["etcd"], CRASH, way, 15.0),
        "cut-redis": cut(apart, name, ["redis"], CALLS_MAY_FAIL, way, 15.0),
        "cut-postgres": cut(apart, name, ["postgres"], UNDISTURBED, way, 15.0),
        "cut-api": cut(apart, name, ["api"], CALLS_MAY_FAIL, way, 15.0),
        "cut-core": cut(apart, name, [other], UNDISTURBED, way, 15.0),
        "cut-all": cut(apart, name, everything, CRASH, way, 20.0),
        "double-cut-off": double_cut_off(apart, name, way),
        "slow": slow_lines(apart),
        "half-open-etcd": half_open(apart, "etcd"),
        "half-open-redis": half_open(apart, "redis"),
    }
