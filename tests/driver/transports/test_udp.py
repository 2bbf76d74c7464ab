"""UDP to a device, to a network and to a group."""

from __future__ import annotations

import asyncio
import socket
import struct
from pathlib import Path

import msgspec
import pytest

from placeos.driver.testing import CallError, ScriptedUDP, drive
from placeos.driver.transports import UDP, Datagram
from placeos.wire.frame import Command, Header

CAMERA = """
    from placeos.driver import UDP, Datagram, Driver, Settings, every

    class CameraSettings(Settings):
        poll_every: float = 0

    class Camera(Driver[CameraSettings]):
        transport = UDP(port=9, ends_with=b"\\xff")

        async def connected(self):
            self["hooks"] = [*self.get("hooks", []), "connected"]

        async def disconnected(self):
            self["hooks"] = [*self.get("hooks", []), "disconnected"]

        async def received(self, data: bytes):
            self["heard"] = data.decode()

        @every("poll_every")
        async def poll(self):
            self["polled"] = self.get("polled", 0) + 1
            await self.send(b"poll", retries=0, timeout=0.2)

        async def ask(self, what: str, patience: float = 2) -> str:
            reply = await self.send(what.encode(), timeout=patience, retries=1)
            return reply.decode()
"""


async def test_requests_and_what_comes_by_itself(write_driver):
    device = ScriptedUDP()
    async with drive(write_driver(CAMERA), device=device) as module:
        await module.status("hooks", ["connected"])
        assert module.defaults.udp_port == 9
        call = module.exec("ask", "zoom")
        await device.should_send(b"zoom")
        await device.responds(b"1\xffnews\xffhalf")  # a half message is none
        assert await call == "1"
        await module.status("heard", "news")
        await device.responds(b"")  # an empty one is nothing
        device.answers(b"pan", b"2\xff")
        assert await module.exec("ask", "pan") == "2"


async def test_device_that_is_away_and_returns(write_driver):
    device = ScriptedUDP()
    file = write_driver(CAMERA)
    async with drive(file, device=device, settings={"poll_every": 0.3}) as module:
        await device.unplug()  # the kernel refuses what is sent there
        await module.status("connected", False)
        await module.status("hooks", ["connected", "disconnected"])
        polled = module.state["polled"]
        await module.core.until(lambda: module.state["polled"] >= polled + 2, 10)
        with pytest.raises(CallError, match="did not answer") as caught:
            await module.exec("ask", "zoom", 0.2)
        assert caught.value.kind == "NoReply"
        device.answers(b"poll", b"ok\xff")
        await device.listen()
        await module.status("hooks", ["connected", "disconnected", "connected"])


async def test_device_that_is_silent(write_driver):
    device = ScriptedUDP()
    async with drive(write_driver(CAMERA), device=device) as module:
        with pytest.raises(CallError, match="did not answer"):
            await module.exec("ask", "zoom", 0.2)
        await module.status("connected", False)
        assert [fault for fault in module.core.faults if "connect" in fault] == []
        call = module.exec("ask", "zoom", 0.5)  # goes out all the same
        for _ in range(3):
            await device.should_send(b"zoom")
        await device.responds(b"1\xff")
        assert await call == "1"
        await module.status("hooks", ["connected", "disconnected", "connected"])


async def test_name_that_does_not_exist(write_driver):
    class Nowhere(ScriptedUDP):
        def introduce(self, start, defaults):
            super().introduce(start, defaults)
            start.ip, start.port = "no-such-host.invalid", 9

    async with drive(write_driver(CAMERA), device=Nowhere(), connected=False) as module:
        await module.fault("cannot connect: no-such-host.invalid:9")
        with pytest.raises(CallError, match="not connected: no-such-host"):
            await module.exec("ask", "zoom", 0.2)


async def test_only_the_device_is_heard(open_transport):
    with (
        socket.socket(type=socket.SOCK_DGRAM) as device,
        socket.socket(type=socket.SOCK_DGRAM) as other,
    ):
        for sock in (device, other):
            sock.bind(("127.0.0.1", 0))
        opened = await open_transport(UDP(port=1), host="localhost", port=device.getsockname()[1])
        opened.heard = lambda: None
        opened.connection.write(b"x")
        ours = await asyncio.to_thread(lambda: device.recvfrom(10)[1])
        other.sendto(b"wrong", ours)
        device.sendto(b"right", ours)
        await opened.says(b"right")
        assert not isinstance(opened.messages[0], Datagram)


async def test_local_port(open_transport):
    with socket.socket(type=socket.SOCK_DGRAM) as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with socket.socket(type=socket.SOCK_DGRAM) as device:
        device.bind(("127.0.0.1", 0))
        opened = await open_transport(
            UDP(port=1, local_port=port), host="127.0.0.1", port=device.getsockname()[1]
        )
        opened.heard = lambda: None
        device.sendto(b"hello", ("127.0.0.1", port))  # without being asked
        await opened.says(b"hello")


async def test_broadcast(open_transport):
    with socket.socket(type=socket.SOCK_DGRAM) as device:
        device.bind(("0.0.0.0", 0))
        port = device.getsockname()[1]
        opened = await open_transport(UDP(port=1), host="127.255.255.255", port=port)
        opened.heard = lambda: None
        opened.connection.write(b"who is there")
        data, ours = await asyncio.to_thread(device.recvfrom, 100)
        assert data == b"who is there"
        device.sendto(b"I am", ("127.0.0.1", ours[1]))
        await opened.says(b"I am")
        assert opened.messages[0].sender == ("127.0.0.1", port)


@pytest.mark.parametrize("interface", ["127.0.0.1", "lo"])
async def test_multicast(open_transport, interface):
    group = "239.255.77.7"
    spec = UDP(port=1, loopback=True)
    settings = {"multicast_interface": interface, "multicast_hops": 2}
    with socket.socket(type=socket.SOCK_DGRAM) as device:
        device.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        device.bind(("", 0))
        port = device.getsockname()[1]
        member = socket.inet_aton(group) + socket.inet_aton("127.0.0.1")
        device.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, member)
        device.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton("127.0.0.1"))
        opened = await open_transport(spec, host=group, port=port, settings=settings)
        opened.heard = lambda: None
        sock = opened.connection._transport.get_extra_info("socket")
        assert sock.getsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL) == 2
        opened.connection.write(b"who is there")
        data, _ = await asyncio.to_thread(device.recvfrom, 100)
        assert data == b"who is there"
        device.sendto(b"I am", (group, port))
        await opened.until(lambda: b"I am" in opened.messages)
        answer = next(data for data in opened.messages if data == b"I am")
        assert answer.sender == ("127.0.0.1", port)


def link_with_ipv6() -> str:
    """An interface that takes part in multicast; the loopback one does not as a rule."""
    for line in Path("/proc/net/if_inet6").read_text().splitlines():
        address, *_, name = line.split()
        if address.startswith("fe80"):
            return name
    pytest.skip("no interface has an IPv6 address of its link")


async def test_multicast_ipv6(open_transport):
    group = "ff02::4d07"
    interface = link_with_ipv6()
    index = socket.if_nametoindex(interface)
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as device:
        device.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        device.bind(("::", 0))
        port = device.getsockname()[1]
        member = socket.inet_pton(socket.AF_INET6, group) + struct.pack("@I", index)
        device.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_JOIN_GROUP, member)
        spec = UDP(port=1, loopback=True)
        settings = {"multicast_hops": 0}  # it does not leave this machine
        opened = await open_transport(
            spec, host=f"{group}%{interface}", port=port, settings=settings
        )
        opened.heard = lambda: None
        opened.connection.write(b"who is there")
        data, _ = await asyncio.to_thread(device.recvfrom, 100)
        assert data == b"who is there"


async def test_interface_that_is_none(open_transport):
    with pytest.raises(ValueError, match="no network interface 'none0'"):
        await open_transport(
            UDP(port=1), host="239.1.1.1", port=9, settings={"multicast_interface": "none0"}
        )


async def test_tls_is_refused(open_transport):
    with pytest.raises(ValueError, match="TLS is not spoken over UDP"):
        await open_transport(UDP(port=1), host="127.0.0.1", port=9, tls=True)


async def test_record_that_says_udp_to_a_driver_on_tcp(write_driver):
    text = CAMERA.replace("UDP(port=9", "TCP(port=9").replace("import UDP", "import TCP")
    async with drive(write_driver(text)) as module:
        record = {"id": "m2", "name": "C", "role": 1, "ip": "127.0.0.1", "port": 9, "udp": True}
        with pytest.raises(CallError, match="says udp, but its driver speaks TCP"):
            await module.core.ask(Header(Command.START), msgspec.json.encode(record), 5)
