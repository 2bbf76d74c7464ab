"""Nothing is written to a device past the deadline, by any transport, on real sockets."""

from __future__ import annotations

import asyncio
import socket
import timeit
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import pytest
from msgspec import Raw

from placeos.driver.errors import InvalidSettings, LeaseLost
from placeos.driver.fencing import permit
from placeos.driver.fencing.page import NEVER, WritablePage, now
from placeos.driver.fencing.permit import LAPSED, Permit, isolation_of
from placeos.driver.log import ModuleLogger
from placeos.driver.testing import CallError, ScriptedDevice, drive
from placeos.driver.testing.parent import ForkParent
from placeos.driver.testing.ssh import ScriptedSSH
from placeos.driver.testing.websocket import ScriptedWebSocket
from placeos.driver.transports import SSH, TCP, UDP, Transport, WebSocket
from placeos.driver.transports.base import Address
from placeos.driver.transports.connector import Connector
from placeos.driver.transports.http import HTTP
from placeos.driver.transports.http_client import HttpClient


@pytest.fixture
def page() -> Iterator[WritablePage]:
    """The page that this process obeys; far away at first."""
    made = WritablePage()
    made.write(NEVER, NEVER)
    permit.use(made)
    yield made
    permit.use(None)
    made.close()


class Counter(asyncio.Protocol, asyncio.DatagramProtocol):
    """A device that counts what it is sent, and connections, and how they end."""

    def __init__(self) -> None:
        self.got = b""
        self.connections = 0
        self.ends: list[str] = []
        self.changed = asyncio.Event()

    def connection_made(self, transport: Any) -> None:
        self.connections += 1
        self.changed.set()

    def data_received(self, data: bytes) -> None:
        self.got += data
        self.changed.set()

    def datagram_received(self, data: bytes, addr: Any) -> None:
        self.data_received(data)

    def connection_lost(self, exc: Exception | None) -> None:
        self.ends.append("reset" if exc else "end")
        self.changed.set()

    async def until(self, condition: Callable[[], object]) -> None:
        async with asyncio.timeout(10):
            while not condition():
                self.changed.clear()
                await self.changed.wait()


@asynccontextmanager
async def listening(counter: Counter) -> AsyncIterator[int]:
    """On a TCP port."""
    server = await asyncio.get_running_loop().create_server(lambda: counter, "127.0.0.1", 0)
    yield server.sockets[0].getsockname()[1]
    server.close()


@pytest.mark.parametrize("telnet", [False, True])
async def test_tcp(page, open_transport, telnet):
    device = Counter()
    async with listening(device) as port:
        opened = await open_transport(TCP(port=1, telnet=telnet), host="127.0.0.1", port=port)
        opened.connection.write(b"before")
        await device.until(lambda: device.got == b"before")
        page.write(now(), now())
        with pytest.raises(LeaseLost):
            opened.connection.write(b"after")
        assert await opened.reason() == LAPSED
        await device.until(lambda: device.ends)
        assert device.got == b"before"


async def test_telnet_answers_nothing(page, open_transport):
    talking: list[asyncio.StreamWriter] = []
    got = bytearray()

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        talking.append(writer)
        got.extend(await reader.read())
        writer.close()

    server = await asyncio.start_server(talk, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    opened = await open_transport(TCP(port=1, telnet=True), host="127.0.0.1", port=port)
    async with asyncio.timeout(10):
        while not talking:
            await asyncio.sleep(0.01)
    page.write(now(), now())
    talking[0].write(b"\xff\xfd\x00")  # do speak binary
    assert await opened.reason() == LAPSED
    server.close()
    assert got == b""


async def test_udp(page, open_transport):
    device = Counter()
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.bind(("127.0.0.1", 0))
    loop = asyncio.get_running_loop()
    transport, _ = await loop.create_datagram_endpoint(lambda: device, sock=sock)
    opened = await open_transport(UDP(port=1), host="127.0.0.1", port=sock.getsockname()[1])
    opened.connection.write(b"before")
    await device.until(lambda: device.got == b"before")
    page.write(now(), now())
    with pytest.raises(LeaseLost):
        opened.connection.write(b"after")
    page.write(NEVER, NEVER)
    opened.connection.write(b"again")
    await device.until(lambda: device.got == b"beforeagain")
    transport.close()


async def test_websocket(page, open_transport):
    device = ScriptedWebSocket()
    await device.listen()
    uri = f"ws://127.0.0.1:{device.port}/"
    opened = await open_transport(WebSocket(), uri=uri)
    opened.connection.write("before")
    await device.should_send("before")
    page.write(now(), now())
    with pytest.raises(LeaseLost):
        opened.connection.write("after")
    assert await opened.reason() == LAPSED
    await device.unplug()


async def test_ssh(page, open_transport):
    device = ScriptedSSH()
    await device.listen()
    opened = await open_transport(
        SSH(), host="127.0.0.1", port=device.port, settings=device.settings()
    )
    opened.connection.write(b"before\n")
    page.write(now(), now())
    with pytest.raises(LeaseLost):
        await opened.connection.run("after")
    assert await opened.reason() == LAPSED
    await device.unplug()


class Answering(Counter):
    """Answers each piece that comes as an HTTP request."""

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self.transport.write(b"HTTP/1.1 204 No Content\r\n\r\n")


@pytest.mark.parametrize("kept", [True, False], ids=["kept alive", "new connection"])
async def test_http(page, kept):
    device = Answering()
    tasks: list[asyncio.Task[object]] = []

    def spawn(job: Any, _name: str) -> None:
        tasks.append(asyncio.create_task(job))

    async with listening(device) as port:
        address = Address(uri=f"http://127.0.0.1:{port}")
        client = HttpClient(HTTP(), address, None, None, ModuleLogger("m"), spawn)
        if kept:
            page.write(now() + 500_000_000, now() + 500_000_000)
            assert (await client.get("/before")).status == 204
        sent = len(device.got)
        page.write(now(), now())
        with pytest.raises(LeaseLost):
            await client.get("/after")
        assert len(device.got) == sent
        if kept:
            await device.until(lambda: device.ends)
        else:
            assert device.connections == 0
        await client.close()
        await asyncio.gather(*tasks)


# -- at the deadline, whoever writes ---------------------------------------------------------------


class Told:
    """Remembers what a connector told, and has no hooks."""

    def __init__(self) -> None:
        self.events: list[str] = []

    def opened(self) -> None:
        self.events.append("opened")

    def lost(self, reason: str) -> None:
        self.events.append(f"lost: {reason}")

    def unreachable(self, reason: str) -> None:
        self.events.append(f"unreachable: {reason}")


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.01)


@asynccontextmanager
async def connecting(port: int, isolation: str) -> AsyncIterator[Told]:
    told: Any = Told()
    spec: Transport = TCP(port=1)
    address = Address("127.0.0.1", port)
    connector = Connector(spec, address, told, told, ModuleLogger("x"), permit=Permit(isolation))
    connector.start()
    yield told
    await connector.close()


async def test_an_idle_connection_ends_with_the_deadline_and_comes_back_with_the_next(page):
    device = Counter()
    page.write(now() + 300_000_000, NEVER)
    async with (
        listening(device) as port,
        connecting(port, "stop") as strict,
        connecting(port, "extend") as mild,
    ):
        await until(lambda: f"lost: {LAPSED}" in strict.events)
        await until(lambda: any(LAPSED in event for event in strict.events[2:]))
        assert device.connections == 2
        assert mild.events == ["opened"]
        page.write(NEVER, NEVER)
        await until(lambda: strict.events.count("opened") == 2)
        page.write(now(), now() + 10)
        assert mild.events == ["opened"]


async def test_nothing_is_connected_before_the_first_deadline(page):
    device = Counter()
    page.write(0, 0)
    async with listening(device) as port, connecting(port, "extend") as told:
        await until(lambda: told.events)
        assert LAPSED in told.events[0]
        assert device.connections == 0


# -- the setting -----------------------------------------------------------------------------------


def given(value: object) -> dict[str, Raw]:
    return {"isolation": Raw(msgspec.json.encode(value))}


def test_the_setting():
    assert isolation_of({}) == "extend"
    assert isolation_of(given(None)) == "extend"
    assert isolation_of(given("stop")) == "stop"
    for wrong in ("Stop", "", 1, ["stop"]):
        with pytest.raises(InvalidSettings, match="'isolation': expected one of extend, stop"):
            isolation_of(given(wrong))


DOOR = """
    from placeos.driver import TCP, Driver

    class Door(Driver):
        transport = TCP(port=9, ends_with=b"\\r")

        async def open_it(self) -> str:
            return (await self.send("open", retries=0, timeout=2)).decode()
"""


@pytest.fixture
async def fenced(monkeypatch) -> AsyncIterator[WritablePage]:
    """The page of the driver processes of a test."""
    page = WritablePage()
    page.write(NEVER, NEVER)
    async with ForkParent(page=page.descriptor) as parent:
        monkeypatch.setattr(ForkParent, "shared", lambda *_: parent)
        yield page
        monkeypatch.undo()
    page.close()


@pytest.mark.parametrize("isolation", ["stop", "extend", "nonsense", None])
async def test_a_door_stops_with_the_lease_and_others_go_on(write_driver, fenced, isolation):
    settings = {} if isolation is None else {"isolation": isolation}
    device = ScriptedDevice()
    device.answers(b"open\r", b"opened\r")
    async with drive(write_driver(DOOR), device=device, settings=settings) as door:
        if isolation == "nonsense":
            await door.fault("setting 'isolation': expected one of extend, stop")
        assert await door.exec("open_it") == "opened"
        fenced.write(now(), NEVER)
        if isolation in (None, "extend"):
            assert await door.exec("open_it") == "opened"
            return
        with pytest.raises(CallError, match=r"not connected|lost its lease"):
            await door.exec("open_it")
        await door.status("connected", False)
        fenced.write(NEVER, NEVER)
        await door.status("connected", True)
        assert await door.exec("open_it") == "opened"


def test_a_check_costs_next_to_nothing(page):
    check = Permit().check
    assert min(timeit.repeat(check, number=10_000, repeat=10)) / 10_000 < 1e-6
