"""However the bytes of a stream are cut on their way, the messages are the same."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from placeos.driver.framing import MAX_MESSAGE, Framer, FramingError


def cut(data: bytes, places: list[int]) -> list[bytes]:
    """`data` in pieces."""
    edges = sorted({0, len(data), *(place % (len(data) + 1) for place in places)})
    return [data[start:end] for start, end in pairwise(edges)]


def feed(framer: Framer, pieces: list[bytes]) -> list[bytes]:
    """All messages of some pieces."""
    return [message for piece in pieces for message in framer.feed(piece)]


text = st.binary(max_size=20).filter(lambda b: b"\r" not in b and b"\n" not in b)
places = st.lists(st.integers(0, 10_000), max_size=12)


@given(st.lists(text, max_size=8), places, st.sampled_from([b"\r", b"\r\n"]))
def test_delimiter(messages, places, ending):
    stream = b"".join(message + ending for message in messages)
    assert feed(Framer(ends_with=ending), cut(stream, places)) == messages


@given(st.lists(st.binary(min_size=4, max_size=4), max_size=8), places)
def test_fixed_length(messages, places):
    assert feed(Framer(length=4), cut(b"".join(messages), places)) == messages


@given(st.lists(st.binary(max_size=30), max_size=8), places)
def test_length_in_the_message(messages, places):
    stream = b"".join(bytes([len(message)]) + message for message in messages)
    framer = Framer(frame=lambda buffer: buffer[0] + 1)
    assert [m[1:] for m in feed(framer, cut(stream, places))] == messages


@given(st.lists(text, max_size=6), st.lists(text, min_size=6, max_size=6), places)
def test_noise_between_messages_is_skipped(messages, noise, places):
    messages = [message.replace(b"\x02", b"") for message in messages]
    noise = [piece.replace(b"\x02", b"") for piece in noise]
    stream = b"".join(
        piece + b"\x02<" + message + b"\r" for piece, message in zip(noise, messages, strict=False)
    )
    framer = Framer(starts_with=b"\x02<", ends_with=b"\r")
    assert feed(framer, cut(stream, places)) == [b"\x02<" + message for message in messages]


def test_start_and_length():
    framer = Framer(starts_with=b"\xaa", length=3)
    assert feed(framer, [b"??\xaa", b"12?", b"\xaa34\xaa5"]) == [b"\xaa12", b"\xaa34"]


class Whole:
    """The same cutting, of a stream that is there as a whole: what the Framer must agree with."""

    def __init__(self, starts_with: bytes, ends_with: bytes, length: int) -> None:
        self.starts_with, self.ends_with, self.length = starts_with, ends_with, length

    def messages(self, stream: bytes) -> list[bytes]:
        found: list[bytes] = []
        while (at := stream.find(self.starts_with)) >= 0:
            stream = stream[at:]
            end = self.length
            if self.ends_with:
                end = stream.find(self.ends_with, len(self.starts_with))
            if end < 0 or end > len(stream) or not stream:
                break
            found.append(stream[:end])
            stream = stream[end + len(self.ends_with) :]
        return found


@given(
    st.binary(max_size=60).map(lambda data: bytes(byte % 3 for byte in data)),
    places,
    st.sampled_from([b"", b"\x00", b"\x00\x01", b"\x01\x01"]),
    st.sampled_from([b"\x02", b"\x01\x02", b"\x02\x02", b"\x00\x00\x02"]),
    st.integers(0, 5),
)
def test_any_bytes_in_any_pieces(stream, places, starts, ends, length):
    """Few different bytes, so that marks lie across the cuts, overlap and repeat."""
    if length:
        ends = b""
    whole = Whole(starts, ends, length)
    framer = Framer(starts_with=starts, ends_with=ends, length=length)
    assert feed(framer, cut(stream, places)) == whole.messages(stream)


def test_message_that_trickles_is_not_searched_again_and_again():
    """A million pieces of a byte each: some seconds, where a search from the beginning each
    time would take most of an hour."""
    framer = Framer(starts_with=b"\x02", ends_with=b"\r\n")
    pieces = [b"\x02", *([b"x"] * (MAX_MESSAGE - 10)), b"\r", b"\n"]
    assert [len(message) for message in feed(framer, pieces)] == [MAX_MESSAGE - 9]


def test_without_framing_each_piece_is_a_message():
    assert feed(Framer(), [b"a", b"bc"]) == [b"a", b"bc"]


def test_endless_message():
    framer = Framer(ends_with=b"\r")
    with pytest.raises(FramingError):
        feed(framer, [b"x" * MAX_MESSAGE, b"x"])


def test_announced_message_that_is_too_long():
    framer = Framer(frame=lambda head: int.from_bytes(head[:4], "big"))
    with pytest.raises(FramingError, match="a message of 4294967295 bytes"):
        framer.feed(b"\xff" * 4)


def test_frame_function_that_never_tells_the_length():
    framer = Framer(frame=lambda head: 0)
    with pytest.raises(FramingError, match="without the end"):
        feed(framer, [b"x" * MAX_MESSAGE, b"x"])


@pytest.mark.parametrize("options", [{"length": -1}, {"length": 2**30}, {"starts_with": b"x"}])
def test_framing_that_cannot_be(options):
    with pytest.raises(ValueError, match=r"length|starts_with"):
        Framer(**options)


def test_two_framings_at_once():
    with pytest.raises(ValueError, match="one of"):
        Framer(ends_with=b"\r", length=3)
