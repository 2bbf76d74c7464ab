"""TLS to devices, whose certificates are rarely what a browser would like."""

from __future__ import annotations

import asyncio
import json
import re
import ssl
import subprocess
import sys
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import msgspec
import pytest
from cryptography.hazmat.primitives import serialization

from placeos.driver.errors import InvalidSettings
from placeos.driver.testing import CallError, ScriptedDevice, drive
from placeos.driver.transports import TCP, tls
from placeos.wire.frame import Command, Header

CONFINED = """
import json, os, sys
from msgspec import Raw
from placeos.driver.confinement.confine import Confine, confine
from placeos.driver.transports import tls
from placeos.driver.transports.base import Address

folder, texts = json.loads(sys.argv[1])
parent = os.getpid()
if child := os.fork():
    sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
confine(Confine(folder=folder), folder + "/driver.py", parent)
tls.context_of(Address(settings={name: Raw(json.dumps(text)) for name, text in texts.items()}))
"""


@asynccontextmanager
async def served(context: ssl.SSLContext, greeting: bytes = b"hello\r"):
    """A TLS server; yields its port and what it was sent after handshakes."""
    sent = bytearray()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(greeting)
        while data := await reader.read(4096):
            sent.extend(data)
        writer.close()

    server = await asyncio.start_server(serve, "localhost", 0, ssl=context)
    try:
        yield server.sockets[0].getsockname()[1], sent
    finally:
        server.close()


@pytest.fixture(scope="session")
def own(identity):
    return identity()


@pytest.fixture
def reach(connect, at):
    """Connects with settings and returns the first thing that is told."""

    async def go(port: int, host: str = "localhost", **settings: object) -> str:
        address = at(port, host, tls=True, settings=settings)
        async with connect(address, TCP(port=1, ends_with=b"\r")) as (_, told):
            await told.until(bool)
            if told.events[0] == "opened":
                return await told.has("message")
            return told.events[0]

    return go


async def test_unknown_certificate_is_refused_and_the_remedies_are_named(own, reach):
    async with served(own.server_context()) as (port, _):
        told = await reach(port)
        assert told.startswith(f"unreachable: localhost:{port}: the device's certificate is ref")
        assert "self-signed" in told or "self signed" in told
        for remedy in ("https_pin", "https_ca_certificates", "https_verify"):
            assert remedy in told


async def test_each_module_by_its_own_settings(own, write_driver):
    """From the refusal to the remedy, as an administrator meets them, in one driver process."""
    text = """
        from placeos.driver import TCP, Driver

        class Meter(Driver):
            transport = TCP(port=9, ends_with=b"\\r")

            async def ask(self) -> str:
                return (await self.send("level?")).decode()
    """
    device = ScriptedDevice(ssl=own.server_context())
    device.answers(b"level?\r", b"7\r")
    async with drive(write_driver(text), device=device, connected=False) as module:
        fault = await module.fault("the device's certificate is refused")
        assert "https_pin" in fault
        with pytest.raises(CallError, match="not connected"):
            await module.exec("ask")
        await module.update(https_pin="0" * 64)
        fault = await module.fault("is not the pinned one")
        pin = re.search(r"fingerprint is ([0-9a-f:]+)", fault)[1]
        await module.update(https_pin=pin)  # as that one says
        await module.status("connected", True)
        assert await module.exec("ask") == "7"
        # another module of the same process, to the same device, is none the wiser
        start = msgspec.structs.replace(module._start, id="mod-second", settings={})
        faults = len(module.core.faults)
        await module.core.ask(Header(Command.START), msgspec.json.encode(start), 5)
        await module.core.until(lambda: len(module.core.faults) > faults, 10)
        assert "certificate is refused" in module.core.faults[-1]
        assert await module.exec("ask") == "7"


@pytest.mark.parametrize("value", ["none", 0])
async def test_verification_can_be_given_up(own, reach, value):
    async with served(own.server_context()) as (port, _):
        assert await reach(port, https_verify=value) == "message hello"


@pytest.mark.parametrize("value", ["peer", 1, "all", None])
async def test_authority_of_ones_own(own, reach, value):
    async with served(own.server_context()) as (port, _):
        settings = {"https_ca_certificates": own.certificate, "https_verify": value}
        assert await reach(port, **settings) == "message hello"
        assert await reach(port, "127.0.0.1", **settings) == "message hello"


async def test_name_and_validity_count(identity, reach):
    other = identity("other.example")
    async with served(other.server_context()) as (port, _):
        told = await reach(port, https_ca_certificates=other.certificate)
        assert "not valid for 'localhost'" in told
    old = identity(days=-1)
    async with served(old.server_context()) as (port, _):
        told = await reach(port, https_ca_certificates=old.certificate)
        assert "certificate has expired" in told


@pytest.mark.parametrize("form", ["colons", "plain", "openssl", "list", "lines"])
async def test_pin(own, reach, form):
    pin = own.fingerprint
    other = "0" * 64
    setting = {
        "colons": pin.upper(),
        "plain": pin.replace(":", ""),
        "openssl": f"SHA256 Fingerprint={pin}",
        "list": [other, pin],
        "lines": f"{other}\n{pin}\n",
    }[form]
    async with served(own.server_context()) as (port, _):
        assert await reach(port, "127.0.0.1", https_pin=setting) == "message hello"


async def test_wrong_pin_ends_the_handshake(own, reach, at):
    async with served(own.server_context()) as (port, sent):
        settings = {"https_pin": "ab" * 32, "https_ca_certificates": own.certificate}
        told = await reach(port, **settings)
        assert "not the pinned one" in told
        assert own.fingerprint in told
        context = tls.context_of(at(port, settings=settings))
        async with httpx.AsyncClient(verify=context) as client:
            with pytest.raises(httpx.ConnectError) as caught:
                await client.get(f"https://localhost:{port}/secret")
        assert "not the pinned one" in tls.explain(caught.value)
        assert not sent, "something was sent to a device that is another one"


async def test_device_that_wants_to_know_who_asks(own, identity, reach):
    client = identity("client")
    context = own.server_context()
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_verify_locations(cadata=client.certificate)
    context.maximum_version = ssl.TLSVersion.TLSv1_2  # 1.3 tells of a refusal only later
    settings = {"https_pin": own.fingerprint}
    async with served(context) as (port, _):
        assert (await reach(port, **settings)).startswith("unreachable")
        settings |= {"https_client_cert": client.certificate, "https_private_key": client.key}
        assert await reach(port, **settings) == "message hello"


async def test_device_without_tls(device, reach):
    device.greets(b"220 ready\r\n")
    assert "does not speak TLS" in await reach(device.port)


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion:DeprecationWarning")
async def test_old_device(own, reach):
    context = own.server_context()
    context.minimum_version = ssl.TLSVersion.TLSv1
    context.maximum_version = ssl.TLSVersion.TLSv1_1
    context.set_ciphers("ALL:@SECLEVEL=0")
    async with served(context) as (port, _):
        told = await reach(port, https_pin=own.fingerprint)
        assert "https_insecure" in told
        told = await reach(port, https_pin=own.fingerprint, https_insecure=True)
        assert told == "message hello"


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"https_verify": "maybe"}, "'https_verify'"),
        ({"https_pin": "AB:CD"}, "64 hex digits, got 4"),
        ({"https_pin": ["x" * 64]}, "64 hex digits"),
        ({"https_ca_certificates": "no PEM"}, "'https_ca_certificates'"),
        ({"https_client_cert": "x"}, "go together"),
        ({"https_client_cert": "x", "https_private_key": "y"}, "not a PEM certificate"),
    ],
)
def test_settings_that_are_wrong(at, settings, words):
    with pytest.raises((ValueError, InvalidSettings), match=words):
        tls.context_of(at(1, settings=settings))


def test_key_with_a_password(at, own):
    key = serialization.load_pem_private_key(own.key.encode(), None)
    locked = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.BestAvailableEncryption(b"secret"),
    ).decode()
    settings = {"https_client_cert": own.certificate, "https_private_key": locked}
    with pytest.raises(ValueError, match="protected by a password"):
        tls.context_of(at(1, settings=settings))


def test_no_key_is_left_in_a_file(at, identity, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    client = identity("client")  # a new one: nothing comes from the cache
    before = {entry.name for entry in Path("/proc/self/fd").iterdir()}
    settings = {"https_client_cert": client.certificate, "https_private_key": client.key}
    tls.context_of(at(1, settings=settings))
    assert not list(tmp_path.iterdir())
    assert {entry.name for entry in Path("/proc/self/fd").iterdir()} <= before


def test_confined_process_shows_a_certificate(identity, tmp_path):
    client = identity("client")
    texts = {"https_client_cert": client.certificate, "https_private_key": client.key}
    given = json.dumps([str(tmp_path), texts])
    done = subprocess.run([sys.executable, "-P", "-c", CONFINED, given], capture_output=True)
    assert done.returncode == 0, done.stderr.decode()


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion:DeprecationWarning")
def test_contexts_are_shared_only_by_equal_settings(at, own):
    context = tls.context_of(at(1, settings={"https_pin": own.fingerprint, "ssh": {}}))
    same = tls.context_of(at(2, "other", settings={"https_pin": own.fingerprint}))
    assert context is same
    others = [
        {},
        {"https_verify": "none"},
        {"https_pin": "0" * 64},
        {"https_pin": own.fingerprint, "https_insecure": True},
    ]
    assert len({id(tls.context_of(at(1, settings=settings))) for settings in others}) == 4
    assert context not in [tls.context_of(at(1, settings=settings)) for settings in others]
    default = tls.context_of(at(1))
    assert default.verify_mode is ssl.CERT_REQUIRED
    assert default.check_hostname
