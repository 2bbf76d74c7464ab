"""What a device was not sent dies with the process; what it was sent, it gets."""

from __future__ import annotations

import asyncio
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from deaf_device import DeafDevice

from placeos.driver.fencing import sockets
from placeos.driver.transports import TCP

WRITER = """
import asyncio, sys
from placeos.driver.fencing import sockets
from placeos.driver.log import ModuleLogger
from placeos.driver.transports import TCP
from placeos.driver.transports.base import Address, Opening
{broken}
MEGABYTES = {megabytes}

async def main():
    opening = Opening(Address("127.0.0.1", int(sys.argv[1])), None, ModuleLogger("x"), None)
    connection = await TCP(port=1).open(opening)
    connection.adopt(lambda *_: sys.exit("lost"))
    for _ in range(MEGABYTES * 16):
        connection._transport.write(b"x" * 65536)  # `write` would give up such a device
    await asyncio.sleep(0.3)
    print("written", flush=True)
    await asyncio.sleep(60)

import uvloop
uvloop.run(main())
"""
LINGERS_NOT = "sockets.die_unsent = lambda sock: None"


@pytest.fixture
def device() -> Iterator[DeafDevice]:
    made = DeafDevice()
    yield made
    made.close()


@contextmanager
def writing(
    device: DeafDevice, megabytes: int, broken: str = ""
) -> Iterator[subprocess.Popen[str]]:
    """A process that has written so much to a device, by the TCP transport."""
    script = WRITER.format(megabytes=megabytes, broken=broken)
    process = subprocess.Popen(
        [sys.executable, "-c", script, str(device.port)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    try:
        device.accept()
        assert process.stdout.readline() == "written\n"
        yield process
    finally:
        process.kill()
        process.communicate()


def settled(device: DeafDevice) -> int:
    """What has arrived, once no more does."""
    before = -1
    while before != (now := device.has()):
        before = now
        time.sleep(0.1)
    return now


def test_a_kill_leaves_nothing_to_be_sent(device):
    with writing(device, 8) as process:
        arrived = settled(device)
        assert 0 < arrived < 8 << 20
        process.send_signal(signal.SIGKILL)
        process.wait(10)
        got, how = device.read()
        assert (len(got), how) == (arrived, "reset")


def test_without_that_the_kernel_goes_on_sending(device):
    """What the test above would see if the rule were broken."""
    with writing(device, 8, LINGERS_NOT) as process:
        arrived = settled(device)
        process.send_signal(signal.SIGKILL)
        process.wait(10)
        got, _ = device.read()
        assert len(got) > arrived


def test_a_stopped_process_has_little_left_with_the_kernel(device):
    """From the moment it is frozen: a segment or two, not megabytes."""
    with writing(device, 8) as process:
        arrived = settled(device)
        process.send_signal(signal.SIGSTOP)
        got = 0
        assert device.connection is not None
        device.connection.settimeout(0.5)
        try:
            while piece := device.connection.recv(65_536):
                got += len(piece)
        except TimeoutError:
            pass
        assert got - arrived < 256 * 1024


# -- the end in good order -------------------------------------------------------------------------


async def in_thread(function):
    return await asyncio.to_thread(function)


async def test_a_device_gets_all_and_then_the_usual_end(device, open_transport):
    opened = await open_transport(TCP(port=1), host="127.0.0.1", port=device.port)
    await in_thread(device.accept)
    opened.connection.write(b"x" * 500_000)
    opened.connection.finish("done")
    got, how = await in_thread(device.read)
    assert (len(got), how) == (500_000, "end")
    assert await opened.reason() == "done"


async def test_a_device_that_takes_nothing_is_reset_after_a_second(device, open_transport):
    opened = await open_transport(TCP(port=1), host="127.0.0.1", port=device.port)
    await in_thread(device.accept)
    transport = opened.connection._transport
    for _ in range(128):
        transport.write(b"x" * 65_536)
    began = time.monotonic()
    opened.connection.finish("done")
    assert await opened.reason() == "done"
    assert time.monotonic() - began < sockets.CLOSE_WITHIN + 0.5
    got, how = await in_thread(device.read)
    assert len(got) < 128 * 65_536
    assert how == "reset"


async def test_an_idle_connection_that_is_dropped_ends_as_usual(device, open_transport):
    opened = await open_transport(TCP(port=1), host="127.0.0.1", port=device.port)
    await in_thread(device.accept)
    opened.connection.drop("enough")
    assert await in_thread(device.read) == (b"", "end")


async def test_a_socket_is_prepared_before_it_connects(device):
    sock = await sockets.connected("localhost", device.port)
    with sock:
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_LINGER, 8) == b"\1\0\0\0\0\0\0\0"
        assert sockets.unsent(sock) == 0
    assert sockets.unsent(sock) == 0
