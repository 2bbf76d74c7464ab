"""How a call fails, in words both ends of a link share."""

from __future__ import annotations

from enum import StrEnum

import msgspec


class Failure(StrEnum):
    """The kind of a failure; travels in `Header.error`."""

    MODULE_NOT_FOUND = "module_not_found"  # no such module here or in the system (404)
    FUNCTION_NOT_FOUND = "function_not_found"  # the module has no such function (400)
    BAD_ARGUMENTS = "bad_arguments"  # too few, too many or wrongly typed arguments (400)
    ACCESS_DENIED = "access_denied"  # the function needs more clearance (401)
    RAISED = "raised"  # the driver's method raised; `code` is its own
    TIMED_OUT = "timed_out"  # the caller's time ran out (408)
    NOT_RUN = "not_run"  # stopped or lost before the method was entered (503)
    MAY_HAVE_RUN = "may_have_run"  # the link or process was lost after it was entered (502)
    MOVED = "moved"  # another core owns the module; look again (421)
    BUSY = "busy"  # a bound was reached (503)
    BAD_REQUEST = "bad_request"  # the frame itself made no sense (400)


CODES: dict[str, int] = {
    Failure.MODULE_NOT_FOUND: 404,
    Failure.FUNCTION_NOT_FOUND: 400,
    Failure.BAD_ARGUMENTS: 400,
    Failure.ACCESS_DENIED: 401,
    Failure.RAISED: 500,
    Failure.TIMED_OUT: 408,
    Failure.NOT_RUN: 503,
    Failure.MAY_HAVE_RUN: 502,
    Failure.MOVED: 421,
    Failure.BUSY: 503,
    Failure.BAD_REQUEST: 400,
}


class ErrorDetail(msgspec.Struct, omit_defaults=True):
    """The payload of an ERROR frame, as JSON."""

    message: str
    kind: str = ""  # class name of what the driver raised
    backtrace: list[str] = []
    view: int = 0  # number of the view by which a core said `moved`; 0: unknown


class CallError(Exception):
    """A call over a link failed. `failure` says how, `code` is the HTTP-like status."""

    def __init__(
        self,
        failure: Failure | str,
        message: str,
        *,
        code: int = 0,
        kind: str = "",
        backtrace: list[str] | None = None,
        view: int = 0,
    ) -> None:
        super().__init__(message)
        self.failure = failure
        self.message = message
        self.code = code or CODES.get(failure, 500)
        self.kind = kind
        self.backtrace = backtrace or []
        self.view = view
        self.waited = 0
        """Milliseconds for which the call waited for its module; travels in the header."""

    def detail(self) -> bytes:
        """The payload of the ERROR frame that carries this error on."""
        detail = ErrorDetail(self.message, self.kind, self.backtrace, self.view)
        return msgspec.json.encode(detail)

    @classmethod
    def parse(cls, error: str, code: int, payload: bytes) -> CallError:
        """The error that an ERROR frame carried."""
        try:
            detail = msgspec.json.decode(payload, type=ErrorDetail)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            detail = ErrorDetail(payload.decode("utf-8", "replace"))
        return cls(
            error,
            detail.message,
            code=code,
            kind=detail.kind,
            backtrace=list(detail.backtrace),
            view=detail.view,
        )
