"""Real etcd, and small cores on real sockets that answer every call with their name."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

import pytest

from placeos.cluster.etcd import Etcd
from placeos.cluster.core_member import CoreMember, Duties
from placeos.cluster.handover import Memory, Timing
from placeos.cluster.access import EtcdAccess
from placeos.cluster.membership import new_incarnation
from placeos.cluster.registry import PREFIX, Registration, Registry
from placeos.wire.errors import CallError, Failure
from placeos.wire.frame import Command, Header
from placeos.wire.link import Hello, Link

SECRET = b"the secret of this test cluster"


async def until(condition: Callable[[], object], timeout: float = 10.0) -> None:
    """Wait until the condition holds; fails after `timeout` seconds."""
    async with asyncio.timeout(timeout):
        while not condition():
            await asyncio.sleep(0.005)


@pytest.fixture(name="until")
def until_fixture():
    return until


@pytest.fixture
async def etcd(engines) -> AsyncIterator[Etcd]:
    async with Etcd(engines.etcd_endpoints) as client:
        for item in (await client.list(PREFIX)).items:
            await client.delete(item.key)
        yield client


class FakeCore:
    """A registered core whose link answers with its identity."""

    def __init__(self, etcd: Etcd, identity: str, incarnation: str = "", **more) -> None:
        self.etcd = etcd
        self.identity = identity
        self.incarnation = incarnation or new_incarnation()
        self.more = more
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
        self.membership: Membership | None = None
        self.port = 0
        self.advertised = 0  # another port, of a proxy before this core

    async def start(self, ttl: int = 3) -> None:
        loop = asyncio.get_running_loop()
        self.server = await loop.create_server(self.link, "127.0.0.1", self.port)
        self.port = self.server.sockets[0].getsockname()[1]
        self.membership = Membership(
            self.etcd,
            service="core",
            identity=self.identity,
            registration=Registration(
                self.incarnation, f"127.0.0.1:{self.advertised or self.port}"
            ),
            ttl=ttl,
            **self.more,
        )
        keeper = ViewKeeper(self.etcd, self.registry, self.membership)
        self.tasks = [
            asyncio.create_task(self.membership.run()),
            asyncio.create_task(self.registry.run()),
            asyncio.create_task(keeper.run()),
        ]

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
        if not leave and self.membership is not None:
            self.membership._lease = 0
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)
        if self.server is not None:
            self.server.close()
        for link in list(self.links):
            link.close()


class Line:
    """A TCP line in front of a core that can be held: bytes wait and are not lost, as in a
    network that is cut and comes back."""

    def __init__(self, port: int) -> None:
        self.behind = port
        self.port = 0
        self.open = asyncio.Event()
        self.open.set()
        self.held = 0  # bytes that wait
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Line:
        self._server = await asyncio.start_server(self._connect, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection("127.0.0.1", self.behind)
        for one, other in ((reader, back), (there, writer)):
            task = asyncio.create_task(self._pass_on(one, other))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(65536):
                if not self.open.is_set():
                    self.held += len(data)
                    await self.open.wait()
                writer.write(data)
        except OSError:
            pass
        finally:
            writer.close()


@pytest.fixture
def line() -> type[Line]:
    return Line


@pytest.fixture
async def core(etcd):
    started: list[FakeCore] = []

    async def start(
        identity: str, incarnation: str = "", *, ttl: int = 3, line: Line | None = None, **more
    ) -> FakeCore:
        node = FakeCore(etcd, identity, incarnation, **more)
        started.append(node)
        if line is not None:
            node.port, node.advertised = line.behind, line.port
        await node.start(ttl)
        return node

    yield start
    for node in started:
        await node.stop()


@pytest.fixture
def secret() -> bytes:
    return SECRET
