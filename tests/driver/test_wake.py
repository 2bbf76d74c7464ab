"""Wake on LAN: the packet, and that it really leaves."""

from __future__ import annotations

import asyncio
import socket

import pytest

from placeos.driver import DriverError, wake_device
from placeos.driver.wake import magic_packet

PACKET = b"\xff" * 6 + b"\x00\x1a\x2b\x3c\x4d\x5e" * 16


@pytest.mark.parametrize(
    "mac",
    ["00:1A:2b:3c:4d:5e", "00-1a-2b-3c-4d-5e", "001a.2b3c.4d5e", "001A2B3C4D5E", " 001a2b3c4d5e "],
)
def test_packet(mac):
    assert magic_packet(mac) == PACKET


@pytest.mark.parametrize("mac", ["", "00:1a:2b:3c:4d", "00:1a:2b:3c:4d:5g", "00:1a:2b:3c:4d:5e:6f"])
async def test_what_is_no_address(mac):
    with pytest.raises(ValueError, match="is no MAC address: expected 12 hexadecimal digits"):
        await wake_device(mac)


async def test_it_is_broadcast():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.255.255.255", 0))  # what is broadcast in the loopback network
        sock.setblocking(False)
        await wake_device("00:1a:2b:3c:4d:5e", "127.255.255.255", sock.getsockname()[1])
        async with asyncio.timeout(20):
            assert await asyncio.get_running_loop().sock_recv(sock, 1000) == PACKET


async def test_it_cannot_be_sent():
    with pytest.raises(DriverError, match="no wake-up for 00:1a:2b:3c:4d:5e by ::1:9"):
        await wake_device("00:1a:2b:3c:4d:5e", "::1")
