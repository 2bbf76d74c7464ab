"""Wake on LAN: a magic packet, as described in AMD's white paper 20213."""

from __future__ import annotations

import asyncio
import re
import socket
from typing import Final

from placeos.driver.errors import DriverError

PORT: Final = 9  # discard
EVERYBODY: Final = "255.255.255.255"


def magic_packet(mac: str) -> bytes:
    """Six bytes FF, then the address 16 times. Raises ValueError for what is no MAC address;
    any of `00:1A:2b:…`, `00-1a-…`, `001a.2b3c.…` and `001a2b…` is one."""
    digits = re.sub(r"[:.\-]", "", mac.strip())
    if not re.fullmatch(r"[0-9A-Fa-f]{12}", digits):
        raise ValueError(f"{mac!r} is no MAC address: expected 12 hexadecimal digits")
    return b"\xff" * 6 + bytes.fromhex(digits) * 16


async def wake_device(mac: str, broadcast: str = EVERYBODY, port: int = PORT) -> None:
    """Switch on a device that listens for Wake on LAN. Whether it does cannot be known.

    `broadcast` is the broadcast address of the device's network (`10.0.5.255`) if that is not
    the platform's own. Raises ValueError for a wrong MAC address, DriverError if it cannot be
    sent.
    """
    packet = magic_packet(mac)
    loop = asyncio.get_running_loop()
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.setblocking(False)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
            await loop.sock_connect(sock, (broadcast, port))
            await loop.sock_sendall(sock, packet)
    except OSError as error:
        raise DriverError(f"no wake-up for {mac} by {broadcast}:{port}: {error}") from error
