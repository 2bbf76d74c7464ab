"""The simulated devices: what they write down is what happened, in the right order."""

from __future__ import annotations

import random
import socket
import struct
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from checker import check
from history import Event, Kind
from watch import Devices

Make = Callable[..., Devices]


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Make]:
    made: list[Devices] = []

    def one(second: str = "refuse") -> Devices:
        host = f"127.{random.randrange(64, 128)}.{random.randrange(256)}.2"
        made.append(Devices(tmp_path / "log", 3, host=host, second=second))
        return made[-1]

    yield one
    for devices in made:
        devices.close()


def connect(devices: Devices, index: int = 0) -> socket.socket:
    return socket.create_connection((devices.host, devices.port + index), 5)


def say(connection: socket.socket, text: str) -> None:
    connection.sendall(text.encode() + b"\n")
    assert connection.recv(100) == b"OK\n"


def written(devices: Devices, kind: Kind, count: int = 1) -> list[Event]:
    """All events once so many of a kind are there."""
    found: list[Event] = []
    deadline = time.monotonic() + 5
    while sum(event.kind is kind for event in found) < count:
        assert time.monotonic() < deadline, found
        time.sleep(0.01)
        found += devices.log.take()
    return found


def reset(connection: socket.socket) -> None:
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


def broken_rules(devices: Devices, events: list[Event]) -> set[str]:
    start = events[0].at - 1
    verdict = check(
        events, devices={event.device for event in events}, start=start, end=events[-1].at
    )
    return set(verdict.rules()) - {"unasked", "not back"}


def test_a_life(make: Make) -> None:
    devices = make()
    before = time.monotonic_ns()
    with connect(devices, 1) as connection:
        say(connection, "HELLO 7")
        say(connection, "MARK x")
    events = written(devices, Kind.FIN)
    assert [(event.device, event.kind) for event in events] == [
        (1, Kind.OPENED),
        (1, Kind.LINE),
        (1, Kind.LINE),
        (1, Kind.FIN),
    ]
    assert before < events[0].at < events[-1].at < time.monotonic_ns()
    assert events[2].token == "x"


@pytest.mark.parametrize("end", [reset, socket.socket.close], ids=["reset", "close"])
def test_one_after_the_other_is_no_violation(
    make: Make, end: Callable[[socket.socket], None]
) -> None:
    """However quickly: what the first one sent and its end come before the second one."""
    devices = make()
    for round_ in range(200):
        connection = connect(devices)
        say(connection, f"HELLO {round_}")
        connection.sendall(b"MARK %d\n" % round_)
        end(connection)
    with connect(devices) as connection:
        say(connection, "MARK last")
    events = written(devices, Kind.LINE, 401)
    assert not broken_rules(devices, events)


def test_a_second_connection_is_refused_and_told(make: Make) -> None:
    devices = make()
    with connect(devices) as first, connect(devices) as second:
        say(first, "HELLO 1")
        second.sendall(b"HELLO 2\n")
        with pytest.raises(ConnectionResetError):
            second.recv(100)
        say(first, "BEAT")  # it is not disturbed
    events = written(devices, Kind.FIN)
    assert Kind.SECOND_WRITER in {event.kind for event in events}
    assert (Kind.REFUSED_LINE, "HELLO 2") in {(event.kind, event.text) for event in events}
    assert broken_rules(devices, events) == {"two writers"}


def test_one_that_says_nothing_is_refused_after_a_while(make: Make) -> None:
    devices = make()
    with connect(devices), connect(devices) as second:
        second.settimeout(5)
        with pytest.raises(ConnectionResetError):
            second.recv(100)


def test_a_half_open_connection_alone_is_no_second_writer(make: Make) -> None:
    devices = make("accept")
    with connect(devices, 1) as first:
        say(first, "HELLO 1")
        with connect(devices, 1) as second:
            say(second, "HELLO 2")
            say(second, "BEAT")
            events = [one for one in written(devices, Kind.LINE, 3) if one.device == 1]
            assert not broken_rules(devices, events)
            say(first, "BEAT")
            events += written(devices, Kind.LINE)
    assert broken_rules(devices, events) == {"two writers"}


def test_the_answer_to_a_held_command_comes_later(make: Make) -> None:
    devices = make()
    with connect(devices) as connection:
        began = time.monotonic()
        say(connection, "HOLD 0.3 token")
        assert time.monotonic() - began >= 0.3
        events = written(devices, Kind.LINE)
    assert events[-1].token == "token"


def test_dropping_all(make: Make) -> None:
    devices = make()
    with connect(devices, 0) as first, connect(devices, 2):
        say(first, "HELLO 1")
        written(devices, Kind.OPENED, 2)
        assert devices.drop() == 2
        with pytest.raises(ConnectionResetError):
            first.recv(100)
    written(devices, Kind.CUT, 2)
    assert not devices.log.open


def test_the_log_knows_what_is_open(make: Make) -> None:
    devices = make("accept")
    with connect(devices) as first:
        say(first, "HELLO 1")
        with connect(devices) as second:
            say(second, "HELLO 2")
            written(devices, Kind.LINE, 2)
            assert devices.log.pids == {0: 2}
        written(devices, Kind.FIN)
        assert devices.log.pids == {0: 1}
        assert [event.connection for event in devices.log.begin(5)] == [1]
