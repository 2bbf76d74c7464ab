"""A core that reads slowly costs a driver process bounded memory, and no last value."""

from __future__ import annotations

import asyncio
import socket

import msgspec
import pytest

from placeos.driver.errors import Busy, DriverError
from placeos.driver.upstream import Upstream
from placeos.wire.frame import Command
from placeos.wire.link import HARD_LIMIT, HIGH_WATER, Link
from placeos.wire.messages import LogLine, StateChanges

LIMIT = 20.0


@pytest.fixture
async def links():
    """A link over a socket pair: the process's end, core's end and what arrived there."""
    arrived = []

    def on_frame(_link, header, payload):
        arrived.append((header, payload))

    ours, theirs = socket.socketpair()
    near, far = Link(on_frame), Link(on_frame, server=True)
    loop = asyncio.get_running_loop()
    for link, sock in ((near, ours), (far, theirs)):
        sock.setblocking(False)
        await loop.create_connection(lambda link=link: link, sock=sock)
    await near.ready
    await far.ready
    yield near, far, arrived
    for link in (near, far):
        link.abort(ConnectionError("the test is over"))
        await link.closed


async def eventually(condition):
    async with asyncio.timeout(LIMIT):
        while not condition():
            await asyncio.sleep(0.01)


async def test_slow_core(links):
    near, far, arrived = links
    upstream = Upstream(near)
    far._transport.pause_reading()
    for number in range(300):
        upstream.state("mod-1", [("a", b'"%06d%s"' % (number, b"x" * 100_000))])
        upstream.state("mod-1", [("b", str(number).encode())])
        upstream.state("mod-2", [("c", str(number).encode())])
        upstream.log("mod-1", 1, f"line {number} {'x' * 10_000}")
        await asyncio.sleep(0)
    assert near.buffered() < 4 * HIGH_WATER < HARD_LIMIT
    with pytest.raises(Busy):
        upstream.publish("mod-1", "a/b", "text")
    with pytest.raises(DriverError, match="at most 1048576"):
        Upstream(far).publish("mod-1", "a/b", "x" * (2 << 20))
    far._transport.resume_reading()
    state: dict[tuple[str, str], bytes] = {}

    def all_there() -> bool:
        for header, payload in arrived:
            if header.command == Command.STATE:
                for key, text in msgspec.json.decode(payload, type=StateChanges):
                    state[header.module, key] = bytes(text)
        arrived[:] = [entry for entry in arrived if entry[0].command == Command.LOG]
        newest = state.get(("mod-1", "a"), b"").startswith(b'"000299')
        return newest and state.get(("mod-1", "b")) == state.get(("mod-2", "c")) == b"299"

    await eventually(all_there)
    upstream.log("mod-1", 1, "later")
    upstream.publish("mod-1", "a/b", "text")
    await eventually(lambda: any(b"later" in payload for _, payload in arrived))
    arrived[:] = [entry for entry in arrived if entry[0].command == Command.LOG]
    lines = [msgspec.json.decode(payload, type=LogLine) for _, payload in arrived]
    assert any("lines were dropped" in line.message for line in lines)


async def test_large_changes_go_out_in_parts(links):
    near, _, arrived = links
    Upstream(near).state("mod-1", [(f"k{n}", b'"%s"' % (b"x" * 1_000_000)) for n in range(20)])
    await eventually(lambda: sum(len(msgspec.json.decode(payload)) for _, payload in arrived) == 20)
    assert len(arrived) > 1
