"""What a request says, wherever it says it: query, form, JSON body, headers, cookies."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import parse_qsl, unquote_plus, urlsplit

import msgspec
from litestar import Request

from placeos.auth.oauth import OAuthError

MAX_BODY: Final = 64 * 1024  # bytes
MAX_FIELDS: Final = 64

HTTPRequest = Request[Any, Any, Any]


async def parameters(request: HTTPRequest) -> dict[str, str]:
    """Parameters of query and body together; the body wins. Raises OAuthError."""
    found = parse_form(request.scope.get("query_string", b"").decode("latin-1"))
    body = await _body(request)
    if not body.strip():
        return found
    try:
        text = body.decode()
    except UnicodeDecodeError:
        raise OAuthError("invalid_request", "the body is no UTF-8") from None
    content_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if content_type == "application/json":
        return found | parse_json(text)
    if content_type in ("", "application/x-www-form-urlencoded"):
        return found | parse_form(text)
    raise OAuthError("invalid_request", f"a body of type {content_type[:64]!r} is not understood")


async def _body(request: HTTPRequest) -> bytes:
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_BODY:
            raise OAuthError("invalid_request", f"the body is longer than {MAX_BODY} bytes")
    return body


def parse_form(text: str) -> dict[str, str]:
    """URL-encoded parameters; of one that is repeated the first counts."""
    try:
        pairs = parse_qsl(text, keep_blank_values=True, max_num_fields=MAX_FIELDS)
    except ValueError:
        raise OAuthError("invalid_request", f"more than {MAX_FIELDS} parameters") from None
    return dict(reversed(pairs))


def parse_json(text: str) -> dict[str, str]:
    """The text members of a JSON object."""
    try:
        members = msgspec.json.decode(text, type=dict[str, Any])
    except (msgspec.MsgspecError, RecursionError) as error:
        raise OAuthError("invalid_request", f"the body is no JSON object: {error}") from None
    return {name: value for name, value in members.items() if isinstance(value, str)}


def bearer(headers: Mapping[str, str], query: Mapping[str, str], cookies: Mapping[str, str]) -> str:
    """The access token a request carries, or an empty string."""
    header = headers.get("authorization")
    if header is not None:
        return header.removeprefix("Bearer ").removeprefix("Token ").strip()
    return query.get("bearer_token") or cookies.get("bearer_token") or ""


def client_id(headers: Mapping[str, str], given: Mapping[str, str]) -> str:
    """Which application asks: the parameter, else the user name of HTTP Basic."""
    return _basic_or_parameter(headers, given).replace("\0", "")[:255]


def _basic_or_parameter(headers: Mapping[str, str], given: Mapping[str, str]) -> str:
    if given.get("client_id"):
        return given["client_id"]
    scheme, _, encoded = headers.get("authorization", "").partition(" ")
    if scheme.lower() != "basic":
        return ""
    try:
        decoded = base64.b64decode(encoded, validate=True).decode()
    except (binascii.Error, UnicodeDecodeError):
        return ""
    return unquote_plus(decoded.partition(":")[0])


def host_name(headers: Mapping[str, str]) -> str:
    """The name in the Host header, in lower case and without port."""
    try:
        return (urlsplit(f"//{headers.get('host', '')}").hostname or "").lower()
    except ValueError:
        return ""


def origin(headers: Mapping[str, str]) -> str:
    """Scheme and host as the client sees them; the front door tells the scheme."""
    scheme = headers.get("x-forwarded-proto", "http")
    return f"{scheme}://{headers.get('host', 'localhost')}"


def address(request: HTTPRequest) -> str:
    """Where the request comes from: the last hop that the front door saw."""
    forwarded = request.headers.get("x-forwarded-for", "").rpartition(",")[2].strip()
    if forwarded:
        return forwarded[:64]
    return request.client.host if request.client is not None else ""
