"""Whether a websocket may be opened, judged from the request alone. Pure.

A credential in the query or a header is as good from any origin, as with CORS. Cookies count
only from the same origin: a browser sends them along whoever's page opens the socket.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final
from urllib.parse import parse_qsl, urlsplit

import msgspec

PATH: Final = "/api/engine/v2/systems/control"
_QUERY: Final = frozenset(("api-key", "bearer_token"))
_HEADERS: Final = frozenset(("x-api-key", "authorization"))
_DEFAULT_PORTS: Final = {"http": 80, "https": 443, "ws": 80, "wss": 443}


class Credentials(msgspec.Struct, frozen=True):
    """What the authenticator needs; a session keeps it to be looked at again."""

    headers: dict[str, str]
    query: dict[str, str]
    cookies: dict[str, str]
    host: str


class Rejection(Exception):
    """The handshake ends in an ordinary HTTP error."""

    def __init__(self, status: int, message: str, headers: dict[str, str] | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.headers = headers or {}


def judge(target: str, headers: Mapping[str, str]) -> Credentials:
    """The credentials in a request; header names are lower case. Raises Rejection."""
    path, _, query_text = target.partition("?")
    if path.rstrip("/") != PATH:
        raise Rejection(404, "not found")
    _check_upgrade(headers)
    try:
        pairs = parse_qsl(query_text, keep_blank_values=True, max_num_fields=64)
    except ValueError as error:
        raise Rejection(400, f"unreadable query: {error}") from None
    query = {name: value for name, value in reversed(pairs) if name in _QUERY}
    named = {name: headers[name] for name in _HEADERS if name in headers}
    cookies = _cookies(headers.get("cookie", ""))
    host = headers.get("host", "")
    origin = headers.get("origin", "")
    if cookies and origin and not same_origin(origin, host):
        if not query and not named:
            raise Rejection(403, "cookies of this site do not count from another origin")
        cookies = {}
    return Credentials(named, query, cookies, host_name(host))


def _check_upgrade(headers: Mapping[str, str]) -> None:
    if headers.get("upgrade", "").lower() != "websocket":
        raise Rejection(426, "this address speaks websocket", {"Upgrade": "websocket"})
    if headers.get("sec-websocket-version", "") != "13":
        raise Rejection(426, "websocket version 13 is needed", {"Sec-WebSocket-Version": "13"})


def _cookies(header: str) -> dict[str, str]:
    cookies: dict[str, str] = {}
    for part in header.split(";"):
        name, separator, value = part.strip().partition("=")
        if separator and name in _QUERY:
            cookies.setdefault(name, value.strip('"'))
    return cookies


def host_name(host: str) -> str:
    """The name in a Host header, in lower case and without port."""
    try:
        return (urlsplit(f"//{host}").hostname or "").lower()
    except ValueError:
        return ""


def same_origin(origin: str, host: str) -> bool:
    """Whether an Origin header names the Host of the same request."""
    try:
        ours, theirs = urlsplit(f"//{host}"), urlsplit(origin)
        default = _DEFAULT_PORTS.get(theirs.scheme)
        our_port, their_port = ours.port or default, theirs.port or default
    except ValueError:
        return False
    return bool(theirs.hostname) and theirs.hostname == ours.hostname and our_port == their_port
