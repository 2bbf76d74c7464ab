"""The handshake and the frame parser against whatever bytes: bounded, and FrameError or nothing."""

from __future__ import annotations

import contextlib
import hmac
import struct
import tracemalloc

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from placeos.wire.errors import CallError, ErrorDetail
from placeos.wire.frame import Command, FrameError, FrameReader, Header, encode, first_frame
from placeos.wire.handshake import MAX_GREETING, PROTOCOL, Handshake, Hello

SECRET = b"the secret"
KEPT = MAX_GREETING + 64  # bytes


def both(
    secrets: tuple[bytes, bytes] = (SECRET, SECRET), bindings: tuple[bytes, bytes] = (b"", b"")
) -> tuple[Handshake, Handshake]:
    client = Handshake(
        Hello(service="api", identity="a"), secret=secrets[0], server=False, binding=bindings[0]
    )
    server = Handshake(
        Hello(service="core", identity="c"), secret=secrets[1], server=True, binding=bindings[1]
    )
    return client, server


def meet(client: Handshake, server: Handshake) -> None:
    to_server, to_client = client.begin(), server.begin()
    while to_server or to_client:
        arrived, to_server = to_server, b""
        to_client += server.feed(arrived)
        arrived, to_client = to_client, b""
        to_server += client.feed(arrived)


def payload_of(frame: bytes) -> bytes:
    found = first_frame(frame, MAX_GREETING)
    assert found is not None
    return found[1]


def test_two_that_know_the_secret_meet() -> None:
    client, server = both()
    meet(client, server)
    assert client.done
    assert server.done
    assert client.peer is not None
    assert client.peer.identity == "c"
    assert client.peer.protocol == PROTOCOL


def test_what_follows_the_handshake_is_kept_for_the_link() -> None:
    client, server = both()
    hello = server.feed(client.begin())
    proof = client.feed(server.begin() + hello)
    assert client.done
    server.feed(proof + b"the first request")
    assert server.done
    assert server.rest == b"the first request"


@pytest.mark.parametrize(
    ("secrets", "bindings", "reason"),
    [
        ((b"guess", SECRET), (b"", b""), "secret"),
        ((SECRET, SECRET), (b"this connection", b"another connection"), "secret"),
    ],
)
def test_another_secret_or_connection_is_refused(
    secrets: tuple[bytes, bytes], bindings: tuple[bytes, bytes], reason: str
) -> None:
    client, server = both(secrets, bindings)
    with pytest.raises(FrameError) as caught:
        meet(client, server)
    assert caught.value.reason == reason
    assert not server.done


@pytest.mark.parametrize("server", [True, False])
def test_a_hello_that_comes_back_is_refused(server: bool) -> None:
    victim = both()[server]
    with pytest.raises(FrameError) as caught:
        victim.feed(victim.begin())
    assert caught.value.reason == "reflected"


@pytest.mark.parametrize("server", [True, False])
def test_a_proof_that_comes_back_is_refused(server: bool) -> None:
    victim = both()[server]
    victim.begin()
    own = victim.feed(encode(Header(Command.HELLO), b'{"protocol":2,"nonce":"n"}'))
    with pytest.raises(FrameError) as caught:
        victim.feed(own)
    assert caught.value.reason == "reflected"
    assert not victim.done


@pytest.mark.parametrize("protocol", [b"1", b"2"])
@pytest.mark.parametrize("server", [True, False])
def test_a_proof_got_from_another_member_of_the_same_role_is_refused(
    server: bool, protocol: bytes
) -> None:
    """Both sides of the attack are opened by the attacker, with the nonce of the other one."""
    victim, oracle = both()[server], both()[server]
    nonces = [
        msgspec.json.decode(payload_of(one.begin()), type=Hello).nonce for one in (victim, oracle)
    ]
    hellos = [
        b'{"protocol":%s,"nonce":"%s"}' % (protocol, nonce.encode()) for nonce in reversed(nonces)
    ]
    victim.feed(encode(Header(Command.HELLO), hellos[0]))
    proof = oracle.feed(encode(Header(Command.HELLO), hellos[1]))
    with pytest.raises(FrameError):
        victim.feed(proof)
    assert not victim.done


def test_a_recorded_handshake_proves_nothing_again() -> None:
    client, server = both()
    hello = client.begin()
    proof = client.feed(server.begin())
    server.feed(hello + proof)
    assert server.done
    again = both()[1]
    again.begin()
    with pytest.raises(FrameError) as caught:
        again.feed(hello + proof)
    assert caught.value.reason == "secret"


def test_the_identity_cannot_be_changed_on_the_way() -> None:
    client, server = both()
    server.begin()
    hello = client.begin().replace(b'"identity":"a"', b'"identity":"b"')
    proof = client.feed(encode(Header(Command.HELLO), server._own))
    with pytest.raises(FrameError) as caught:
        server.feed(hello + proof)
    assert caught.value.reason == "secret"


def test_the_version_before_is_spoken_to_and_the_one_before_that_is_not() -> None:
    server = both()[1]
    ours = msgspec.json.decode(payload_of(server.begin()), type=Hello).nonce
    server.feed(encode(Header(Command.HELLO), b'{"service":"api","nonce":"abc"}'))
    proof = hmac.digest(SECRET, b"client" + ours.encode() + b"abc", "sha256")
    server.feed(encode(Header(Command.PROOF), proof))
    assert server.done
    assert server.peer is not None
    assert server.peer.protocol == 1
    for hello, binding in ((b'{"protocol":0,"nonce":"a"}', b""), (b'{"nonce":"a"}', b"tls")):
        old = Handshake(Hello(), secret=SECRET, server=True, binding=binding)
        with pytest.raises(FrameError) as caught:
            old.feed(encode(Header(Command.HELLO), hello))
        assert caught.value.reason == "version"


def test_a_later_version_and_its_fields_are_accepted() -> None:
    server = both()[1]
    hello = b'{"protocol":9,"nonce":"abc","colour":{"red":1}}'
    assert server.feed(encode(Header(Command.HELLO), hello))


frames = st.builds(
    lambda command, sequence, module, payload: encode(Header(command, sequence, module), payload),
    st.integers(0, 60),
    st.integers(0, 2**63),
    st.text(max_size=20),
    st.one_of(
        st.binary(max_size=100),
        st.builds(
            lambda hello: msgspec.json.encode(hello),
            st.builds(Hello, st.integers(-5, 9), st.text(max_size=9), st.text(), st.text()),
        ),
    ),
)
streams = st.lists(
    st.one_of(st.binary(max_size=4000), frames, st.just(struct.pack(">IH", 2**32 - 1, 65535))),
    max_size=8,
)


@given(streams, st.booleans())
def test_whatever_comes_is_refused_or_waited_for_within_bounds(
    stream: list[bytes], server: bool
) -> None:
    victim = Handshake(Hello(), secret=SECRET, server=server)
    victim.begin()
    for data in stream:
        try:
            out = victim.feed(data)
        except FrameError:
            break
        assert len(victim.rest) <= KEPT
        assert len(out) <= KEPT
    assert not victim.done


@given(streams)
def test_the_reader_raises_nothing_but_a_frame_error(stream: list[bytes]) -> None:
    reader = FrameReader()
    for data in stream:
        try:
            reader.feed(data)
        except FrameError:
            break


@given(st.binary(max_size=60))
def test_a_header_of_any_bytes(head: bytes) -> None:
    data = struct.pack(">IH", 2 + len(head), len(head)) + head
    with contextlib.suppress(FrameError):
        FrameReader().feed(data)


@given(st.binary(max_size=60))
def test_the_detail_of_an_error_of_any_bytes(body: bytes) -> None:
    assert CallError.parse("raised", 500, body).code == 500


def test_the_view_of_a_moved_answer_travels() -> None:
    assert CallError.parse("moved", 421, CallError("moved", "m", view=7).detail()).view == 7
    old = msgspec.json.encode({"message": "m"})
    assert CallError.parse("moved", 421, old).view == 0
    assert b"view" not in msgspec.json.encode(ErrorDetail("m"))


def memory_for(pieces: list[bytes]) -> int:
    """Bytes allocated by feeding the pieces."""
    reader = FrameReader()
    tracemalloc.start()
    try:
        for piece in pieces:
            reader.feed(piece)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_an_announced_frame_costs_nothing_until_it_comes() -> None:
    assert memory_for([struct.pack(">IH", 16 * 1024 * 1024, 10), b"x" * 100]) < 20_000


def test_a_frame_in_single_bytes_takes_its_size_not_forty_times_it() -> None:
    single = [bytes([number % 256]) for number in range(200_000)]
    assert memory_for([struct.pack(">IH", 16 * 1024 * 1024, 10), *single]) < 1_000_000
