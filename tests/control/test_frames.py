"""Frames and requests that are wrong, and the ways in which a control websocket ends."""

from __future__ import annotations

import json
import struct
from typing import Any

import pytest


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("hello", {"type": "error", "error_code": 0}),
        ('{"id":5,"cmd"', {"id": 5, "type": "error", "error_code": 0}),
        ("[]", {"type": "error", "error_code": 1}),
        ('{"id":6,"cmd":"bind"}', {"id": 6, "type": "error", "error_code": 1}),
    ],
)
async def test_an_unreadable_request_is_answered_and_the_socket_goes_on(
    control: Any, text: str, expected: dict[str, Any]
) -> None:
    client = await control.client()
    client.text(text)
    message = await client.message()
    assert {name: message.get(name) for name in expected} == expected
    assert (await client.ask(id=9, cmd="exec", name="echo"))["type"] == "success"


@pytest.mark.parametrize(
    ("frames", "code"),
    [
        ([(1, b'{"id":"\xff"}', {})], 1007),
        ([(1, b'"\xc3', {"fin": False}), (0, b'x"', {})], 1007),
        ([(2, b"binary", {})], 1003),
        ([(2, b"binary", {"fin": False})], 1003),
        ([(1, b"x" * (1024 * 1024 + 1), {})], 1009),
        ([(1, b"x" * 600_000, {"fin": False}), (0, b"x" * 600_000, {})], 1009),
        ([(1, b"", {"fin": False})] + [(0, b"", {"fin": False})] * 20_000, 1009),
        ([(0, b"ping", {})], 1002),
        ([(1, b"pi", {"fin": False}), (1, b"ng", {})], 1002),
        ([(1, b"ping", {"mask": False})], 1002),
        ([(1, b"ping", {"rsv": 4})], 1002),
        ([(3, b"ping", {})], 1002),
        ([(9, b"x" * 126, {})], 1002),
        ([(9, b"x", {"fin": False})], 1002),
        ([(8, struct.pack(">H", 1005), {})], 1002),
        ([(8, b"x", {})], 1002),
        ([(8, struct.pack(">H", 1000) + b"\xff", {})], 1007),
    ],
)
async def test_wrong_frames_close_with_their_code(
    control: Any, frames: list[tuple[int, bytes, dict[str, Any]]], code: int
) -> None:
    client, other = await control.client(), await control.client()
    for kind, payload, flags in frames:
        client.frame(kind, payload, **flags)
    assert (await client.closed()).code == code
    other.text("ping")
    assert await other.message() == "pong"


async def test_fragments_are_put_together_with_control_frames_between(control: Any) -> None:
    client = await control.client()
    text = json.dumps(
        {"id": 1, "cmd": "exec", "sys": "sys-1", "mod": "Display", "index": 1, "name": "echo"}
        | {"args": ["ü"]}
    ).encode()
    text = text.replace(b"\\u00fc", "ü".encode())
    cut = text.index("ü".encode()) + 1  # in the middle of a character
    client.frame(1, text[:cut], fin=False)
    client.frame(9, b"hi")
    client.frame(0, b"", fin=False)
    client.frame(0, text[cut:])
    assert await client.receive() == (10, b"hi")
    assert (await client.answer(1))["value"] == ["ü"]
    client.frame(1, b"pi", fin=False)
    client.frame(0, b"ng")
    assert await client.message() == "pong"


@pytest.mark.parametrize("code", [1000, 1001, 4321])
async def test_a_close_is_answered_and_the_connection_ends(control: Any, code: int) -> None:
    client = await control.client()
    client.frame(8, struct.pack(">H", code) + b"bye")
    assert (await client.closed()).code == code
    assert await client.reader.read() == b""


async def test_a_close_without_a_code_is_answered_with_1000(control: Any) -> None:
    client = await control.client()
    client.frame(8)
    assert (await client.closed()).code == 1000


async def test_a_connection_that_just_vanishes_leaves_nothing(control: Any, until: Any) -> None:
    client = await control.client("support")
    await client.ask(id=1, cmd="bind")
    await client.ask(id=2, cmd="debug", mod="mod-1")
    client.writer.transport.abort()
    await until(lambda: not control.bindings._topics and not control.router.debugs["mod-1"])
