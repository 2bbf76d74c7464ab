"""What a module's record says about its device, and what becomes of a changed one."""

from __future__ import annotations

from types import SimpleNamespace

import msgspec
import pytest

from placeos.driver.errors import DriverError
from placeos.driver.record import address_of, transport_for
from placeos.driver.testing import ScriptedDevice, ScriptedUDP, drive
from placeos.driver.transports import HTTP, SSH, TCP, UDP, Serial, Service, WebSocket
from placeos.wire.frame import Command, Header
from placeos.wire.messages import ModuleStart

TCP_ONE, UDP_ONE, SERIAL_ONE = TCP(port=1), UDP(port=2), Serial(port=3)
SHELL, HTTP_ONE, SOCKET = SSH(port=22), HTTP("https://x"), WebSocket("wss://x")
BROKER = Service("mqtt://x")


def record(role: int, **fields: object) -> ModuleStart:
    settings = {key: msgspec.Raw(b"{}") for key in fields.pop("settings", ())}  # type: ignore[attr-defined]
    defaults = {"ip": "192.0.2.1", "port": 9} | fields
    return ModuleStart(id="m", name="M", role=role, settings=settings, **defaults)  # type: ignore[arg-type]


def chosen(declared: object, start: ModuleStart) -> object:
    blueprint = SimpleNamespace(cls=SimpleNamespace(transport=declared))
    return transport_for(blueprint, start)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("start", "expected"),
    [
        (record(0), SHELL),
        (record(1), TCP_ONE),
        (record(1, udp=True), UDP_ONE),
        (record(1, settings=["serial"]), SERIAL_ONE),
        (record(2, ip="", port=0), HTTP_ONE),
        (record(3, uri="wss://y"), SOCKET),
    ],
)
def test_record_picks_among_alternatives(start, expected):
    declared = UDP_ONE | TCP_ONE | SERIAL_ONE | SHELL | HTTP_ONE | BROKER | SOCKET
    assert chosen(declared, start) is expected


@pytest.mark.parametrize(
    ("declared", "start", "words"),
    [
        (None, record(1), r"the driver is logic \(role 99\), its record says role 1"),
        (TCP_ONE, record(99), r"a device on TCP \(role 1\), its record says role 99"),
        (TCP_ONE | SHELL, record(3), r"a device on TCP or SSH \(role 1\)"),
        (TCP_ONE, record(1, udp=True), "says udp, but its driver speaks TCP"),
        (TCP_ONE, record(1, ip=""), "no ip or port"),
        (SHELL, record(0, port=0), "no ip or port"),
        (HTTP(), record(2), "no uri"),
    ],
)
def test_record_that_does_not_fit(declared, start, words):
    with pytest.raises(DriverError, match=words) as caught:
        chosen(declared, start)
    assert caught.value.code == 400


def test_logic_has_no_transport():
    assert chosen(None, record(99, ip="", port=0)) is None


def test_addresses_differ_when_a_new_connection_is_needed():
    address = address_of(record(1, settings=["ssh", "poll_every"]))
    assert address == address_of(record(1, settings=["ssh"]))
    for other in (
        record(1),
        record(1, settings=["ssh", "https_pin"]),
        record(1, settings=["ssh"], tls=True),
        record(1, settings=["ssh"], port=10),
    ):
        assert address != address_of(other)


def test_address_tells_no_secret():
    address = address_of(record(2, uri="https://me:secret@host:8/path?token=secret#secret"))
    assert str(address) == "https://host:8/path"
    assert "secret" not in repr(address_of(record(1, settings=["ssh"])).settings) + str(address)


METER = """
    from placeos.driver import TCP, UDP, Driver

    class Meter(Driver):
        transport = TCP(port=9, ends_with=b"\\r") | UDP(port=9, ends_with=b"\\r")

        async def connected(self):
            self["online"] = self.get("online", 0) + 1

        async def ask(self) -> str:
            return (await self.send("level?")).decode()
"""


async def test_another_transport_means_another_device(write_driver):
    tcp, udp = ScriptedDevice(), ScriptedUDP()
    tcp.answers(b"level?\r", b"tcp\r")
    await udp.listen()
    udp.answers(b"level?\r", b"udp\r")
    async with drive(write_driver(METER), device=tcp) as module:
        assert await module.exec("ask") == "tcp"
        start = msgspec.structs.replace(module._start, udp=True, port=udp.port)
        await module.core.ask(Header(Command.UPDATE), msgspec.json.encode(start), 5)
        await tcp.should_hang_up()
        await module.status("online", 2)
        assert await module.exec("ask") == "udp"
        makebreak = msgspec.structs.replace(module._start, makebreak=True)
        await module.core.ask(Header(Command.UPDATE), msgspec.json.encode(makebreak), 5)
        await module.status("online", 3)
        assert tcp.connections == 1
        assert await module.exec("ask") == "tcp"
        await tcp.should_hang_up()
    await udp.unplug()
