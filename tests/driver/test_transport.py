"""Connecting, losing and finding a device again, on real sockets."""

from __future__ import annotations

import asyncio
import datetime
import logging
import socket
import ssl
from collections.abc import Callable
from contextlib import asynccontextmanager

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given
from hypothesis import strategies as st

from placeos.driver.errors import Offline
from placeos.driver.testing import ScriptedDevice
from placeos.driver.transport import LONGEST_PAUSE, MAX_UNSENT, TCP, Address, Connector, backoff

LIMIT = 20.0  # more than the longest pause between two attempts


class Told:
    """Remembers what the connector told."""

    def __init__(self) -> None:
        self.events: list[str] = []
        self._changed = asyncio.Condition()
        self._tasks: set[asyncio.Task[None]] = set()

    def opened(self) -> None:
        self._add("opened")

    def message(self, data: bytes) -> None:
        self._add(f"message {data.decode()}")

    def lost(self, reason: str) -> None:
        self._add(f"lost: {reason}")

    def unreachable(self, reason: str) -> None:
        self._add(f"unreachable: {reason}")

    async def until(self, condition: Callable[[list[str]], bool]) -> None:
        """Wait for events."""
        async with asyncio.timeout(LIMIT), self._changed:
            await self._changed.wait_for(lambda: condition(self.events))

    async def has(self, text: str, times: int = 1) -> None:
        """Wait until an event that begins with `text` came that often."""
        await self.until(lambda events: sum(e.startswith(text) for e in events) >= times)

    def _add(self, event: str) -> None:
        self.events.append(event)
        task = asyncio.ensure_future(self._notify())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _notify(self) -> None:
        async with self._changed:
            self._changed.notify_all()


@asynccontextmanager
async def connector(address: Address, spec: TCP | None = None):
    """A started connector and what it tells."""
    told = Told()
    made = Connector(spec or TCP(port=1, ends_with=b"\r"), address, told, logging.getLogger("t"))
    made.start()
    try:
        yield made, told
    finally:
        await made.close()


@pytest.fixture
async def device():
    """A device that listens."""
    made = ScriptedDevice()
    await made.listen()
    yield made
    await made.unplug()


def at(device: ScriptedDevice, **options: object) -> Address:
    return Address("127.0.0.1", device.port, **options)


async def test_messages_both_ways(device):
    device.greets(b"hello\r")
    async with connector(at(device)) as (made, told):
        await told.has("message hello")
        assert told.events == ["opened", "message hello"]
        made.write(b"ping\r")
        await device.should_send(b"ping\r")
        await device.responds(b"one\rtwo\rthr")
        await device.responds(b"ee\r")
        await told.has("message three")


async def test_lost_and_found_again(device):
    async with connector(at(device)) as (_, told):
        await told.has("opened")
        await device.hang_up()
        await told.has("lost")
        await told.has("opened", 2)
        # twice in short order: not at once any more
        await device.hang_up()
        await told.has("lost", 2)
        await told.has("opened", 3)


async def test_port_that_nobody_listens_on(device):
    await device.unplug()
    async with connector(at(device)) as (made, told):
        await told.has("unreachable", 2)
        with pytest.raises(Offline):
            made.write(b"x")
        await device.listen()
        await told.has("opened")


async def test_a_pause_can_be_cut_short(device, monkeypatch):
    monkeypatch.setattr("placeos.driver.transport.backoff", lambda attempt, _: attempt * 3600.0)
    await device.unplug()
    async with connector(at(device)) as (made, told):
        await told.has("unreachable", 2)  # the first attempt again follows at once
        await device.listen()
        made.hasten()
        await told.has("opened")


async def test_port_of_an_unplugged_device_is_given_to_nobody_else(device):
    await device.unplug()
    with socket.socket() as other, pytest.raises(OSError, match="in use"):
        other.bind(("127.0.0.1", device.port))
    await device.listen()
    async with connector(at(device)) as (_, told):
        await told.has("opened")


async def test_name_that_does_not_exist():
    async with connector(Address("no-such-host.invalid", 1)) as (_, told):
        await told.has("unreachable: no-such-host.invalid:1")


async def test_connect_timeout():
    """A listener whose backlog is full answers no further SYN."""
    with socket.socket() as full:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        fillers = []
        for _ in range(4):
            filler = socket.socket()
            filler.setblocking(False)
            filler.connect_ex(full.getsockname())
            fillers.append(filler)
        address = Address(*full.getsockname())
        async with connector(address, TCP(port=1, connect_timeout=0.3)) as (_, told):
            await told.has("unreachable")
            assert "no connection within 0.3 s" in told.events[0]
        for filler in fillers:
            filler.close()


async def test_address_change(device):
    other = ScriptedDevice()
    await other.listen()
    async with connector(at(device)) as (made, told):
        await told.has("opened")
        made.move(at(other))
        await told.has("lost: the address was changed")
        await other.expect_connection(1)
    await other.unplug()


async def test_device_that_takes_nothing_is_dropped():
    async def deaf(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.transport.pause_reading()
        await asyncio.Event().wait()

    server = await asyncio.start_server(deaf, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with connector(Address("127.0.0.1", port)) as (made, told):
        await told.has("opened")
        for _ in range(100):
            try:
                made.write(b"x" * MAX_UNSENT)
            except Offline:
                break
            await asyncio.sleep(0)
        await told.has("lost: the device does not take what is sent")
    server.close()


async def test_endless_message_drops_the_connection(device):
    async with connector(at(device)) as (_, told):
        await told.has("opened")
        await device.responds(b"x" * 2_000_000)
        await told.has("lost: more than")


async def test_frame_function_that_fails(device):
    spec = TCP(port=1, frame=lambda head: head[99])
    async with connector(at(device), spec) as (_, told):
        await told.has("opened")
        await device.responds(b"x")
        await told.has("lost: the frame function failed")


async def test_socket_options(device):
    async with connector(at(device)) as (made, told):
        await told.has("opened")
        sock = made._now._transport.get_extra_info("socket")
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == 60


async def test_close_ends_everything(device):
    async with connector(at(device)) as (made, told):
        await told.has("opened")
        await made.close()
        await device.should_hang_up()
        assert told.events == ["opened"]


@pytest.fixture(scope="module")
def certificate(tmp_path_factory) -> tuple[ssl.SSLContext, str]:
    """A server context with a certificate of its own making, and that as PEM."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "device")])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem = made.public_bytes(serialization.Encoding.PEM).decode()
    file = tmp_path_factory.mktemp("tls") / "device.pem"
    private = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    file.write_text(pem + private.decode())
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(file)
    return context, pem


@pytest.mark.parametrize("verified", [False, True, None])
async def test_tls(certificate, verified):
    """Any certificate by default; with verification only a known one."""
    context, pem = certificate

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"hello\r")
        await reader.read()
        writer.close()

    server = await asyncio.start_server(serve, "localhost", 0, ssl=context)
    port = server.sockets[0].getsockname()[1]
    address = Address(
        "localhost",
        port,
        tls=True,
        verify=verified is not False,
        ca=pem if verified else "",
    )
    async with connector(address) as (_, told):
        if verified is None:
            await told.has("unreachable")
            assert "CERTIFICATE_VERIFY_FAILED" in told.events[0]
        else:
            await told.has("message hello")
    server.close()


@given(st.integers(0, 1_000), st.floats(0, 1))
def test_pauses_grow_but_not_for_ever(attempt, luck):
    pause = backoff(attempt, luck)
    assert 0 <= pause <= LONGEST_PAUSE
    assert backoff(0, luck) == 0
    assert backoff(attempt + 1, luck) >= pause
