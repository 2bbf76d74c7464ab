"""The one place where errors become HTTP answers (rest-behaviour 1.6).

Handlers raise; nothing else in the API builds an error answer.
"""

from __future__ import annotations

import logging
import traceback
from collections.abc import Mapping
from typing import Any

import msgspec
from litestar import Request, Response
from litestar.exceptions import HTTPException, MethodNotAllowedException, NotFoundException
from redis.exceptions import RedisError

from placeos.api.authentication import Unauthorised
from placeos.cluster.etcd import EtcdError
from placeos.model.rules import Failure, Invalid, WrongType
from placeos.state.client import StateUnavailable
from placeos.store import Refused, Unavailable

log = logging.getLogger("placeos.api")

JSON = "application/json"

AnyRequest = Request[Any, Any, Any]


class ApiError(Exception):
    """An answer with a status and a JSON body (None: an empty body)."""

    def __init__(
        self,
        status: int,
        body: Mapping[str, object] | None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(str(body))
        self.status = status
        self.body = body
        self.headers = dict(headers or {})


def bad_request(message: str) -> ApiError:
    """400: the JSON of a body is broken or of a wrong shape."""
    return ApiError(400, {"error": message})


def bad_parameter(name: str, restriction: str) -> ApiError:
    """400: a parameter cannot be understood."""
    message = f"invalid parameter value for '{name}'"
    return ApiError(400, {"error": message, "parameter": name, "restriction": restriction})


def missing(name: str, restriction: str) -> ApiError:
    """422: a required parameter or body is missing."""
    message = f"missing required parameter '{name}'"
    return ApiError(422, {"error": message, "parameter": name, "restriction": restriction})


def forbidden() -> ApiError:
    """403: role, scope or grant; the body is empty."""
    return ApiError(403, None)


def not_found(message: str) -> ApiError:
    """404: no such record."""
    return ApiError(404, {"error": message})


def conflict(message: str) -> ApiError:
    """409: the record has changed since."""
    return ApiError(409, {"error": message})


def not_acceptable() -> ApiError:
    """406: the client does not take JSON."""
    return ApiError(406, {"error": "no responder available", "accepts": [JSON]})


def unsupported(content_type: str) -> ApiError:
    """415: the body is not JSON."""
    return ApiError(415, {"error": f"no parser available for {content_type}", "accepts": [JSON]})


def too_large(limit: int) -> ApiError:
    """413: the body reaches the limit, in bytes."""
    return ApiError(413, {"error": f"the body should be smaller than {limit} bytes"})


def invalid(field: str, reason: str) -> Invalid:
    """422 for one field of a record."""
    return Invalid(Failure(field, reason))


def answer(request: AnyRequest, error: Exception, *, production: bool) -> Response[bytes]:
    """The HTTP answer to an exception. What is not foreseen is logged and a bare 500."""
    if isinstance(error, ApiError):
        return _response(error.status, error.body, error.headers)
    if isinstance(error, Unauthorised):
        return _response(401, {"error": error.message})
    if isinstance(error, Invalid):
        failures = [{"field": one.field, "reason": one.reason} for one in error.failures]
        return _response(422, {"error": "validation failed", "failures": failures})
    if isinstance(error, Refused):
        failures = [{"field": error.field, "reason": error.reason}]
        return _response(422, {"error": "validation failed", "failures": failures})
    if isinstance(error, WrongType):
        return _response(400, {"error": str(error), "field": error.field})
    if isinstance(error, NotFoundException):
        return _response(404, {"error": "no such route"})
    if isinstance(error, MethodNotAllowedException):
        return _response(405, {"error": "method not allowed"}, error.headers)
    if isinstance(error, HTTPException) and error.status_code < 500:
        return _response(error.status_code, {"error": error.detail})
    if isinstance(error, Unavailable):
        return _response(503, {"error": str(error)}, {"Retry-After": "1"})
    if isinstance(error, EtcdError):
        message = f"the cluster's registry (etcd) is not available: {error}"
        return _response(503, {"error": message}, {"Retry-After": "1"})
    if isinstance(error, StateUnavailable | RedisError):
        message = "the live state (Redis) is not available"
        return _response(503, {"error": message}, {"Retry-After": "1"})
    return _unforeseen(request, error, production=production)


def _unforeseen(request: AnyRequest, error: Exception, *, production: bool) -> Response[bytes]:
    log.error(
        "request failed",
        exc_info=error,
        extra={"method": request.method, "path": request.scope.get("path")},
    )
    if not production:
        backtrace = traceback.format_exception(error)
        return _response(500, {"error": str(error), "backtrace": backtrace})
    accepts_json = JSON in request.headers.get("accept", "")
    return _response(500, {} if accepts_json else None)


def _response(
    status: int, body: Mapping[str, object] | None, headers: Mapping[str, str] | None = None
) -> Response[bytes]:
    content = b"" if body is None else msgspec.json.encode(body)
    return Response(content, status_code=status, media_type=JSON, headers=dict(headers or {}))
