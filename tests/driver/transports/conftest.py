"""What the tests of transports share."""

from __future__ import annotations

import asyncio
import datetime
import ipaddress
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import msgspec
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from placeos.driver.log import ModuleLogger
from placeos.driver.testing import ScriptedDevice
from placeos.driver.transports import TCP, Transport
from placeos.driver.transports.base import Address
from placeos.driver.transports.connector import Connector

LIMIT = 20.0  # more than the longest pause between two attempts


class Told:
    """Remembers what the connector told, and plays the driver's hooks."""

    def __init__(self) -> None:
        self.events: list[str] = []
        self.messages: list[bytes] = []
        self._changed = asyncio.Event()

    def opened(self) -> None:
        self.add("opened")

    def message(self, data: bytes) -> None:
        self.messages.append(data)
        self.add(f"message {data.decode(errors='replace')}")

    def lost(self, reason: str) -> None:
        self.add(f"lost: {reason}")

    def unreachable(self, reason: str) -> None:
        self.add(f"unreachable: {reason}")

    def heard(self) -> None:
        self.add("heard")

    def unheard(self, reason: str) -> None:
        self.add(f"unheard: {reason}")

    async def open(self) -> None:
        self.add("open")

    async def close(self) -> None:
        self.add("close")

    async def websocket_headers(self) -> dict[str, str]:
        return {}

    def get(self, key: str) -> object:
        return None

    def add(self, event: str) -> None:
        self.events.append(event)
        self._changed.set()

    async def until(self, condition: Callable[[list[str]], bool]) -> None:
        """Wait for events."""
        async with asyncio.timeout(LIMIT):
            while not condition(self.events):
                self._changed.clear()
                await self._changed.wait()

    async def has(self, text: str, times: int = 1) -> str:
        """Wait until an event that begins with `text` came that often; returns the first."""
        try:
            await self.until(lambda events: sum(e.startswith(text) for e in events) >= times)
        except TimeoutError:
            raise AssertionError(f"no {text!r} in {self.events}") from None
        return next(event for event in self.events if event.startswith(text))


Connect = Callable[..., AbstractAsyncContextManager[tuple[Connector, Told]]]


@pytest.fixture
def connect() -> Connect:
    """Makes a started connector and what it tells."""

    @asynccontextmanager
    async def made(
        address: Address, spec: Transport | None = None, told: Told | None = None
    ) -> AsyncIterator[tuple[Connector, Told]]:
        told = told or Told()
        spec = spec or TCP(port=1, ends_with=b"\r")
        connector = Connector(spec, address, told, told, ModuleLogger("tested"))
        connector.start()
        try:
            yield connector, told
        finally:
            await connector.close()

    return made


@pytest.fixture
def told() -> Told:
    """Something to be told."""
    return Told()


@pytest.fixture
async def device() -> AsyncIterator[ScriptedDevice]:
    """A device that listens."""
    made = ScriptedDevice()
    await made.listen()
    yield made
    await made.unplug()


At = Callable[..., Address]


@pytest.fixture
def at() -> At:
    """The address of a port on this machine; `settings` are given as Python values."""

    def address(port: int, host: str = "127.0.0.1", **options: object) -> Address:
        settings = {
            name: msgspec.Raw(msgspec.json.encode(value))
            for name, value in dict(options.pop("settings", {})).items()  # type: ignore[call-overload]
        }
        return Address(host, port, settings=settings, **options)  # type: ignore[arg-type]

    return address


@dataclass(frozen=True)
class Identity:
    """A certificate of its own making with its key."""

    certificate: str  # PEM
    key: str  # PEM
    fingerprint: str  # SHA-256, hex with colons
    file: Path  # both

    def server_context(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.file)
        return context


@pytest.fixture(scope="session")
def identity(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Identity]:
    """Makes certificates for localhost and 127.0.0.1."""

    def make(name: str = "localhost", days: int = 1) -> Identity:
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "device")])
        now = datetime.datetime.now(datetime.UTC)
        names = [x509.DNSName(name)]
        if name == "localhost":
            names.append(x509.IPAddress(ipaddress.ip_address("127.0.0.1")))
        made = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(days=3))
            .not_valid_after(now + datetime.timedelta(days=days))
            .add_extension(x509.SubjectAlternativeName(names), critical=False)
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .sign(key, hashes.SHA256())
        )
        certificate = made.public_bytes(serialization.Encoding.PEM).decode()
        private = key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        ).decode()
        file = tmp_path_factory.mktemp("tls") / "device.pem"
        file.write_text(certificate + private)
        return Identity(certificate, private, made.fingerprint(hashes.SHA256()).hex(":"), file)

    return make
