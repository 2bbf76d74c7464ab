"""A scripted HTTP service."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final, cast
from urllib.parse import parse_qsl, urlsplit

import h11
import msgspec

from placeos.driver.testing.script import HOST, TIMEOUT, Scripted
from placeos.wire.messages import DriverDefaults, ModuleStart

SERVICE: Final = 2  # role of a module that is a service


@dataclass
class HTTPResponse:
    """What the service says: `json`, else `body`."""

    status: int = 200
    json: object = None
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)

    def content(self) -> tuple[bytes, str]:
        """The body and its type."""
        if self.json is None:
            return self.body, "application/octet-stream"
        return msgspec.json.encode(self.json), "application/json"


@dataclass
class HTTPRequest:
    """What the module asked. `path` is without the query; names of headers are lower case."""

    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    body: bytes
    line: _Line = field(repr=False)

    def json(self) -> Any:
        """The body, decoded."""
        return msgspec.json.decode(self.body)


Reply = HTTPResponse | Callable[[HTTPRequest], HTTPResponse]


class ScriptedHTTP(Scripted):
    """An HTTP server that plays the service: requests are expected or answered by rule.

    ::

        async with drive(FILE, device=(lamp := ScriptedHTTP())) as module:
            call = module.exec("power", True)
            request = await lamp.expect_request("PUT", "/power")
            assert request.json() == {"on": True}
            await lamp.responds(200, json={"ok": True})
            await call
    """

    roles = (SERVICE,)

    def __init__(self, *, base: str = "") -> None:
        super().__init__()
        self.requests: list[HTTPRequest] = []
        """All that came, in order."""
        self._base = base
        self._rules: dict[tuple[str, str], Reply] = {}
        self._waiting: list[HTTPRequest] = []
        self._expected: list[HTTPRequest] = []
        self._lines: set[_Line] = set()
        self._server: asyncio.Server | None = None

    @property
    def uri(self) -> str:
        """Where it is: `http://127.0.0.1:<port>` and the `base` it was given."""
        return f"http://{HOST}:{self.port}{self._base}"

    async def listen(self) -> None:
        """Accept connections, on the same port as before."""
        self._hold_a_port()
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(
            lambda: _Line(self), HOST, self.port, reuse_address=True
        )

    async def unplug(self) -> None:
        """Drop all connections and accept no more."""
        if self._server is not None:
            self._server.close()
            self._server = None
        for line in list(self._lines):
            line.abort()

    def introduce(self, start: ModuleStart, defaults: DriverDefaults) -> None:
        """Write into the module's record how it is reached."""
        super().introduce(start, defaults)
        start.uri = self.uri

    def answers(
        self,
        path: str,
        json: object = None,
        *,
        method: str = "GET",
        status: int = 200,
        body: bytes = b"",
        headers: dict[str, str] | None = None,
        by: Callable[[HTTPRequest], HTTPResponse] | None = None,
    ) -> None:
        """From now on answer such requests by itself; `by` makes the answer each time."""
        self._rules[method, path] = by or HTTPResponse(status, json, body, headers or {})
        waiting, self._waiting = self._waiting, []
        for request in waiting:
            self._came(request)

    def ignore_everything(self) -> None:
        """Answer nothing any more by itself."""
        self._rules.clear()

    async def expect_request(
        self, method: str = "", path: str = "", timeout: float = TIMEOUT
    ) -> HTTPRequest:
        """The next request that no rule answers; it is answered by `responds`.

        Raises AssertionError if it has another method or path.
        """
        await self._until(
            lambda: bool(self._waiting),
            timeout,
            lambda: f"expected {f'{method} {path}'.strip() or 'a request'}, got nothing",
        )
        request = self._waiting.pop(0)
        wanted = (method or request.method, path or request.path)
        got = (request.method, request.path)
        assert got == wanted, f"expected {' '.join(wanted)}, got {' '.join(got)}"
        self._expected.append(request)
        return request

    async def responds(
        self,
        status: int = 200,
        json: object = None,
        *,
        body: bytes = b"",
        headers: dict[str, str] | None = None,
    ) -> None:
        """Answer the oldest request that was expected and has no answer yet."""
        assert self._expected, "responds() answers what expect_request() returned"
        request = self._expected.pop(0)
        request.line.answer(HTTPResponse(status, json, body, headers or {}))

    def _opened(self, line: _Line) -> None:
        self.connections += 1
        self._lines.add(line)
        self._notify()

    def _closed(self, line: _Line) -> None:
        self._lines.discard(line)
        self._waiting = [request for request in self._waiting if request.line is not line]
        self._notify()

    def _asked(self, request: HTTPRequest) -> None:
        self.requests.append(request)
        self._came(request)
        self._notify()

    def _came(self, request: HTTPRequest) -> None:
        rule = self._rules.get((request.method, request.path))
        if rule is None:
            self._waiting.append(request)
        else:
            request.line.answer(rule(request) if callable(rule) else rule)


class _Line(asyncio.Protocol):
    """One connection."""

    def __init__(self, service: ScriptedHTTP) -> None:
        self._service = service
        self._http = h11.Connection(h11.SERVER)
        self._request: h11.Request | None = None
        self._body = b""
        self._transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._service._opened(self)

    def data_received(self, data: bytes) -> None:
        self._http.receive_data(data)
        self._read()

    def eof_received(self) -> None:
        self._http.receive_data(b"")

    def connection_lost(self, exc: Exception | None) -> None:
        self._service._closed(self)

    def abort(self) -> None:
        """Drop it."""
        self._transport.abort()

    def answer(self, response: HTTPResponse) -> None:
        """Send the response to its present request."""
        if self._transport.is_closing() or self._http.our_state is not h11.SEND_RESPONSE:
            return  # the module no longer waits for it
        content, kind = response.content()
        headers = {"content-type": kind, "content-length": str(len(content))}
        headers |= {name.lower(): value for name, value in response.headers.items()}
        head = h11.Response(status_code=response.status, headers=list(headers.items()))
        for event in (head, h11.Data(data=content), h11.EndOfMessage()):
            self._transport.write(self._http.send(event) or b"")
        self._finish()

    def _finish(self) -> None:
        """Close, or go on with the next request."""
        if self._http.our_state is h11.MUST_CLOSE:
            self._transport.close()
        elif self._http.our_state is h11.DONE and self._http.their_state is h11.DONE:
            self._http.start_next_cycle()
            self._read()

    def _read(self) -> None:
        try:
            while True:
                event = self._http.next_event()
                if isinstance(event, h11.Request):
                    self._request, self._body = event, b""
                elif isinstance(event, h11.Data):
                    self._body += bytes(event.data)
                elif isinstance(event, h11.EndOfMessage):
                    self._service._asked(self._finished())
                else:  # NEED_DATA, PAUSED, ConnectionClosed
                    return
        except h11.RemoteProtocolError:
            self._transport.abort()  # that is no HTTP

    def _finished(self) -> HTTPRequest:
        assert self._request is not None
        target = urlsplit(self._request.target.decode())
        return HTTPRequest(
            method=self._request.method.decode(),
            path=target.path,
            query=dict(parse_qsl(target.query, keep_blank_values=True)),
            headers={name.decode(): value.decode() for name, value in self._request.headers},
            body=self._body,
            line=self,
        )
