from __future__ import annotations

import json

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from placeos.api.control import protocol
from placeos.api.control.protocol import ErrorCode, Refusal
from placeos.wire.errors import CallError, Failure
from placeos.wire.messages import LogLine

GOOD = {"id": 1, "cmd": "bind", "sys": "sys-1", "mod": "Display", "index": 1, "name": "power"}


def refusal(text: str) -> Refusal:
    with pytest.raises(Refusal) as raised:
        protocol.parse(text)
    return raised.value


def test_a_request_is_read_with_its_defaults() -> None:
    request = protocol.parse('{"id":7,"cmd":"exec","sys":"s","mod":"m","name":"n"}')
    assert (request.id, request.index, request.arguments()) == (7, 1, b"[]")


@pytest.mark.parametrize(
    ("args", "expected"),
    [("null", b"[]"), ("[]", b"[]"), ('[1, {"a": "ü"}]', '[1, {"a": "ü"}]'.encode())],
)
def test_arguments_pass_through_undecoded(args: str, expected: bytes) -> None:
    request = protocol.parse(json.dumps(GOOD)[:-1] + f',"args":{args}}}')
    assert request.arguments() == expected


@pytest.mark.parametrize("args", ['{"state":true}', '"on"', "1", "true"])
def test_arguments_that_are_no_array_are_refused(args: str) -> None:
    request = protocol.parse(json.dumps(GOOD)[:-1] + f',"args":{args}}}')
    with pytest.raises(Refusal, match="args should be an array") as raised:
        request.arguments()
    assert (raised.value.id, raised.value.error_code) == (1, ErrorCode.BAD_REQUEST)


@pytest.mark.parametrize(
    ("text", "code", "id"),
    [
        ("", 0, None),
        ("hello", 0, None),
        ('{"id":5,', 0, 5),
        ('{"cmd":"bind" "id": -12}', 0, -12),
        ('{"id":99999999999999999999,', 1, None),
        ('{"id":1.5,', 1, None),
        ("[1]", 1, None),
        ("null", 1, None),
        (json.dumps(GOOD | {"id": 3, "extra": 1}), 1, 3),
        (json.dumps({"id": 4, "cmd": "bind", "sys": "s"}), 1, 4),
        (json.dumps(GOOD | {"id": 2**63}), 1, None),
        (json.dumps(GOOD | {"id": "1"}), 1, None),
        (json.dumps(GOOD | {"index": "1"}), 1, 1),
        (json.dumps(GOOD | {"mod": None}), 1, 1),
        (json.dumps(GOOD | {"cmd": "fly"}), 4, 1),
        (json.dumps(GOOD | {"cmd": "x" * 500_000}), 4, 1),
        (json.dumps(GOOD | {"mod": "x" * 1_000_000}), 1, 1),
        ('{"id":6,"args":' + "[" * 200_000, 0, 6),
    ],
)
def test_what_is_no_request_is_refused(text: str, code: int, id: int | None) -> None:
    error = refusal(text)
    assert (error.error_code, error.id) == (code, id)
    assert len(error.message) < 300


def test_a_long_name_is_named_in_the_error() -> None:
    text = json.dumps(GOOD | {"mod": "x" * 1_000_000})
    assert refusal(text).message == "mod is longer than 1024 characters"


@given(st.text())
@example('{"id":1}')
@example("\ud800")
def test_any_text_is_a_request_or_a_refusal(text: str) -> None:
    try:
        protocol.parse(text)
    except Refusal as error:
        json.loads(protocol.refused(error))


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(), lambda inner: st.lists(inner)
)


@given(st.integers(-(2**63), 2**63 - 1), st.text(max_size=20), st.integers(-99, 99), _JSON)
def test_messages_are_json_around_the_very_value(
    id: int, name: str, index: int, value: object
) -> None:
    request = protocol.Request(id=id, cmd="bind", sys=name, mod=name, name=name, index=index)
    expected = {"sys": name, "mod": name, "index": index, "name": name}
    meta = protocol.meta(request)
    raw = msgspec.json.encode(value)
    notify = protocol.notify_prefix(id) + raw + protocol.notify_suffix(meta)
    assert json.loads(notify) == {"id": id, "type": "notify", "value": value, "meta": expected}
    assert json.loads(protocol.executed(id, raw, meta, 0)) == {
        "id": id, "type": "success", "value": value, "meta": expected, "code": 200,
    }  # fmt: skip
    assert json.loads(protocol.bound(id, meta)) == {"id": id, "type": "success", "meta": expected}
    assert json.loads(protocol.success(id)) == {"id": id, "type": "success"}


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (
            CallError(Failure.RAISED, "no lamp", code=409, kind="LampError"),
            {"error_code": 3, "msg": "module raised: no lamp (LampError)", "code": 409},
        ),
        (
            CallError(Failure.ACCESS_DENIED, "attempted to access privileged function x"),
            {"error_code": 2, "msg": "attempted to access privileged function x", "code": 401},
        ),
        (
            CallError(Failure.MODULE_NOT_FOUND, "could not find module"),
            {"error_code": 6, "msg": "could not find module", "code": 500},
        ),
        (
            CallError(Failure.BAD_ARGUMENTS, "x: wrong"),
            {"error_code": 1, "msg": "x: wrong", "code": 400},
        ),
        (CallError(Failure.NOT_RUN, "x"), {"error_code": 7, "msg": "x", "code": 500}),
        (CallError("of a later version", "x"), {"error_code": 7, "msg": "x", "code": 500}),
    ],
)
def test_failed_calls_name_their_kind(error: CallError, expected: dict[str, object]) -> None:
    message = json.loads(protocol.call_failed(3, error))
    assert message == {"id": 3, "type": "error", **expected}


def test_an_error_without_an_id_leaves_it_out() -> None:
    message = json.loads(protocol.refused(Refusal(ErrorCode.PARSE_ERROR, "broken")))
    assert message == {"type": "error", "error_code": 0, "msg": "broken", "code": 500}


@pytest.mark.parametrize(
    ("level", "word"), [(-1, "trace"), (0, "trace"), (4, "warn"), (9, "fatal")]
)
def test_debug_lines_carry_their_level_as_a_word(level: int, word: str) -> None:
    line = msgspec.json.encode(LogLine(level, "sent ü"))
    message = json.loads(protocol.debug(4, "mod-1", b'{"sys":""}', line))
    assert message == {
        "id": 4, "type": "debug", "mod": "mod-1", "level": word, "msg": "sent ü",
        "meta": {"sys": ""},
    }  # fmt: skip


def test_a_debug_line_that_is_no_json_is_shown_as_it_is() -> None:
    message = json.loads(protocol.debug(4, "mod-1", b"{}", b"\xffoops"))
    assert (message["level"], message["msg"]) == ("info", "\ufffdoops")
