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


def test_without_framing_each_piece_is_a_message():
    assert feed(Framer(), [b"a", b"bc"]) == [b"a", b"bc"]


def test_endless_message():
    framer = Framer(ends_with=b"\r")
    with pytest.raises(FramingError):
        feed(framer, [b"x" * MAX_MESSAGE, b"x"])


def test_two_framings_at_once():
    with pytest.raises(ValueError, match="one of"):
        Framer(ends_with=b"\r", length=3)
