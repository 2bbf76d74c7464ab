"""`self.http`: the queue of a module's requests. Loads httpx with the first one."""

from __future__ import annotations

import asyncio
import contextvars
import math
from collections.abc import Awaitable, Callable, Coroutine
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from importlib import import_module
from typing import Any, Final, Unpack

from placeos.driver.command import Command, Gate
from placeos.driver.errors import DriverError, LeaseLost, Offline, Withdrawn
from placeos.driver.fencing.permit import LAPSED, OPEN, Permit, watch
from placeos.driver.log import ModuleLogger
from placeos.driver.schema import encode
from placeos.driver.sender import Sender
from placeos.driver.transports import http_settings
from placeos.driver.transports.base import Address, ConnectionEvents, Role, Transport
from placeos.driver.transports.http import HTTP
from placeos.driver.transports.http_message import (
    HTTPError,
    Options,
    Request,
    Response,
    is_absolute,
    origin_of,
    url_of,
)

__all__ = ["HTTPError", "HttpClient", "Options", "Request", "Response"]

IDEMPOTENT: Final = frozenset({"GET", "HEAD", "OPTIONS", "PUT", "DELETE"})
CLOSING: Final = 0.3  # seconds requests may take to end when they are cancelled
UNUSABLE: Final = 502  # the code of errors about an answer, say one that is too long
_SCHEMES: Final = {"http": "http", "https": "https", "ws": "http", "wss": "https"}

Hook = Callable[[Request], Awaitable[None]]

_in_hook: ContextVar[bool] = ContextVar("in_before_request", default=False)


class ConnectionFailed(Exception):
    """A request got no answer; `error` is for who made it, `again` whether to try again."""

    def __init__(self, error: DriverError, *, again: bool) -> None:
        super().__init__(str(error))
        self.error = error
        self.again = again


@dataclass
class Job:
    """One request on its way."""

    request: Request
    form: dict[str, Any]  # what httpx makes a body of
    timeout: float | None
    follow: bool
    context: contextvars.Context = field(default_factory=contextvars.copy_context)
    last: Callable[[], bool] = lambda: True  # whether no further attempt follows


class HttpClient:
    """Requests to a module's device or service.

    Paths are relative to the module's URI; a whole URL may be given too, and gets none of the
    module's credentials if it leads elsewhere. Raises Offline or NoReply when there is no
    answer; any answer is a `Response`, whatever its status.
    """

    def __init__(
        self,
        transport: Transport,
        address: Address,
        events: ConnectionEvents | None,
        hook: Hook | None,
        log: ModuleLogger,
        spawn: Callable[[Coroutine[Any, Any, object], str], object],
        permit: Permit = OPEN,
    ) -> None:
        self._spec = transport if isinstance(transport, HTTP) else HTTP()
        self._below = transport.role == Role.SERVICE
        self._default = transport.default_uri
        self._address = address
        self._log = log
        # the answers to others' requests tell nothing about the connection to the device
        self._events = events if isinstance(transport, HTTP) else None
        self._hook = hook
        self._spawn = spawn
        self._permit = permit
        self._session: Any = None  # of http_session.py
        self._loading = asyncio.Lock()
        self._running: dict[Command, asyncio.Task[None]] = {}
        self._sender = self._made_sender()

    # -- what authors use -----------------------------------------------------------------

    async def get(self, path: str = "", **options: Unpack[Options]) -> Response:
        """GET; see `Options`."""
        return await self.request("GET", path, **options)

    async def post(self, path: str = "", **options: Unpack[Options]) -> Response:
        """POST; see `Options`."""
        return await self.request("POST", path, **options)

    async def put(self, path: str = "", **options: Unpack[Options]) -> Response:
        """PUT; see `Options`."""
        return await self.request("PUT", path, **options)

    async def patch(self, path: str = "", **options: Unpack[Options]) -> Response:
        """PATCH; see `Options`."""
        return await self.request("PATCH", path, **options)

    async def delete(self, path: str = "", **options: Unpack[Options]) -> Response:
        """DELETE; see `Options`."""
        return await self.request("DELETE", path, **options)

    async def request(self, method: str, path: str = "", **options: Unpack[Options]) -> Response:
        """Any method. Requests wait for each other, unless they are made in `before_request`.

        Raises Offline, NoReply, Superseded, Withdrawn, Busy, and DriverError for a request
        that cannot be made.
        """
        job = _job(method, path, options)
        if _in_hook.get():
            return await self._unqueued(job)
        retries = options.get("retries")
        if retries is None:
            retries = self._spec.retries if job.request.method in IDEMPOTENT else 0
        delay = options.get("delay")
        command = Command(
            data=job,
            name=options.get("name", ""),
            priority=options.get("priority", 50),
            timeout=math.inf,  # the job itself sees to that
            retries=retries,
            delay=self._spec.delay if delay is None else delay,
            via=self._launch,
        )
        job.last = lambda: command.attempts > command.retries
        try:
            response: Response = await self._sender.send(command)
        finally:  # who is not there any more needs no answer
            task = self._running.get(command)
            if task is not None:
                task.cancel()
        return response

    def cookie_header(self, path: str = "") -> str:
        """What a request to `path` would send as `Cookie`; for `websocket_headers`, say."""
        if self._session is None:
            return ""
        cookies: str = self._session.cookie_header(self._url(path, None))
        return cookies

    # -- what the module uses -------------------------------------------------------------

    def clear(self, *, current: bool) -> None:
        """Withdraw the requests that wait, with `current` also those under way."""
        self._sender.clear(current=current)
        if current:
            self._stop()

    def move(self, address: Address) -> None:
        """Address or settings changed: begin anew, without the cookies."""
        if address == self._address:
            return
        self._address = address
        self._begin_anew(Offline("the address or the settings were changed"))

    async def close(self) -> None:
        """End all requests and connections; takes `CLOSING` seconds at most."""
        watching = watch()
        if watching is not None:
            watching.remove(self._lapsed)
        self._sender.clear(current=True)
        tasks = self._stop()
        if tasks:  # the driver's code may not end when it is cancelled: nothing waits for that
            await asyncio.wait(tasks, timeout=CLOSING)
        if self._session is not None:
            await self._session.close()

    # -- inside ---------------------------------------------------------------------------

    def _lapsed(self) -> None:
        """Nothing may be sent any more."""
        self._begin_anew(LeaseLost(LAPSED))

    def _begin_anew(self, error: DriverError) -> None:
        self._sender.clear(current=True, error=error)
        self._stop()
        session, self._session = self._session, None
        if session is not None:
            self._spawn(session.close(), "close HTTP connections")

    def _made_sender(self) -> Sender:
        def never(_: object) -> None:
            raise AssertionError("a request is carried out by its own task")

        sender = Sender(never, lambda: None, self._log, in_flight=self._spec.concurrent)
        sender.set_gate(Gate.OPEN)
        return sender

    def _launch(self, command: Command) -> None:
        task = asyncio.get_running_loop().create_task(
            self._carry_out(command), name=str(command.data.request), context=command.data.context
        )
        self._running[command] = task
        task.add_done_callback(lambda done: self._landed(command, done))

    def _landed(self, command: Command, task: asyncio.Task[None]) -> None:
        if self._running.get(command) is task:
            del self._running[command]

    def _stop(self) -> list[asyncio.Task[None]]:
        tasks = list(self._running.values())
        for task in tasks:
            task.cancel()
        return tasks

    async def _carry_out(self, command: Command) -> None:
        try:
            response = await self._attempt(command.data, self._hook)
        except asyncio.CancelledError:
            self._sender.fail(command, Withdrawn("the request was withdrawn"))
            raise
        except ConnectionFailed as failed:
            self._sender.fail(command, failed.error, again=failed.again)
        except Exception as error:
            self._sender.fail(command, error)
        else:
            self._sender.reply(command, response)

    async def _unqueued(self, job: Job) -> Response:
        try:
            return await self._attempt(job, None)
        except ConnectionFailed as failed:
            raise failed.error from failed

    async def _attempt(self, job: Job, hook: Hook | None) -> Response:
        request = replace(
            job.request, params=dict(job.request.params), headers=dict(job.request.headers)
        )
        if hook is not None:
            token = _in_hook.set(True)
            try:
                await hook(request)
            finally:
                _in_hook.reset(token)
        url = self._url(request.path, request.params)
        own = origin_of(url) == origin_of(self._target().uri)
        session = await self._loaded()
        try:
            response: Response = await session.send(job, request, url, own=own)
        except ConnectionFailed as failed:
            if own and self._events is not None and (job.last() or not failed.again):
                self._events.unheard(str(failed.error))
            raise
        except DriverError as error:
            if own and self._events is not None and error.code == UNUSABLE:
                self._events.heard()
            raise
        if own and self._events is not None:
            self._events.heard()
        return response

    async def _loaded(self) -> Any:
        async with self._loading:
            if self._session is None:
                # In a thread, for that takes a tenth of a second and more the first time.
                name = "placeos.driver.transports.http_session"
                module = await asyncio.to_thread(import_module, name)
                self._session = module.Session(
                    self._target(),
                    self._address,
                    self._log,
                    self._spec.concurrent,
                    self._permit,
                )
                watching = watch()
                if watching is not None:
                    watching.add(self._permit, self._lapsed)
            return self._session

    def _url(self, path: str, params: dict[str, Any] | None) -> str:
        return url_of(self._target().uri, path, params, below=self._below)

    def _target(self) -> http_settings.Target:
        uri = self._address.uri or self._default
        if not uri:
            host = f"[{self._address.host}]" if ":" in self._address.host else self._address.host
            uri = f"http{'s' if self._address.tls else ''}://{host}"
        return http_settings.target_of(uri, _SCHEMES)


def _job(method: str, path: str, options: Options) -> Job:
    """Raises DriverError for a request with two bodies."""
    kinds = [name for name in ("json", "data", "content") if options.get(name) is not None]
    if len(kinds) > 1:
        raise DriverError(f"a request has one body, not {' and '.join(kinds)}", code=400)
    if is_absolute(path) and not origin_of(path)[1]:
        raise DriverError("the URL of a request names no host", code=400)
    headers = dict(options.get("headers") or {})
    content = options.get("content")
    if options.get("json") is not None:
        content = encode(options["json"])
        if not any(name.lower() == "content-type" for name in headers):
            headers["Content-Type"] = "application/json"
    return Job(
        request=Request(
            method=method.upper(),
            path=path,
            params=dict(options.get("params") or {}),
            headers=headers,
            content=content,
        ),
        form={name: options[name] for name in ("data", "files") if options.get(name) is not None},
        timeout=options.get("timeout"),
        follow=options.get("follow", False),
    )
