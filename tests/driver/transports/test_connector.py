"""Connecting, losing and finding a device again, on real sockets."""

from __future__ import annotations

import asyncio
import socket
import time
from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st

from placeos.driver.errors import Offline
from placeos.driver.log import ModuleLogger
from placeos.driver.testing import ScriptedDevice
from placeos.driver.transports import TCP, connector
from placeos.driver.transports.base import Address
from placeos.driver.transports.connector import LONGEST_PAUSE, SCATTER, Connector, backoff
from placeos.driver.transports.turnstile import PER_TICK, TICK, Turnstile


async def test_messages_both_ways(device, connect, at):
    device.greets(b"hello\r")
    async with connect(at(device.port)) as (made, told):
        await told.has("message hello")
        assert told.events == ["opened", "message hello"]
        made.write(b"ping\r")
        await device.should_send(b"ping\r")
        await device.responds(b"one\rtwo\rthr")
        await device.responds(b"ee\r")
        await told.has("message three")


async def test_lost_and_found_again(device, connect, at):
    async with connect(at(device.port)) as (_, told):
        await told.has("opened")
        await device.hang_up()
        await told.has("lost")
        await told.has("opened", 2)
        # twice in short order: with a longer pause
        await device.hang_up()
        await told.has("lost", 2)
        await told.has("opened", 3)


async def test_port_that_nobody_listens_on(device, connect, at):
    await device.unplug()
    async with connect(at(device.port)) as (made, told):
        await told.has("unreachable", 2)
        with pytest.raises(Offline):
            made.write(b"x")
        await device.listen()
        await told.has("opened")


async def test_a_pause_can_be_cut_short(device, connect, at, monkeypatch):
    monkeypatch.setattr(connector, "backoff", lambda attempt, _: attempt * 3600.0)
    await device.unplug()
    async with connect(at(device.port)) as (made, told):
        await told.has("unreachable", 2)
        await device.listen()
        made.hasten()
        await told.has("opened")


async def test_port_of_an_unplugged_device_is_given_to_nobody_else(device, connect, at):
    await device.unplug()
    with socket.socket() as other, pytest.raises(OSError, match="in use"):
        other.bind(("127.0.0.1", device.port))
    await device.listen()
    async with connect(at(device.port)) as (_, told):
        await told.has("opened")


async def test_name_that_does_not_exist(connect):
    async with connect(Address("no-such-host.invalid", 1)) as (_, told):
        await told.has("unreachable: no-such-host.invalid:1")


async def test_connect_timeout(connect):
    """A listener whose backlog is full answers no further SYN."""
    with socket.socket() as full:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        fillers = []
        for _ in range(4):
            filler = socket.socket()
            filler.setblocking(False)
            filler.connect_ex(full.getsockname())
            fillers.append(filler)
        address = Address(*full.getsockname())
        async with connect(address, TCP(port=1, connect_timeout=0.3)) as (_, told):
            assert "no connection within 0.3 s" in await told.has("unreachable")
        for filler in fillers:
            filler.close()


async def test_address_change(device, connect, at):
    other = ScriptedDevice()
    await other.listen()
    async with connect(at(device.port)) as (made, told):
        await told.has("opened")
        made.move(at(other.port))
        await told.has("lost: the address was changed")
        await other.expect_connection(1)
    await other.unplug()


async def test_address_change_while_connecting(device, connect, at):
    """What is still given back by the old attempt is waited for: nothing is open twice."""
    steps: list[str] = []

    class Slow(TCP):
        async def open(self, opening):
            steps.append(f"open {opening.address.host}")
            if opening.address.host == "old":
                try:
                    await asyncio.Event().wait()
                finally:
                    await asyncio.sleep(0.05)
                    steps.append("given back")
            return await super().open(opening)

    async with connect(Address("old", 1), Slow(port=1)) as (made, told):
        while not steps:
            await asyncio.sleep(0)
        made.move(at(device.port))
        await told.has("opened")
    assert steps == ["open old", "given back", "open 127.0.0.1"]
    assert told.events == ["opened"]


async def test_nothing_is_connected_before_the_start(device, at, told):
    """Whatever is asked for meanwhile; and then there is one connection, not several."""
    spec = TCP(port=1, ends_with=b"\r")
    made = Connector(spec, at(1), told, told, ModuleLogger("tested"), lambda: True)
    made.want()
    made.move(at(device.port))
    made.hasten()
    assert not made.queued
    made.start()
    made.want()
    await told.has("opened")
    await device.expect_connection(1)
    await made.close()
    made.want()
    await asyncio.sleep(0.1)
    assert device.connections == 1
    assert told.events == ["opened"]


async def test_transport_that_fails_in_an_unforeseen_way(connect, at, device):
    class Odd(TCP):
        tries = 0

        async def open(self, opening):
            Odd.tries += 1
            if Odd.tries == 1:
                raise KeyError("odd")
            return await super().open(opening)

    async with connect(at(device.port), Odd(port=1)) as (_, told):
        assert "KeyError: 'odd'" in await told.has("unreachable")
        await told.has("opened")


async def test_close_ends_everything(device, connect, at):
    async with connect(at(device.port)) as (made, told):
        await told.has("opened")
        await made.close()
        await device.should_hang_up()
        assert told.events == ["opened"]


@given(st.integers(0, 1_000), st.floats(0, 1))
def test_pauses_grow_but_not_for_ever(attempt, luck):
    pause = backoff(attempt, luck)
    assert 0 <= pause <= LONGEST_PAUSE
    assert backoff(-1, luck) == 0
    assert backoff(0, luck) <= SCATTER
    assert backoff(attempt + 1, luck) >= pause


@pytest.mark.parametrize("attempt", range(8))
def test_devices_that_vanish_together_do_not_come_back_together(attempt):
    """Pauses of one attempt are spread evenly over a second, or over half the longest one."""
    pauses = sorted(backoff(attempt, luck / 999) for luck in range(1000))
    spread = pauses[-1] - pauses[0]
    assert spread >= (1.0 if attempt < 2 else pauses[-1] / 2)
    busiest = max(sum(start <= pause < start + 0.1 for pause in pauses) for start in pauses[::10])
    assert busiest <= 110


async def test_few_pass_the_turnstile_at_once():
    """However many want to; in order, and none that thought better of it."""
    gate = Turnstile(asyncio.get_running_loop())
    passed: list[int] = []
    tickets = [gate.enter(partial(passed.append, number)) for number in range(5 * PER_TICK)]
    assert passed == list(range(PER_TICK))
    tickets[PER_TICK].cancel()
    began = time.monotonic()
    while len(passed) < 5 * PER_TICK - 1:
        await asyncio.sleep(0.005)
    assert time.monotonic() - began >= 3.5 * TICK
    assert passed == [number for number in range(5 * PER_TICK) if number != PER_TICK]
