"""The projector simulator against aiopjlink, an independent client library, and the spec."""

import asyncio
import time
from types import SimpleNamespace

import pytest
from aiopjlink import (
    PJClass,
    PJLink,
    PJLinkConnectionClosed,
    PJLinkERR1,
    PJLinkERR2,
    PJLinkERR3,
    PJLinkException,
    PJLinkPassword,
)
from aiopjlink.projector import Errors, Power, Sources
from hypothesis import example, given
from hypothesis import strategies as st

from placeos.local.demo import pjlink
from placeos.local.demo.journal import commands, read
from placeos.local.demo.pjlink import Projector, ProjectorDevice


def quick(**given):
    return Projector(warm_up=0.2, cool_down=0.2, **given)


async def until(link, state):
    async with asyncio.timeout(5):
        while await link.power.get() != state:
            await asyncio.sleep(0.02)


async def test_independent_client_reads_everything(run_device, options):
    device = await run_device(ProjectorDevice(options(), quick(name="Room 1.01 projector")))
    async with PJLink("127.0.0.1", device.port) as link:
        await link.power.turn_on()
        await until(link, Power.State.ON)
        assert await link.info.pjlink_class() == PJClass.ONE
        assert await link.info.projector_name() == "Room 1.01 projector"
        assert await link.info.manufacturer_name() == "PlaceOS"
        assert await link.info.product_name() == "Simulated projector"
        assert await link.info.other() == "Demo building"
        assert await link.lamps.hours() == 812
        assert set((await link.errors.query()).values()) == {Errors.Level.OK}
        assert (Sources.Mode.DIGITAL, "2") in await link.sources.available()


async def test_power_goes_through_warming_and_cooling(run_device, options, monkeypatch):
    now = 0.0
    monkeypatch.setattr(pjlink, "time", SimpleNamespace(monotonic=lambda: now))
    device = await run_device(ProjectorDevice(options(), Projector(warm_up=6, cool_down=4)))
    async with PJLink("127.0.0.1", device.port) as link:
        assert await link.power.get() == Power.State.OFF
        await link.power.turn_on()
        assert await link.power.get() == Power.State.WARMING
        with pytest.raises(PJLinkERR3):
            await link.sources.set(Sources.Mode.DIGITAL, 2)
        with pytest.raises(PJLinkERR3):
            await link.power.turn_off()
        now += 6
        assert await link.power.get() == Power.State.ON
        await link.sources.set(Sources.Mode.DIGITAL, 2)
        assert await link.sources.get() == (Sources.Mode.DIGITAL, "2")
        await link.power.turn_off()
        assert await link.power.get() == Power.State.COOLING
        with pytest.raises(PJLinkERR3):
            await link.power.turn_on()
        now += 4
        assert await link.power.get() == Power.State.OFF


async def test_mute_keeps_sound_and_picture_apart(run_device, options):
    device = await run_device(ProjectorDevice(options(), quick()))
    async with PJLink("127.0.0.1", device.port) as link:
        with pytest.raises(PJLinkERR3):
            await link.mute.both(True)
        await link.power.turn_on()
        await until(link, Power.State.ON)
        await link.mute.video(True)
        assert await link.mute.status() == (True, False)
        await link.mute.audio(True)
        assert await link.mute.status() == (True, True)
        await link.mute.video(False)
        assert await link.mute.status() == (False, True)


async def test_unknown_commands_and_parameters(run_device, options):
    device = await run_device(ProjectorDevice(options(), quick()))
    async with PJLink("127.0.0.1", device.port) as link:
        with pytest.raises(PJLinkERR2):
            await link.sources.set(Sources.Mode.VIDEO, 9)
        with pytest.raises(PJLinkERR2):
            await link.transmit("POWR", "7", link.C1)
        with pytest.raises(PJLinkERR1):
            await link.transmit("ABCD", "?", link.C1)
        with pytest.raises(PJLinkERR1):
            await link.freeze.get()


async def test_password(run_device, options):
    device = await run_device(ProjectorDevice(options(), quick(), "JBMIAProjectorLink"))
    async with PJLink("127.0.0.1", device.port, password="JBMIAProjectorLink") as link:
        assert await link.power.get() == Power.State.OFF
    for password in ("wrong", None):
        with pytest.raises(PJLinkPassword):
            async with PJLink("127.0.0.1", device.port, password=password):
                pass


async def test_digest_of_the_specification(run_device, options):
    """Section 5.1: with `498e4a67` and `JBMIAProjectorLink` the digest is known."""
    device = ProjectorDevice(options(), quick(), "JBMIAProjectorLink")
    device.random.getrandbits = lambda _: 0x498E4A67  # type: ignore[method-assign]
    device = await run_device(device)
    reader, writer = await asyncio.open_connection("127.0.0.1", device.port)
    assert await reader.readuntil(b"\r") == b"PJLINK 1 498e4a67\r"
    writer.write(b"5d8409bc1c3fa39749434aa3a5c38682%1POWR ?\r")
    assert await reader.readuntil(b"\r") == b"%1POWR=0\r"
    writer.write(b"%1CLSS ?\r")
    assert await reader.readuntil(b"\r") == b"%1CLSS=1\r"
    writer.close()


async def ask_when_closed(device):
    async with PJLink("127.0.0.1", device.port) as link:
        async with asyncio.timeout(5):
            while device.sessions:
                await asyncio.sleep(0.01)
        await link.power.get()


async def test_silent_connection_is_closed(run_device, options):
    device = await run_device(ProjectorDevice(options(idle=0.1), quick()))
    # It may be closed before the client is ready for its first command.
    with pytest.raises((PJLinkConnectionClosed, ConnectionError)):
        await ask_when_closed(device)
    assert [e["reason"] for e in read(device.options.journal) if e["event"] == "disconnect"] == [
        "idle"
    ]


async def test_journal_tells_connections_commands_and_replies(run_device, options):
    device = await run_device(ProjectorDevice(options(), Projector(warm_up=60)))
    before = time.time()
    async with PJLink("127.0.0.1", device.port) as link:
        await link.power.turn_on()
        await link.power.get()
    async with asyncio.timeout(5):
        while device.sessions:
            await asyncio.sleep(0.01)
    entries = read(device.options.journal)
    assert [entry["event"] for entry in entries] == [
        "start",
        "connect",
        "command",
        "command",
        "disconnect",
    ]
    assert [(e["text"], e["reply"]) for e in commands(entries)] == [
        ("%1POWR 1", "%1POWR=OK"),
        ("%1POWR ?", "%1POWR=3"),
    ]
    assert before - 0.01 <= entries[1]["at"] <= time.time() + 0.01


async def test_pulled_plug(run_device, options, harm):
    device = await run_device(ProjectorDevice(options(), quick()))
    async with PJLink("127.0.0.1", device.port) as link:
        await link.power.turn_on()
        await harm(device, "unplug 3600")
        with pytest.raises((PJLinkException, ConnectionError)):
            await link.power.get()
    with pytest.raises(PJLinkException):
        async with PJLink("127.0.0.1", device.port):
            pass
    await harm(device, "unplug 0.1")  # from now on
    async with asyncio.timeout(5):
        while True:
            try:
                async with PJLink("127.0.0.1", device.port) as link:
                    assert await link.power.get() == Power.State.OFF
                    return
            except PJLinkException:
                await asyncio.sleep(0.05)


async def test_frozen_device_answers_nothing_then_reboots(run_device, options, harm):
    device = await run_device(ProjectorDevice(options(), quick()))
    async with PJLink("127.0.0.1", device.port) as link:
        await harm(device, "freeze 3600")
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.2):
                await link.power.get()
        await harm(device, "freeze 0.1")  # from now on
    async with asyncio.timeout(5):
        while device.frozen:
            await asyncio.sleep(0.02)
    async with PJLink("127.0.0.1", device.port) as link:
        assert await link.power.get() == Power.State.OFF


async def test_half_open_connection_stays_silent_but_new_ones_work(run_device, options, harm):
    device = await run_device(ProjectorDevice(options(), quick()))
    async with PJLink("127.0.0.1", device.port) as old:
        await harm(device, "half-open")
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.2):
                await old.power.get()
        async with PJLink("127.0.0.1", device.port) as new:
            assert await new.power.get() == Power.State.OFF


async def test_connection_drops_now_and_then(run_device, options):
    device = await run_device(ProjectorDevice(options(drop_every=0.1, seed=1), quick()))
    # It may be dropped before the client is ready for its first command.
    with pytest.raises((PJLinkException, ConnectionError)):
        async with PJLink("127.0.0.1", device.port) as link:
            await until(link, Power.State.ON)  # which it never is


async def test_remote_control(run_device, options, harm):
    device = await run_device(ProjectorDevice(options(), Projector(warm_up=60)))
    assert (await harm(device, "power 1"))["power"] == "3"
    assert "error" in await harm(device, "input 99")
    assert "error" in await harm(device, "dance")
    assert "error" in await harm(device, "unplug soon")


@given(st.text(max_size=40), st.floats(0, 100))
@example("%1ßabc ?", 0.0)  # in upper case it is longer
def test_any_line_gets_a_wellformed_reply_or_none(line, now):
    reply = Projector().obey(line, now)
    assert reply is None or (reply[0] == "%" and reply[6] == "=")


@given(st.lists(st.tuples(st.sampled_from("01"), st.floats(0, 10)), max_size=20))
def test_power_is_what_was_last_accepted(steps):
    """After enough time the projector is in the state of the last command that got OK."""
    projector, now, wanted = Projector(), 0.0, "0"
    for parameter, pause in steps:
        now += pause
        if projector.obey(f"%1POWR {parameter}", now) == "%1POWR=OK":
            wanted = parameter
    assert projector.power(now + 100) == wanted
