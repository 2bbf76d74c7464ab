from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from placeos.api.control.frames import frames
from placeos.api.control.outbox import MAX_ANSWERS, Outbox, Slot


class Reader:
    """A peer that takes `room` messages, then pauses us."""

    def __init__(self, room: int = 1_000_000) -> None:
        self.room = room
        self.got: list[bytes] = []
        self.overflows = 0
        self.outbox = Outbox(self.write, self.overflow)

    def write(self, message: bytes) -> None:
        assert not self.outbox.paused
        self.got.append(message)
        self.room -= 1
        if self.room == 0:
            self.outbox.pause()

    def overflow(self) -> None:
        self.overflows += 1

    def read(self, room: int) -> None:
        self.room = room
        self.outbox.resume()


def test_a_reader_that_keeps_up_gets_every_value_at_once() -> None:
    reader = Reader()
    slot = Slot(b"<", b">")
    for number in range(3):
        reader.outbox.value(slot, b"%d" % number)
    assert reader.got == [b"<0>", b"<1>", b"<2>"]


def test_of_each_binding_only_the_newest_value_waits() -> None:
    reader = Reader()
    one, two = Slot(b"1:", b""), Slot(b"2:", b"")
    reader.outbox.pause()
    for number in range(1000):
        reader.outbox.value(one, b"%d" % number)
        reader.outbox.value(two, b"%d" % -number)
    assert reader.got == []
    reader.read(10)
    assert reader.got == [b"1:999", b"2:-999"]


def test_a_binding_that_was_released_sends_nothing_more() -> None:
    reader = Reader()
    slot = Slot(b"", b"")
    reader.outbox.pause()
    reader.outbox.value(slot, b"1")
    reader.outbox.forget(slot)
    reader.read(10)
    assert reader.got == []


def test_answers_wait_in_order_and_stop_when_paused_again() -> None:
    reader = Reader()
    reader.outbox.pause()
    for number in range(5):
        reader.outbox.answer(b"%d" % number)
    reader.read(2)
    assert reader.got == [b"0", b"1"]
    reader.read(10)
    assert reader.got == [b"0", b"1", b"2", b"3", b"4"]


def test_too_many_answers_overflow_once_and_keep_memory_bounded() -> None:
    reader = Reader()
    reader.outbox.pause()
    for _ in range(100):
        reader.outbox.answer(b"x" * (MAX_ANSWERS // 10))
    assert reader.overflows == 1
    reader.read(1000)
    assert sum(map(len, reader.got)) <= MAX_ANSWERS
    reader.outbox.pause()
    reader.outbox.answer(b"x" * MAX_ANSWERS)
    assert reader.overflows == 1


def test_pings_cost_one_pong_and_debug_lines_are_counted_while_paused() -> None:
    reader = Reader()
    reader.outbox.pause()
    for _ in range(9):
        reader.outbox.pong()
        reader.outbox.line(b"line")
    reader.read(100)
    assert reader.got == [b"pong"]
    assert reader.outbox.dropped_lines == 9


def test_invalid_utf8_in_a_value_is_replaced() -> None:
    reader = Reader()
    reader.outbox.value(Slot(b"", b""), b'"\xff\xc3\xbc"')
    assert reader.got[0].decode() == '"\ufffdü"'


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(1, 4))))
def test_the_last_value_of_every_binding_arrives(steps: list[tuple[int, int]]) -> None:
    """Whatever the pauses: of each binding a subsequence arrives, ending in its newest value."""
    reader = Reader(room=1)
    slots = [Slot(b"%d:" % n, b"") for n in range(4)]
    sent: dict[int, list[int]] = {n: [] for n in range(4)}
    for number, (slot, room) in enumerate(steps):
        reader.outbox.value(slots[slot], b"%d" % number)
        sent[slot].append(number)
        if number % 3 == 0:
            reader.read(room)
    reader.read(1_000_000)
    for n, values in sent.items():
        arrived = [int(m.split(b":")[1]) for m in reader.got if m.startswith(b"%d:" % n)]
        assert arrived == sorted(set(arrived))
        assert set(arrived) <= set(values)
        assert arrived[-1:] == values[-1:]


@given(st.lists(st.sampled_from([0, 1, 125, 126, 127, 65_535, 65_536, 70_000]), max_size=5))
def test_gathered_messages_are_whole_frames(sizes: list[int]) -> None:
    data = frames([b"x" * size for size in sizes])
    for size in sizes:
        assert data[0] == 0x81
        length, data = data[1], data[2:]
        for flag, width in ((126, 2), (127, 8)):
            if length == flag:
                length, data = int.from_bytes(data[:width]), data[width:]
                break
        assert length == size
        data = data[size:]
    assert data == b""
