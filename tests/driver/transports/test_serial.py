"""Serial lines through the RFC 2217 server of pyserial, on a looped line."""

from __future__ import annotations

import asyncio
import contextlib
from contextlib import asynccontextmanager

import pytest
import serial
from hypothesis import given
from hypothesis import strategies as st
from serial.rfc2217 import PortManager

from placeos.driver.transports import Serial
from placeos.driver.transports.telnet import DO, DONT, IAC, SB, SE, WILL, WONT, Telnet, TelnetError


class Gateway:
    """pyserial's server, on a line whose end is looped back: the device says what it hears."""

    def __init__(self) -> None:
        self.port = 0
        self.line = serial.serial_for_url("loop://", timeout=0)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        manager = PortManager(self.line, writer)
        while data := await reader.read(4096):
            self.line.write(b"".join(manager.filter(data)))
            writer.writelines(manager.escape(self.line.read(self.line.in_waiting)))
        writer.close()


@asynccontextmanager
async def running():
    gateway = Gateway()
    server = await asyncio.start_server(gateway.serve, "127.0.0.1", 0)
    gateway.port = server.sockets[0].getsockname()[1]
    try:
        yield gateway
    finally:
        server.close()
        gateway.line.close()


async def test_line_is_set_and_bytes_go_both_ways(connect, at):
    every = bytes(range(256))
    spec = Serial(port=1, baud=38400, parity="even", stop_bits=2, bits=7, length=256)
    async with running() as gateway, connect(at(gateway.port), spec) as (made, told):
        await told.has("opened")
        line = gateway.line
        assert (line.baudrate, line.bytesize, line.parity, line.stopbits) == (38400, 7, "E", 2)
        made.write(every)
        await told.has("message")
        assert told.messages == [every]


async def test_setting_overrides_the_driver(connect, at):
    address = {"settings": {"serial": {"baud": 1200, "flow": "software"}}}
    async with (
        running() as gateway,
        connect(at(gateway.port, **address), Serial(port=1)) as (_, told),
    ):
        await told.has("opened")
        assert gateway.line.baudrate == 1200
        assert gateway.line.xonxoff


async def test_setting_that_is_wrong(connect, at):
    async with connect(at(1, settings={"serial": {"baud": "fast"}}), Serial(port=1)) as (_, told):
        assert "'serial.baud': expected int" in await told.has("unreachable")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"baud": 10}, "'baud'"),
        ({"bits": 9}, "'bits'"),
        ({"stop_bits": 3}, "'stop_bits'"),
        ({"parity": "some"}, "'parity'"),
        ({"flow": "some"}, "'flow'"),
    ],
)
def test_declaration_that_is_wrong(options, words):
    with pytest.raises(ValueError, match=words):
        Serial(port=1, **options)


async def answers(reply: bytes, connect, at) -> str:
    """What is said of something that is no gateway."""

    async def serve(reader, writer):
        writer.write(reply)
        with contextlib.suppress(ConnectionError):
            while await reader.read(4096):
                pass
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    try:
        async with connect(at(port), Serial(port=1)) as (_, told):
            return await told.has("unreachable")
    finally:
        server.close()


async def test_gateway_that_is_none(connect, at, monkeypatch):
    monkeypatch.setattr("placeos.driver.transports.serial.ANSWER_WITHIN", 0.2)
    assert "it refuses" in await answers(bytes((IAC, DONT, 44)), connect, at)
    assert "it does not answer at all" in await answers(b"login: ", connect, at)
    agreed = bytes((IAC, DO, 44))
    assert "baud, bits, parity, stop_bits" in await answers(agreed, connect, at)
    other = bytes((IAC, SB, 44, 101, 0, 0, 75, 0, IAC, SE))
    reason = await answers(agreed + other, connect, at)
    assert "cannot set baud: asked for 9600, it set 19200" in reason


class Peer:
    """Two sides that talk until neither has anything to say."""

    def __init__(self) -> None:
        self.sides = Telnet(frozenset((44,))), Telnet()
        self.rounds = 0

    def settle(self) -> None:
        for self.rounds in range(100):
            sent = [bytes(side.out) for side in self.sides]
            for side in self.sides:
                side.out.clear()
            if not any(sent):
                return
            self.sides[0].feed(sent[1])
            self.sides[1].feed(sent[0])
        raise AssertionError("they argue for ever")


def test_two_sides_agree():
    peer = Peer()
    for side in peer.sides:
        side.begin()
    peer.settle()
    assert peer.sides[0].does(0) is True
    assert peer.sides[0].does(44) is False  # the other one does not know it
    assert peer.rounds <= 4


@given(st.binary(max_size=300), st.lists(st.integers(0, 300), max_size=5))
def test_data_survives_in_any_pieces(data, cuts):
    telnet = Telnet()
    wire = telnet.escape(data)
    cuts = sorted({min(cut, len(wire)) for cut in cuts})
    pieces = [wire[a:b] for a, b in zip([0, *cuts], [*cuts, len(wire)], strict=True)]
    assert b"".join(map(telnet.feed, pieces)) == data
    assert not telnet.out


@given(st.lists(st.binary(max_size=40), max_size=8))
def test_garbage_is_answered_briefly(pieces):
    telnet = Telnet()
    for piece in pieces:
        telnet.feed(piece)
    assert len(telnet.out) <= 3 * sum(map(len, pieces))


def test_option_that_is_refused_is_refused_once():
    telnet = Telnet()
    telnet.feed(bytes((IAC, DO, 24, IAC, DO, 24, IAC, WILL, 1)))
    assert bytes(telnet.out) == bytes((IAC, WONT, 24, IAC, DONT, 1))


def test_subnegotiation_without_an_end():
    telnet = Telnet()
    with pytest.raises(TelnetError):
        telnet.feed(bytes((IAC, SB, 44)) + b"x" * 5000)
