"""Strangers at the gate, over real sockets: refused, counted by reason, and never in the way."""

from __future__ import annotations

import asyncio
import datetime
import ipaddress
import logging
import socket
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from placeos.wire import gate as gates
from placeos.wire import link as links
from placeos.wire import tls
from placeos.wire.errors import CallError, Failure
from placeos.wire.frame import Command, FrameError, Header, encode
from placeos.wire.gate import Gate, LinkCounts
from placeos.wire.link import Hello, Link
from placeos.wire.tls import Certificates

SECRET = b"the secret of this gate"

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


async def until(condition: Callable[[], object], timeout: float = 10.0) -> None:
    async with asyncio.timeout(timeout):
        while not condition():
            await asyncio.sleep(0.005)


def echo(link: Link, header: Header, payload: bytes) -> None:
    link.reply(header.sequence, payload)


class Site:
    """A gate on loopback, and ways to it."""

    def __init__(self, certificates: Certificates | None = None) -> None:
        self.counts = LinkCounts()
        self.asked: list[Header] = []
        self.certificates = certificates
        self.gate = Gate(self.make_link, counts=self.counts, tls=certificates)
        self.port = 0
        self.clients: list[Link] = []
        self.streams: list[asyncio.StreamWriter] = []

    def make_link(self) -> Link:
        own = self.certificates.own if self.certificates is not None else b""
        return Link(self.request, secret=SECRET, certificate=own, server=True)

    def request(self, link: Link, header: Header, payload: bytes) -> None:
        self.asked.append(header)
        link.reply(header.sequence, payload)

    async def stranger(self) -> Streams:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        self.streams.append(writer)
        return reader, writer

    async def link(
        self, secret: bytes = SECRET, certificates: Certificates | None = None, own: bytes = b""
    ) -> Link:
        """Raises what the handshake raises."""
        _, link = await asyncio.get_running_loop().create_connection(
            lambda: Link(
                echo,
                hello=Hello(service="api", identity="a"),
                secret=secret,
                certificate=own or (certificates.own if certificates else b""),
            ),
            "127.0.0.1",
            self.port,
            ssl=certificates.client if certificates else None,
        )
        self.clients.append(link)
        await link.ready
        return link


@asynccontextmanager
async def opened(certificates: Certificates | None = None) -> AsyncIterator[Site]:
    site = Site(certificates)
    sock = socket.socket()
    sock.bind(("127.0.0.1", 0))
    site.port = sock.getsockname()[1]
    async with site.gate:
        site.gate.serve(sock)
        yield site
        for link in site.clients:
            link.abort(ConnectionError("over"))
        for writer in site.streams:
            writer.close()


async def ended(streams: Streams) -> bytes:
    """What the gate sent until it closed."""
    try:
        return await asyncio.wait_for(streams[0].read(), 10)
    except ConnectionError:
        return b""


async def test_who_knows_the_secret_is_let_in() -> None:
    async with opened() as site:
        link = await site.link()
        _, body = await link.request(Header(Command.EXECUTE), b"42", timeout=5)
        assert body == b"42"
        assert site.counts.snapshot() == {"open": 1, "refused": {}}
        link.close()
        await until(lambda: site.counts.open == 0)


HELLO = encode(Header(Command.HELLO), b'{"protocol":2,"nonce":"n"}')


@pytest.mark.parametrize(
    ("sent", "reason"),
    [
        (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", "oversize"),
        (b"\0\0\0\7\0\5\xc1\xc1\xc1\xc1\xc1", "garbage"),
        (b"\0\0\0\7\x00\x50", "garbage"),
        (encode(Header(Command.HELLO), b'{"nonce":"' + b"n" * 1024 + b'"}'), "oversize"),
        (encode(Header(Command.HELLO), b"\xff\xfe"), "garbage"),
        (encode(Header(Command.HELLO), b'{"protocol":0,"nonce":"n"}'), "version"),
        (encode(Header(Command.EXECUTE, 1, "mod-1", "f"), b"[]"), "unexpected"),
        (encode(Header(Command.REPLY, 1), b"[]"), "unexpected"),
        (encode(Header(Command.PROOF), bytes(32)), "unexpected"),
        (HELLO + HELLO, "unexpected"),
        (HELLO + encode(Header(Command.EXECUTE, 1, "mod-1", "f"), b"[]"), "unexpected"),
        (HELLO + encode(Header(Command.PROOF), bytes(32)), "secret"),
        (HELLO + encode(Header(Command.PROOF), b""), "secret"),
    ],
)
async def test_strangers_are_refused_and_counted(sent: bytes, reason: str) -> None:
    async with opened() as site:
        streams = await site.stranger()
        streams[1].write(sent)
        await ended(streams)
        await until(lambda: site.counts.refused)
        assert site.counts.snapshot() == {"open": 0, "refused": {reason: 1}}
        assert site.asked == []


async def test_a_wrong_secret_and_a_reflection_are_counted_apart() -> None:
    async with opened() as site:
        with pytest.raises((FrameError, OSError)):
            await site.link(b"guess")
        await until(lambda: site.counts.refused.total() == 1)
        reader, writer = await site.stranger()
        writer.write(await reader.read(4096))
        await ended((reader, writer))
        await until(lambda: site.counts.refused.total() == 2)
    # the client may find our proof wrong before we find its
    assert site.counts.refused["secret"] + site.counts.refused["left"] == 1
    assert site.counts.refused["reflected"] == 1


async def test_a_recorded_handshake_is_refused() -> None:
    async with opened() as site:
        told: list[bytes] = []

        async def record(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            """A wire tap between a member and the gate."""
            there, back = await site.stranger()

            async def down() -> None:
                while data := await there.read(4096):
                    writer.write(data)
                writer.close()

            task = asyncio.create_task(down())
            while data := await reader.read(4096):
                told.append(data)
                back.write(data)
            back.close()
            await task

        tap = await asyncio.start_server(record, "127.0.0.1", 0)
        port, site.port = site.port, tap.sockets[0].getsockname()[1]
        real, site.stranger = site.stranger, lambda: asyncio.open_connection("127.0.0.1", port)  # type: ignore[method-assign]
        link = await site.link()
        await link.request(Header(Command.PING), timeout=5)
        link.close()
        await until(lambda: site.counts.open == 0)
        tap.close()
        site.port, site.stranger = port, real  # type: ignore[method-assign]
        streams = await site.stranger()
        streams[1].write(b"".join(told))
        await ended(streams)
        await until(lambda: site.counts.refused)
        assert site.counts.refused == {"secret": 1}


async def test_a_slow_stranger_has_a_deadline_for_all_of_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(links, "HANDSHAKE_TIMEOUT", 0.6)
    async with opened() as site:
        streams = await site.stranger()
        began = time.monotonic()

        async def drip() -> None:
            for number in range(100):
                streams[1].write(HELLO[number % len(HELLO) :][:1])
                await asyncio.sleep(0.1)

        task = asyncio.create_task(drip())
        await ended(streams)
        task.cancel()
        assert time.monotonic() - began < 3
        await until(lambda: site.counts.refused == {"late": 1})


async def flood(site: Site, count: int) -> None:
    for _ in range(count):
        await site.stranger()


async def test_half_open_connections_take_no_place_from_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One address floods; who is inside goes on, and who knows the secret still comes in."""
    monkeypatch.setattr(gates, "MAX_OF_ONE", 8)
    async with opened() as site:
        inside = await site.link()
        await flood(site, 100)
        await until(lambda: site.counts.refused["crowded"] >= 92)
        assert len(site.gate._strangers) <= 8
        late = await site.link()
        for link in (inside, late):
            _, body = await link.request(Header(Command.EXECUTE), b"1", timeout=5)
            assert body == b"1"
        assert site.counts.open == 2


async def test_the_places_of_all_strangers_are_bounded_and_taken_from_the_greediest(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(gates, "MAX_STRANGERS", 10)
    async with opened() as site:
        modest = socket.socket()
        modest.bind(("127.0.0.2", 0))
        modest.setblocking(False)
        await asyncio.get_running_loop().sock_connect(modest, ("127.0.0.1", site.port))
        await until(lambda: site.gate._of["127.0.0.2"] == 1)
        await flood(site, 30)
        await until(lambda: site.counts.refused["crowded"] >= 21)
        assert len(site.gate._strangers) <= 10
        assert site.gate._of["127.0.0.2"] == 1
        modest.close()


@pytest.mark.long
async def test_thousands_of_half_open_connections() -> None:
    async with opened() as site:
        inside = await site.link()
        for _ in range(40):
            await asyncio.gather(*(site.stranger() for _ in range(50)))
        await until(lambda: site.counts.refused.total() >= 2000 - gates.MAX_OF_ONE, 30)
        assert len(site.gate._strangers) <= gates.MAX_OF_ONE
        assert len(asyncio.all_tasks()) < 200
        await site.link()
        await inside.request(Header(Command.PING), timeout=5)


async def test_the_links_that_are_let_in_are_bounded_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gates, "MAX_LINKS", 2)
    async with opened() as site:
        await site.link()
        await site.link()
        third = await site.link()
        await third.closed
        await until(lambda: site.counts.refused == {"full": 1})
        assert site.counts.open == 2


async def test_a_refusal_is_logged_now_and_then_and_never_with_what_was_sent(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG)
    async with opened() as site:
        for _ in range(20):
            streams = await site.stranger()
            streams[1].write(encode(Header(Command.EXECUTE, 1, "sesame", "sesame"), b"sesame"))
            await ended(streams)
        await until(lambda: site.counts.refused["unexpected"] == 20)
    records = [record for record in caplog.records if record.name == "placeos.wire"]
    assert len(records) == 1
    assert "sesame" not in str([vars(record) for record in caplog.records])


async def test_an_unknown_frame_of_a_member_ends_its_link_with_a_reason(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with opened() as site:
        link = await site.link()
        link.send(Header(200, 1))
        await link.closed
    assert "unexpected frame 200" in caplog.text


async def test_a_silent_link_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The other side pings; when nothing comes any more, its packets vanish."""
    monkeypatch.setattr(gates, "SILENCE", 0.5)
    monkeypatch.setattr(gates, "LOOK", 0.1)
    async with opened() as site:
        link = await site.link()
        quiet = await site.link()
        for _ in range(8):
            await link.request(Header(Command.PING), timeout=5)
            await asyncio.sleep(0.1)
        await asyncio.wait_for(quiet.closed, 5)
        assert link.is_open


# -- TLS ------------------------------------------------------------------------------------------


class Authority:
    """A certificate authority of this test."""

    def __init__(self, folder: Path, name: str) -> None:
        self.folder = folder
        self.name = name
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.file = folder / f"{name}.pem"
        certificate = self._sign(name, self.key, True)
        self.file.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))

    def _sign(
        self, subject: str, key: ec.EllipticCurvePrivateKey, authority: bool
    ) -> x509.Certificate:
        now = datetime.datetime.now(datetime.UTC)
        return (
            x509.CertificateBuilder()
            .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, subject)]))
            .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, self.name)]))
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(hours=1))
            .not_valid_after(now + datetime.timedelta(hours=1))
            .add_extension(x509.BasicConstraints(authority, None), critical=True)
            .add_extension(
                x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("10.9.8.7"))]),
                critical=False,
            )
            .sign(self.key, hashes.SHA256())
        )

    def issue(self, subject: str) -> Certificates:
        key = ec.generate_private_key(ec.SECP256R1())
        certificate, secret = (self.folder / f"{self.name}-{subject}.{part}" for part in ("c", "k"))
        certificate.write_bytes(
            self._sign(subject, key, False).public_bytes(serialization.Encoding.PEM)
        )
        secret.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
        )
        return tls.load(certificate, secret, self.file)


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path, "ours")


async def test_both_sides_show_certificates(authority: Authority) -> None:
    async with opened(authority.issue("core")) as site:
        link = await site.link(certificates=authority.issue("api"))
        _, body = await link.request(Header(Command.EXECUTE), b"x" * 3_000_000, timeout=10)
        assert len(body) == 3_000_000
        transport = link._transport
        assert transport is not None
        assert transport.get_extra_info("ssl_object").version() == "TLSv1.3"


async def refused(site: Site, attempt: Awaitable[Link]) -> str:
    """Why the gate refused; a client over TLS 1.3 may learn it only afterwards."""
    try:
        link = await attempt
        await link.closed
    except (OSError, FrameError, ssl.SSLError, TimeoutError):
        pass
    await until(lambda: site.counts.refused)
    assert site.counts.open == 0
    [reason] = site.counts.refused
    return reason


async def test_certificates_of_others_none_and_no_tls_are_refused(
    authority: Authority, tmp_path: Path
) -> None:
    others = Authority(tmp_path, "others").issue("api")
    others.client.load_verify_locations(authority.file)  # it would talk to us
    bare = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    bare.check_hostname, bare.verify_mode = False, ssl.CERT_NONE
    core = authority.issue("core")
    for certificates in (others, Certificates(bare, core.server, b"")):
        async with opened(core) as site:
            assert await refused(site, site.link(certificates=certificates)) in ("tls", "lost")
    async with opened(core) as site:
        assert await refused(site, site.link()) == "tls"


async def test_a_certificate_without_the_secret_is_not_enough(authority: Authority) -> None:
    async with opened(authority.issue("core")) as site:
        attempt = site.link(b"guess", certificates=authority.issue("api"))
        assert await refused(site, attempt) in ("secret", "left", "lost")


async def test_a_member_in_the_middle_cannot_pass_a_proof_on(authority: Authority) -> None:
    """It has a certificate but not the secret, and passes all bytes on between two members."""
    middle = authority.issue("middle")
    async with opened(authority.issue("core")) as site:
        port = site.port
        tasks: set[asyncio.Task[None]] = set()

        async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            try:
                while data := await reader.read(4096):
                    writer.write(data)
            except OSError:
                pass
            writer.close()

        async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            there, back = await asyncio.open_connection("127.0.0.1", port, ssl=middle.client)
            tasks.add(asyncio.create_task(pump(there, writer)))
            await pump(reader, back)

        server = await asyncio.start_server(relay, "127.0.0.1", 0, ssl=middle.server)
        site.port = server.sockets[0].getsockname()[1]
        attempt = site.link(certificates=authority.issue("api"))
        assert await refused(site, attempt) in ("secret", "left", "lost")
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def test_a_call_that_was_not_handed_over_is_known_not_to_have_run() -> None:
    async with opened() as site:
        link = await site.link()
        sent = asyncio.create_task(link.request(Header(Command.EXECUTE)))
        await sent
        kept: list[Header] = []
        links._turn = []  # as within the handling of received bytes: nothing is flushed yet
        try:
            link.call(Header(Command.EXECUTE), b"", lambda header, _: kept.append(header))
        finally:
            links._turn = None
        link.abort(ConnectionError("cut"))
        await link.closed
        assert [header.error for header in kept] == [Failure.NOT_RUN]
        with pytest.raises(CallError):
            await link.request(Header(Command.EXECUTE))
