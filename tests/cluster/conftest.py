"""Real etcd, and small cores on real sockets that answer every call with their name."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
import taking_part
from held_line import Line
from taking_part import CALM, Place

from placeos.cluster.etcd import Etcd
from placeos.cluster.handover import Timing
from placeos.cluster.registry import PREFIX, Registry
from placeos.wire.errors import CallError, Failure
from placeos.wire.frame import Command, Header
from placeos.wire.link import Hello, Link

SECRET = b"the secret of this test cluster"


@pytest.fixture(name="until")
def until_fixture():
    return taking_part.until


@pytest.fixture
async def etcd(engines) -> AsyncIterator[Etcd]:
    async with Etcd(engines.etcd_endpoints) as client:
        for item in (await client.list(PREFIX)).items:
            await client.delete(item.key)
        yield client


@pytest.fixture
async def place(engines, etcd):
    """Makes and starts places; those that the test left are ended."""
    made: list[Place] = []
    others: dict[str, Place] = {}

    def make(identity: str, incarnation: str = "", **more) -> Place:
        endpoints = more.pop("endpoints", engines.etcd_endpoints)
        found = Place(endpoints, identity, incarnation, others=others, **more)
        made.append(found)
        others[identity] = found
        return found.start()

    yield make
    await asyncio.gather(*(one.stop() for one in made))


class FakeCore:
    """A registered core whose link answers with its identity."""

    def __init__(self, etcd: Etcd, endpoints: list[str], identity: str, incarnation: str) -> None:
        self.identity = identity
        self.registry = Registry(etcd)
        self.server: asyncio.Server | None = None
        self.links: set[Link] = set()
        self.tasks: list[asyncio.Task] = []
        self.moved = 0  # how many calls to refuse as moved
        self.view = 0  # the number of the view that these refusals name
        self.hold: list[tuple[Link, int]] | None = None
        self.seen: list[Header] = []
        self.times: list[float] = []
        self.cancelled: list[int] = []
        self.place: Place
        self.incarnation = incarnation
        self.endpoints = endpoints
        self.port = 0
        self.advertised = 0  # another port, of a proxy before this core

    async def start(self, **more) -> None:
        loop = asyncio.get_running_loop()
        self.server = await loop.create_server(self.link, "127.0.0.1", self.port)
        self.port = self.server.sockets[0].getsockname()[1]
        self.place = Place(
            self.endpoints,
            self.identity,
            self.incarnation,
            address=f"127.0.0.1:{self.advertised or self.port}",
            **more,
        ).start()
        self.incarnation = self.place.incarnation
        self.tasks = [asyncio.create_task(self.registry.run())]

    def link(self) -> Link:
        link = Link(
            self.request,
            hello=Hello(service="core", identity=self.identity),
            secret=SECRET,
            server=True,
            on_closed=lambda link, _: self.links.discard(link),
            on_cancel=self.cancelled.append,
        )
        self.links.add(link)
        return link

    def request(self, link: Link, header: Header, payload: bytes) -> None:
        self.seen.append(header)
        self.times.append(asyncio.get_running_loop().time())
        if header.command in (Command.DEBUG, Command.IGNORE):
            return
        if self.moved:
            self.moved -= 1
            link.fail(header.sequence, CallError(Failure.MOVED, "not mine", view=self.view))
        elif self.hold is not None:
            self.hold.append((link, header.sequence))
        else:
            link.reply(header.sequence, b'"%s"' % self.identity.encode())

    async def stop(self, *, leave: bool = True) -> None:
        """Stop; without `leave` as if killed: the key stays until its lease ends."""
        if leave:
            await self.place.leave()
        await self.place.stop()
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)
        if self.server is not None:
            self.server.close()
        for link in list(self.links):
            link.close()


@pytest.fixture
def line() -> type[Line]:
    return Line


@pytest.fixture
async def core(etcd, engines):
    started: list[FakeCore] = []

    async def start(
        identity: str,
        incarnation: str = "",
        *,
        predecessor: str = "",
        timing: Timing = CALM,
        line: Line | None = None,
    ) -> FakeCore:
        node = FakeCore(etcd, engines.etcd_endpoints, identity, incarnation)
        started.append(node)
        if line is not None:
            node.port, node.advertised = line.behind, line.port
        await node.start(timing=timing, dead=(predecessor,) if predecessor else ())
        return node

    yield start
    for node in started:
        await node.stop(leave=False)


@pytest.fixture
def secret() -> bytes:
    return SECRET
