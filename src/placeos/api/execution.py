"""Calling functions of modules, and how their failures are answered (rest-behaviour 3)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import msgspec

from placeos.api import errors
from placeos.api.call import Call, Reply, decode_json, kind_of
from placeos.api.errors import ApiError
from placeos.api.http import read_body
from placeos.model.system import split_slug
from placeos.wire.errors import CallError, Failure
from placeos.wire.frame import Command, Header

TIMEOUT: Final = 30.0  # seconds, unless the caller says otherwise
MAX_TIMEOUT: Final = 300.0  # seconds

_NAMES: Mapping[str, str] = {
    Failure.MODULE_NOT_FOUND: "module not found",
    Failure.FUNCTION_NOT_FOUND: "bad request",
    Failure.BAD_ARGUMENTS: "bad request",
    Failure.BAD_REQUEST: "bad request",
    Failure.ACCESS_DENIED: "access denied",
    Failure.RAISED: "request failed",
}
_BODILESS = (204, 205, 304)


async def execute(
    call: Call, module_id: str | None, function: str, where: Mapping[str, object]
) -> Reply:
    """Call a function with the arguments in the body; answer what the driver answers.

    `where` names the module in an error: sys_id, module_name, index. Clearance is the token's.
    """
    timeout = timeout_of(call)
    arguments = await read_arguments(call)
    if module_id is None:
        raise failed(CallError(Failure.MODULE_NOT_FOUND, "could not find module"), where)
    header = Header(
        Command.EXECUTE,
        module=module_id,
        function=function,
        user=call.claims.sub,
        clearance=call.claims.clearance,
    )
    try:
        answer, payload = await call.services.router.request(header, arguments, timeout=timeout)
    except CallError as error:
        raise failed(error, where) from error
    status = answer.code if 200 <= answer.code <= 599 else 200
    return Reply(b"" if status in _BODILESS else payload, status, _waited(answer.waited))


async def resolve(call: Call, system_id: str, slug: str) -> str | None:
    """The module at a place of a system, for instance `Display_1`."""
    name, index = split_slug(slug)
    return await call.services.lookups.resolve(system_id, name, index)


def place(system_id: str, slug: str) -> dict[str, object]:
    """How errors name a module of a system."""
    name, index = split_slug(slug)
    return {"sys_id": system_id, "module_name": name, "index": index}


def failed(error: CallError, where: Mapping[str, object]) -> ApiError:
    """The answer to a failed call."""
    message = error.message
    name = _NAMES.get(error.failure, str(error.failure).replace("_", " "))
    if error.failure == Failure.RAISED:
        message = f"module raised: {message}"
    body = {
        "error": name or "unexpected failure",
        **where,
        "message": message,
        "backtrace": error.backtrace or None,
    }
    status = error.code if 400 <= error.code <= 599 else 500
    return ApiError(status, body, _waited(error.waited))


def _waited(milliseconds: int) -> dict[str, str] | None:
    """The header that tells for how long a call waited for its module, if it did."""
    return {"X-Waited": str(milliseconds)} if milliseconds else None


def timeout_of(call: Call) -> float:
    """Seconds the caller waits: header `X-Timeout`, else the default."""
    text = call.request.headers.get("x-timeout")
    if text is None:
        return TIMEOUT
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < float("inf"):
        raise errors.bad_parameter("X-Timeout", "seconds")
    return min(seconds, MAX_TIMEOUT)


async def read_arguments(call: Call) -> bytes:
    """The JSON array of the body, as it came: nothing between here and the driver needs it
    decoded, but a wrong shape is told now."""
    content_type = call.request.headers.get("content-type", "").partition(";")[0].strip().lower()
    body = await read_body(call.request)
    if not body.strip():
        raise errors.missing("body", "Array")
    if content_type not in ("", errors.JSON):
        raise errors.unsupported(content_type)
    value = decode_json(body)
    if not isinstance(value, list):
        raise errors.bad_request(f"expected a JSON array of arguments, got {kind_of(value)}")
    return msgspec.json.encode(value)


def describe(metadata: Mapping[str, object], clearance: int) -> dict[str, object]:
    """The functions of a module's interface that a caller may use: arity, parameters, order."""
    interface = metadata.get("interface")
    security = metadata.get("security")
    hidden: set[object] = set()
    if isinstance(security, dict):
        for level, needed in (("support", 1), ("administrator", 2)):
            if clearance < needed:
                hidden.update(security.get(level) or ())
    functions = interface if isinstance(interface, dict) else {}
    return {
        name: {"arity": len(parameters), "params": parameters, "order": list(parameters)}
        for name, parameters in functions.items()
        if name not in hidden and isinstance(parameters, dict)
    }
