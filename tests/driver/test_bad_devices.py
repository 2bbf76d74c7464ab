"""Devices that misbehave, and what the guide promises of each ("What happens when a device …").

The driver process is the real one; so are the sockets. A well-behaved module of the same driver
runs beside where the bad one might get in its way.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
import time
from collections.abc import Callable
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from bad_line import METER, MIB, PATIENCE, Serve, line_to, memory, reset, until_eof

from placeos.driver.testing import CallError, drive

ALLOWED = 24 * MIB  # what a process may grow by, whatever a device sends


@pytest.fixture
def bad(write_driver: Callable[[str], Path]) -> Callable[[Serve], Any]:
    """Runs a module against a device that behaves as `serve` says."""
    return partial(line_to, write_driver(METER))


# -- what it sends --------------------------------------------------------------------------


async def test_garbage(bad):
    """It becomes messages of garbage, which match nothing; nothing else is disturbed."""
    noise = random.Random(1).randbytes(MIB)
    sent = asyncio.Event()

    async def serve(reader, writer):
        for _ in range(8):
            writer.write(noise)
            await writer.drain()
        sent.set()
        await reader.readuntil(b"\r")
        writer.write(b"\xff\xfe\x00\rOK 7\r")
        await until_eof(reader)

    async with bad(serve) as line:
        await line.start_neighbour()
        await asyncio.wait_for(sent.wait(), PATIENCE)
        assert await line.ask("level?", PATIENCE, expected="OK 7") == "OK 7"
        facts = await line.until(times=1, lost=0)
        assert "\ufffd" in "".join(facts["news"])
        await line.neighbour_is_well()


async def test_flood_of_delimiters(bad):
    """A million empty messages at once: some are dropped, which is said, and others go on."""

    async def serve(reader, writer):
        for _ in range(10):
            writer.write(b"\r" * 100_000)
            await writer.drain()
        await reader.readuntil(b"\r")
        writer.write(b"OK\r")
        await until_eof(reader)

    async with bad(serve) as line:
        await line.start_neighbour()
        await line.until(times=1)
        assert await line.ask("level?", PATIENCE, expected="OK") == "OK"
        await line.module.expect_log("it sends faster than `received` takes it")
        await line.neighbour_is_well()
        assert line.connections == 1


async def test_line_of_100_megabytes(bad):
    """The connection is dropped after one; memory stays where it was."""
    sent = 0

    async def serve(reader, writer):
        nonlocal sent
        for _ in range(100):
            writer.write(b"x" * MIB)
            await writer.drain()
            sent += 1
        await until_eof(reader)

    async with bad(serve) as line:
        await line.start_neighbour()
        pid = dict(await line.neighbour("facts"))["pid"]
        before = memory(pid, "VmRSS")
        await line.lost("more than 1048576 bytes without the end of a message")
        async with asyncio.timeout(PATIENCE):
            while line.connections < 2:  # and once more
                await asyncio.sleep(0.05)
        assert memory(pid, "VmHWM") - before < ALLOWED
        assert sent < 100
        await line.neighbour_is_well()


async def test_half_messages(bad):
    """They wait for the rest, and are forgotten with the connection."""

    async def serve(reader, writer):
        assert await reader.readuntil(b"\r") == b"level?\r"
        for piece in (b"O", b"K 7", b"\rO"):
            writer.write(piece)
            await asyncio.sleep(0.1)
        if line.connections == 1:
            return  # with half a message said
        writer.write(b"K 8\r")
        await until_eof(reader)

    async with bad(serve) as line:
        await line.until(times=1)
        assert await line.ask("level?", 10) == "OK 7"
        await line.lost("closed by the device")
        await line.until(times=2)
        assert await line.ask("level?", 10) == "OK 7"
        await line.until(news=["OK 8"])


async def test_answer_in_drops(bad):
    """It counts once it is complete. What takes longer than the time-out is no answer."""
    pause = 0.05

    async def serve(reader, writer):
        while True:
            await reader.readuntil(b"\r")
            for byte in b"OK 7\r":
                writer.write(bytes((byte,)))
                await asyncio.sleep(pause)

    async with bad(serve) as line:
        await line.until(times=1)
        assert await line.ask("level?", 10) == "OK 7"
        pause = 0.5
        with pytest.raises(CallError, match=r"did not answer the command within 0\.3 s"):
            await line.ask("level?", 0.3)
        await line.lost("the device does not answer")


# -- whether and when it answers ------------------------------------------------------------


async def test_no_answer_at_all(bad):
    """NoReply after all attempts; then the connection is taken for dead."""
    requests: list[bytes] = []

    async def serve(reader, writer):
        while True:
            requests.append(await reader.readuntil(b"\r"))

    async with bad(serve) as line:
        await line.until(times=1)
        began = time.monotonic()
        with pytest.raises(CallError, match=r"within 0\.2 s \(3 attempts\)") as caught:
            await line.ask("level?", 0.2, 2)
        assert caught.value.kind == "NoReply"
        assert time.monotonic() - began >= 0.55
        assert requests == [b"level?\r"] * 3
        await line.lost("the device does not answer")
        await line.until(times=2, lost=1)


async def test_answer_that_is_late(bad):
    """With `match` it is nobody's; without, the next command gets it."""
    said = asyncio.Event()

    async def serve(reader, writer):
        while True:
            request = await reader.readuntil(b"\r")
            number = request.removeprefix(b"q").strip()
            if number in (b"1", b"3"):
                writer.write(b"still here\r")
                await said.wait()
            writer.write(b"a" + number + b"\r")

    async with bad(serve) as line:
        await line.until(times=1)
        for first, expected, answer in ((1, "a2", "a2"), (3, "", "a3")):
            said.clear()
            with pytest.raises(CallError, match="did not answer"):
                await line.ask(f"q{first}", 0.3, expected="never")
            call = asyncio.create_task(line.ask(f"q{first + 1}", 10, expected=expected))
            await asyncio.sleep(0.2)
            said.set()
            assert await call == answer
        facts = await line.until(news=["still here", "a1", "still here", "a4"])
        assert facts["times"] == 1  # it was heard of: no reason to drop the connection


async def test_answer_that_comes_twice(bad):
    """The second one answers nothing: it goes to `received`, not to a command that follows and
    says what it expects."""

    async def serve(reader, writer):
        while True:
            request = await reader.readuntil(b"\r")
            writer.write(b"a" + request[1:] * 2 if request == b"q1\r" else b"a1\ra1\ra2\r")

    async with bad(serve) as line:
        await line.until(times=1)
        assert await line.ask("q1") == "a1"
        assert await line.ask("q2", expected="a2") == "a2"
        await line.until(news=["1", "a1", "a1"])


# -- what it does with the connection -------------------------------------------------------


@pytest.mark.parametrize("how", ["closes", "resets"])
async def test_hangs_up_in_the_middle_of_an_answer(bad, how):
    """A command without a name is over; one with a name goes out on the next connection."""

    async def serve(reader, writer):
        while True:
            await reader.readuntil(b"\r")
            if line.connections < 3:
                writer.write(b"O")
                await writer.drain()
                if how == "resets":
                    reset(writer)
                return
            writer.write(b"K 7\r")

    async with bad(serve) as line:
        await line.until(times=1)
        reason = "closed by the device" if how == "closes" else "Connection reset"
        with pytest.raises(CallError, match=reason) as caught:
            await line.ask("level?", 10, 3)
        assert caught.value.kind == "Offline"
        await line.until(times=2)
        assert await line.ask("level?", 10, 3, name="level") == "K 7"
        assert line.connections == 3


async def test_hangs_up_after_what_it_said_by_itself(bad):
    """It is all read, though the hook takes its time; nothing of it is left for the next one."""

    async def serve(reader, writer):
        number = line.connections
        writer.write(f"\r{number}a\r\r{number}b\r".encode())  # the hook is slow on empty ones
        if number == 2:
            await until_eof(reader)

    async with bad(serve) as line:
        await line.until(times=2, lost=1, news=["", "1a", "", "1b", "", "2a", "", "2b"])


async def test_comes_and_goes(bad):
    """It is reported each time, and tried more and more rarely."""
    opened: list[float] = []

    async def serve(reader, writer):
        opened.append(time.monotonic())
        await asyncio.sleep(0.2)

    async with bad(serve) as line:
        facts = await line.until(times=4, lost=4)
        assert facts["news"] == []
    pauses = [after - before - 0.2 for before, after in pairwise(opened)]
    assert pauses[1] >= 0.95
    assert pauses[2] >= 1.95


async def test_takes_nothing(bad):
    """What it does not take is kept up to a limit; then the connection is dropped."""

    async def serve(reader, writer):
        writer.transport.pause_reading()
        await asyncio.sleep(PATIENCE)

    async with bad(serve) as line:
        pid = (await line.until(times=1))["pid"]
        before = memory(pid, "VmRSS")
        with pytest.raises(CallError, match="does not take what is sent"):
            await line.module.exec("pour", 50, timeout=PATIENCE)
        await line.lost("the device does not take what is sent")
        assert memory(pid, "VmHWM") - before < ALLOWED


async def test_never_accepts(bad, write_driver):
    """Its queue of connections is full: an attempt gives up after ten seconds, and says so."""
    with socket.socket() as full:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        port = full.getsockname()[1]
        async with contextlib.AsyncExitStack() as stack:
            for _ in range(4):
                filler = stack.enter_context(socket.socket())
                filler.setblocking(False)
                filler.connect_ex(full.getsockname())
            text = METER.replace("port=9,", "port=9, connect_timeout=0.5,")
            driven = drive(write_driver(text), port=port, connected=False)
            module = await stack.enter_async_context(driven)
            await module.fault("no connection within 0.5 s")
            with pytest.raises(CallError) as caught:
                await module.exec("ask", "level?")
            assert caught.value.kind == "Offline"
