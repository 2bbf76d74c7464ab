"""HTTP around the application, where Litestar or ASGI do not do what the contract says.

* HEAD works on every GET.
* Every response carries `X-Request-ID`: the request's own, or a new UUID.
* `%2F` inside a path segment stays inside it (function names, ids).
* A body of `MAX_BODY` bytes or more is a 413, with and without Content-Length.
"""

from __future__ import annotations

import asyncio
import random
import re
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any, NoReturn
from urllib.parse import unquote

from litestar import Request
from litestar.enums import HttpMethod, ScopeType
from litestar.types import ASGIApp, Message, Receive, Scope, Send

from placeos.api import errors

MAX_BODY = 10_000_000  # bytes; a body of this size is too large
MAX_DRAIN = 64_000_000  # bytes of a refused body that are read away
DRAIN_TIME = 2.0  # seconds that takes at most
SLASH = "\ue02f"  # stands for an encoded slash while routing; a private-use character

_REQUEST_ID = re.compile(rb"[\x21-\x7e]{1,128}")


class Front:
    """The outermost ASGI layer."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection."""
        if scope["type"] != ScopeType.HTTP:
            await self._app(scope, receive, send)
            return
        raw_path = scope.get("raw_path")
        if raw_path and b"%" in raw_path:
            scope["path"] = routing_path(raw_path)
        request_id = _request_id(scope)
        head = scope["method"] == "HEAD"
        if head:
            scope["method"] = HttpMethod.GET

        async def sending(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], (b"x-request-id", request_id)]
            elif head and message["type"] == "http.response.body":
                message["body"] = b""
            await send(message)

        await self._app(scope, receive, sending)


def routing_path(raw_path: bytes) -> str:
    """The decoded path, in which an encoded slash does not separate segments."""
    path = raw_path.partition(b"?")[0].decode("latin-1")
    segments = [unquote(segment).replace("/", SLASH) for segment in path.split("/")]
    return "/".join(segments)


async def read_body(request: Request[Any, Any, Any]) -> bytes:
    """The body of a request. Raises 413 as soon as it reaches `MAX_BODY`."""
    declared = request.headers.get("content-length", "")
    if declared.isdigit() and int(declared) >= MAX_BODY:
        await _refuse(request)
    chunks: list[bytes] = []
    size = 0
    async for chunk in _chunks(request):
        size += len(chunk)
        if size >= MAX_BODY:
            chunks.clear()
            await _refuse(request)
        chunks.append(chunk)
    return chunks[0] if len(chunks) == 1 else b"".join(chunks)


async def _refuse(request: Request[Any, Any, Any]) -> NoReturn:
    """Raise 413. Many clients, and the front door for those that sent `Expect`, read no answer
    before they have sent everything, so what they still send is read away, within bounds."""
    size = 0
    with suppress(TimeoutError):
        async with asyncio.timeout(DRAIN_TIME):
            async for chunk in _chunks(request):
                size += len(chunk)
                if size >= MAX_DRAIN:
                    break
    raise errors.too_large(MAX_BODY)


async def _chunks(request: Request[Any, Any, Any]) -> AsyncIterator[bytes]:
    while True:
        message = await request.receive()
        if message["type"] != "http.request":
            raise errors.bad_request("the request was cut off")
        yield message["body"]
        if not message["more_body"]:
            return


def _request_id(scope: Scope) -> bytes:
    for name, value in scope["headers"]:
        if name == b"x-request-id" and _REQUEST_ID.fullmatch(value):
            return value
    # A random UUID without the cost of its class; nobody needs to be unable to guess it.
    number = f"{random.getrandbits(128):032x}"
    variant = "89ab"[int(number[16], 16) & 3]
    parts = (number[:8], number[8:12], f"4{number[13:16]}", variant + number[17:20], number[20:])
    return "-".join(parts).encode()
