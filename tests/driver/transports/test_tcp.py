"""TCP: what a connection does with bytes, and with a device that misbehaves."""

from __future__ import annotations

import asyncio
import contextlib
import socket

import pytest

from placeos.driver.errors import Offline
from placeos.driver.testing import CallError, drive
from placeos.driver.transports import TCP
from placeos.driver.transports.tcp import AT_A_TIME, MAX_UNSENT


async def test_device_that_takes_nothing_is_dropped(connect, at):
    async def deaf(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.transport.pause_reading()
        await asyncio.Event().wait()

    server = await asyncio.start_server(deaf, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with connect(at(port)) as (made, told):
        await told.has("opened")
        for _ in range(100):
            try:
                made.write(b"x" * MAX_UNSENT)
            except Offline:
                break
            await asyncio.sleep(0)
        await told.has("lost: the device does not take what is sent")
    server.close()


async def test_device_that_negotiates_for_ever_and_takes_nothing_is_dropped(connect, at):
    """Each change of mind is answered, and the answers are no more than what is sent may be."""
    sent = 0

    async def undecided(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        writer.transport.pause_reading()
        with contextlib.suppress(ConnectionError):
            while sent < 100 * MAX_UNSENT:
                writer.write(b"\xff\xfd\x00\xff\xfe\x00" * 10_000)  # do it, do it not
                await writer.drain()
                sent += 60_000

    server = await asyncio.start_server(undecided, "127.0.0.1", 0)
    spec = TCP(port=1, ends_with=b"\r", telnet=True)
    async with connect(at(server.sockets[0].getsockname()[1]), spec) as (_, told):
        await told.has("lost: the device does not take what is sent")
        assert sent < 100 * MAX_UNSENT
    server.close()


async def test_endless_message_drops_the_connection(device, connect, at):
    async with connect(at(device.port)) as (_, told):
        await told.has("opened")
        await device.responds(b"x" * 2_000_000)
        await told.has("lost: more than")


@pytest.mark.parametrize("secure", [False, True])
async def test_flood_of_short_messages_leaves_the_others_their_turn(
    connect, at, told, identity, secure
):
    """What one read of the socket holds is delivered bit by bit, and completely, though the
    device has hung up long since."""
    count = 300_000

    async def flood(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"\r" * count + b"end\r")
        writer.close()

    own = identity()
    context = own.server_context() if secure else None
    server = await asyncio.start_server(flood, "127.0.0.1", 0, ssl=context)
    port = server.sockets[0].getsockname()[1]
    address = at(port, tls=secure, settings={"https_pin": own.fingerprint})
    counting = Counting()
    told.message, told.lost = counting.message, counting.lost
    async with connect(address, TCP(port=1, ends_with=b"\r"), told):
        await counting.over.wait()
        assert counting.count == count + 1
        assert counting.last == b"end"
        assert counting.most_in_a_turn <= AT_A_TIME
    server.close()


class Counting:
    """Counts messages, and how many came in one turn of the loop."""

    def __init__(self) -> None:
        self.count = self.most_in_a_turn = self._in_turn = 0
        self.last = b""
        self.over = asyncio.Event()

    def message(self, data: bytes) -> None:
        if not self._in_turn:
            asyncio.get_running_loop().call_soon(self._turn)
        self._in_turn += 1
        self.count += 1
        self.last = data

    def lost(self, reason: str) -> None:
        self.over.set()

    def _turn(self) -> None:
        self.most_in_a_turn = max(self.most_in_a_turn, self._in_turn)
        self._in_turn = 0


async def test_piece_is_not_divided_where_it_is_a_message(device, connect, at):
    async with connect(at(device.port), TCP(port=1)) as (_, told):
        await told.has("opened")
        await device.responds(b"x" * (3 * AT_A_TIME))
        await told.until(lambda _: sum(map(len, told.messages)) == 3 * AT_A_TIME)
        assert len(told.messages) < 3


async def test_frame_function_that_fails(device, connect, at):
    spec = TCP(port=1, frame=lambda head: head[99])
    async with connect(at(device.port), spec) as (_, told):
        await told.has("opened")
        await device.responds(b"x")
        await told.has("lost: the frame function failed")


async def test_match_that_fails(write_driver, device):
    """It fails who gave it, not the connection."""
    text = """
        from placeos.driver import TCP, Driver

        class Odd(Driver):
            transport = TCP(port=9, ends_with=b"\\r")

            async def wait(self) -> str:
                return (await self.receive(match=lambda data: data[99] == 1)).decode()

            async def wait_well(self) -> str:
                return (await self.receive()).decode()
    """
    async with drive(write_driver(text), device=device) as module:
        calls = module.exec("wait"), module.exec("wait_well")
        await asyncio.sleep(0.3)  # both wait now; if not yet, the message waits for them
        await device.responds(b"x\r")
        with pytest.raises(CallError, match="index out of range"):
            await calls[0]
        assert await calls[1] == "x"
        assert device.connections == 1


async def test_socket_options(device, connect, at):
    async with connect(at(device.port)) as (made, told):
        await told.has("opened")
        sock = made.connection._transport.get_extra_info("socket")
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == 60
