"""The frame codec: whatever is cut anywhere comes out whole."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from placeos.wire.frame import MAX_FRAME, Command, FrameError, FrameReader, Header, encode

headers = st.builds(
    Header,
    command=st.integers(1, 200),
    sequence=st.integers(0, 2**63 - 1),
    module=st.text(max_size=60),
    function=st.text(max_size=60),
    user=st.text(max_size=20),
    clearance=st.integers(0, 2),
    remaining=st.integers(0, 2**40),
    code=st.integers(0, 999),
    error=st.text(max_size=20),
)
frames = st.lists(st.tuples(headers, st.binary(max_size=300)), max_size=8)


@given(frames, st.lists(st.integers(1, 97), min_size=1, max_size=20))
def test_frames_survive_any_cutting(sent: list[tuple[Header, bytes]], cuts: list[int]) -> None:
    stream = b"".join(encode(header, payload) for header, payload in sent)
    reader, received, position, turn = FrameReader(), [], 0, 0
    while position < len(stream):
        step = cuts[turn % len(cuts)]
        received += reader.feed(stream[position : position + step])
        position += step
        turn += 1
    assert received == sent


def test_a_header_of_a_later_version_is_understood() -> None:
    """Fields are only ever added at the end, so an older reader ignores them."""
    known = b"\x0a\x07" + b"\xa1m" + b"\xa1f" + b"\xa0" + b"\x00\x00\x00\xa0" + b"\x00\x00\x00"
    head = b"\x9d" + known + b"\xc3"
    frame = struct.pack(">IH", 2 + len(head) + 1, len(head)) + head + b"x"
    [(header, payload)] = FrameReader().feed(frame)
    assert (header.command, header.sequence, header.module, payload) == (10, 7, "m", b"x")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (struct.pack(">IH", MAX_FRAME + 1, 1) + b"\x90", "exceeds the limit"),
        (struct.pack(">IH", 4, 100) + b"1234", "does not fit"),
        (struct.pack(">IH", 5, 3) + b"\xc1\xc1\xc1", "unreadable header"),
    ],
)
def test_malformed_bytes_are_refused_with_a_reason(data: bytes, message: str) -> None:
    with pytest.raises(FrameError, match=message):
        FrameReader().feed(data)


def test_an_oversized_payload_is_refused_before_it_is_sent() -> None:
    with pytest.raises(FrameError, match="exceeds the limit"):
        encode(Header(Command.EXECUTE), bytes(MAX_FRAME))
