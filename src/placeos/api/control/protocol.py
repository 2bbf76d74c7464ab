"""The words of the control websocket: requests in, messages out. Pure; no sockets, no time.

Messages are put together from bytes that are JSON already: a live value is spliced in
between a prefix and a suffix that its binding keeps, and never decoded on the way.
"""

from __future__ import annotations

import re
from enum import IntEnum
from typing import Annotated, Final

import msgspec
from msgspec import Meta, Raw

from placeos.wire.errors import CallError, Failure
from placeos.wire.messages import LogLine

MAX_NAME: Final = 1024  # characters of sys, mod and name; a binding keeps them in memory
PROTECTED: Final = "_"
TRIGGER: Final = "_TRIGGER_"
COMMANDS: Final = frozenset(("bind", "unbind", "exec", "debug", "ignore"))
LEVELS: Final = ("trace", "debug", "info", "notice", "warn", "error", "fatal")

_Id = Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)]
_Index = Annotated[int, Meta(ge=-(2**31), le=2**31 - 1)]


class ErrorCode(IntEnum):
    """The `error_code` of an error message."""

    PARSE_ERROR = 0
    BAD_REQUEST = 1
    ACCESS_DENIED = 2
    REQUEST_FAILED = 3
    UNKNOWN_COMMAND = 4
    SYSTEM_NOT_FOUND = 5
    MODULE_NOT_FOUND = 6
    UNEXPECTED_FAILURE = 7


_ERROR_CODES: Final[dict[str, ErrorCode]] = {
    Failure.MODULE_NOT_FOUND: ErrorCode.MODULE_NOT_FOUND,
    Failure.FUNCTION_NOT_FOUND: ErrorCode.BAD_REQUEST,
    Failure.BAD_ARGUMENTS: ErrorCode.BAD_REQUEST,
    Failure.BAD_REQUEST: ErrorCode.BAD_REQUEST,
    Failure.ACCESS_DENIED: ErrorCode.ACCESS_DENIED,
    Failure.RAISED: ErrorCode.REQUEST_FAILED,
    Failure.TIMED_OUT: ErrorCode.REQUEST_FAILED,
}

_ANSWERED: Final = frozenset(
    (Failure.RAISED, Failure.BAD_ARGUMENTS, Failure.FUNCTION_NOT_FOUND, Failure.ACCESS_DENIED)
)


class Refusal(Exception):
    """A request that cannot be served; becomes an error message."""

    def __init__(self, error_code: ErrorCode, message: str, *, id: int | None = None) -> None:
        super().__init__(message)
        self.error_code = error_code
        self.message = message
        self.id = id


class Request(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """One request of a client. `args` is raw JSON: an array, null or absent."""

    id: _Id
    cmd: str
    sys: str
    mod: str
    name: str
    index: _Index = 1
    args: Raw = Raw(b"")

    @property
    def key(self) -> tuple[str, str, int, str]:
        """What a binding is known by within one connection."""
        return self.sys, self.mod, self.index, self.name

    def arguments(self) -> bytes:
        """The positional arguments as a JSON array. Raises Refusal if they are something else."""
        raw = bytes(self.args)
        if not raw or raw == b"null":
            return b"[]"
        if not raw.startswith(b"["):
            raise Refusal(ErrorCode.BAD_REQUEST, "args should be an array", id=self.id)
        return raw


class _Meta(msgspec.Struct):
    sys: str
    mod: str
    index: int
    name: str


class _Error(msgspec.Struct, omit_defaults=True):
    id: int | None = None
    type: str = ""
    error_code: int = -1
    msg: str = ""
    code: int = 0
    waited: int = 0


class _Debug(msgspec.Struct):
    id: int
    type: str
    mod: str
    level: str
    msg: str
    meta: Raw


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Request).decode
_decode_line = msgspec.json.Decoder(LogLine).decode
_ID = re.compile(r'"id"\s*:\s*(-?\d{1,19})(?![\d.eE])')


def parse(text: str) -> Request:
    """The request in a text message. Raises Refusal, with the request's id if it shows one."""
    try:
        request = _decode(text)
    except msgspec.ValidationError as error:
        raise Refusal(ErrorCode.BAD_REQUEST, str(error), id=_find_id(text)) from None
    except (msgspec.DecodeError, RecursionError, UnicodeError) as error:
        raise Refusal(ErrorCode.PARSE_ERROR, str(error), id=_find_id(text)) from None
    if request.cmd not in COMMANDS:
        message = f"unknown command {request.cmd[:64]!r}"
        raise Refusal(ErrorCode.UNKNOWN_COMMAND, message, id=request.id)
    for field, value in (("sys", request.sys), ("mod", request.mod), ("name", request.name)):
        if len(value) > MAX_NAME:
            message = f"{field} is longer than {MAX_NAME} characters"
            raise Refusal(ErrorCode.BAD_REQUEST, message, id=request.id)
    return request


def _find_id(text: str) -> int | None:
    """The id of a request that as a whole is unreadable, so that its sender can match it."""
    found = _ID.search(text, 0, 4096)
    if found is None:
        return None
    number = int(found[1])
    return number if -(2**63) <= number < 2**63 else None


def meta(request: Request) -> bytes:
    """`meta` as JSON: what was asked for, exactly as received."""
    return _encode(_Meta(request.sys, request.mod, request.index, request.name))


def success(id: int) -> bytes:
    """Answer to unbind, debug and ignore."""
    return b'{"id":%d,"type":"success"}' % id


def bound(id: int, meta: bytes) -> bytes:
    """Answer to bind."""
    return b'{"id":%d,"type":"success","meta":%b}' % (id, meta)


def executed(id: int, value: bytes, meta: bytes, code: int, waited: int = 0) -> bytes:
    """Answer to exec; `value` is the JSON text that the driver returned.

    `waited` is told, in milliseconds, when the call had to wait for its module.
    """
    return b'{"id":%d,"type":"success","value":%b,"meta":%b,"code":%d%b}' % (
        id,
        clean(value) or b"null",
        meta,
        code or 200,
        b',"waited":%d' % waited if waited else b"",
    )


def notify_prefix(id: int) -> bytes:
    """What comes before a binding's value; `id` is that of the request that bound first."""
    return b'{"id":%d,"type":"notify","value":' % id


def notify_suffix(meta: bytes) -> bytes:
    """What comes after a binding's value."""
    return b',"meta":%b}' % meta


def debug(id: int, module: str, meta: bytes, payload: bytes) -> bytes:
    """One line of a module's log; `payload` is a LogLine as JSON."""
    try:
        line = _decode_line(payload)
    except msgspec.MsgspecError:
        line = LogLine(level=2, message=payload.decode("utf-8", "replace"))
    level = LEVELS[min(max(line.level, 0), len(LEVELS) - 1)]
    return _encode(_Debug(id, "debug", module, level, line.message, Raw(meta)))


def refused(refusal: Refusal, code: int = 500, waited: int = 0) -> bytes:
    """An error message."""
    return _encode(_Error(refusal.id, "error", refusal.error_code, refusal.message, code, waited))


def call_failed(id: int, error: CallError) -> bytes:
    """The error message for a call that failed on its way or in the driver.

    `code` is what the driver answered; where none was asked or none answered it is 500.
    """
    error_code = _ERROR_CODES.get(error.failure, ErrorCode.UNEXPECTED_FAILURE)
    message = error.message
    if error.failure == Failure.RAISED:
        kind = f" ({error.kind})" if error.kind else ""
        message = f"module raised: {message}{kind}"
    code = error.code if error.failure in _ANSWERED else 500
    return refused(Refusal(error_code, message, id=id), code, error.waited)


def clean(value: bytes) -> bytes:
    """JSON text fit for a text message: invalid UTF-8, which would end the socket, replaced."""
    return value if value.isascii() else value.decode("utf-8", "replace").encode()
