"""The connections of one module's requests. The only file of the SDK that knows httpx."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import TYPE_CHECKING, Final
from urllib.request import Request as CookieRequest

import httpx

from placeos import __version__
from placeos.driver.errors import DriverError, NoReply, Offline
from placeos.driver.fencing.permit import OPEN, Permit
from placeos.driver.log import ModuleLogger
from placeos.driver.transports import http_settings, tls
from placeos.driver.transports.base import Address
from placeos.driver.transports.http_backend import Transport
from placeos.driver.transports.http_client import ConnectionFailed
from placeos.driver.transports.http_message import HTTPError, Request, Response, origin_of

if TYPE_CHECKING:
    from placeos.driver.transports.http_client import Job

MAX_BODY: Final = 16 * 1024 * 1024  # bytes of an answer, decoded
MAX_COOKIES: Final = 100
MAX_REDIRECTS: Final = 5


class Session:
    """Keeps connections alive, and cookies. One client speaks to the module's device, with
    its credentials; another one to whoever else a driver asks, without them."""

    def __init__(
        self,
        target: http_settings.Target,
        address: Address,
        log: ModuleLogger,
        concurrent: int,
        permit: Permit = OPEN,
    ) -> None:
        self._permit = permit
        self._target = target
        self._address = address
        self._log = log
        self._concurrent = concurrent
        self._settings = settings = http_settings.read(address)
        policy = DefaultCookiePolicy(allowed_domains=[]) if settings.disable_cookies else None
        self._jar = CookieJar(policy)
        self._clients: dict[bool, httpx.AsyncClient] = {}
        digest = settings.digest_auth
        # one for all requests, for it remembers what the device challenged it with
        self._digest = httpx.DigestAuth(digest.username, digest.password) if digest else None

    async def close(self) -> None:
        """End all connections."""
        for client in self._clients.values():
            await client.aclose()

    def cookie_header(self, url: str) -> str:
        """What a request to `url` would send as `Cookie`."""
        request = CookieRequest(url)  # noqa: S310 - nothing is opened
        self._jar.add_cookie_header(request)
        return request.get_header("Cookie", "") or ""

    async def send(self, job: Job, request: Request, url: str, *, own: bool) -> Response:
        """Send a request and read its answer. Raises ConnectionFailed, and DriverError or
        HTTPError for what no further attempt would change."""
        seconds = job.timeout or self._settings.http_comms_timeout
        try:
            async with asyncio.timeout(seconds):
                return await self._exchange(job, request, url, own=own)
        except TimeoutError:
            error: DriverError = NoReply(f"{request}: no answer within {seconds:g} s")
            raise ConnectionFailed(error, again=False) from None
        except (httpx.InvalidURL, httpx.UnsupportedProtocol, UnicodeError) as error:
            raise DriverError(f"{request} cannot be sent: {error}", code=400) from error
        except (httpx.ConnectTimeout, httpx.ConnectError, httpx.ProxyError) as error:
            raise ConnectionFailed(self._unreachable(request, error), again=True) from error
        except httpx.TransportError as error:
            error_ = NoReply(f"{request}: the connection failed before the answer: {_why(error)}")
            raise ConnectionFailed(error_, again=True) from error
        except (httpx.DecodingError, httpx.TooManyRedirects) as error:
            raise DriverError(f"{request}: {error}", code=502) from error

    def _unreachable(self, request: Request, error: httpx.TransportError) -> Offline:
        seconds = self._settings.http_connect_timeout
        timed_out = isinstance(error, httpx.ConnectTimeout)
        why = f"no connection within {seconds:g} s" if timed_out else _why(error)
        return Offline(f"{request}: {why}")

    async def _exchange(self, job: Job, request: Request, url: str, *, own: bool) -> Response:
        client = self._client(own=own)
        headers = self._headers(request, own=own)
        made = client.build_request(
            request.method, url, headers=headers, content=request.content, **job.form
        )
        line = f"{request.method} {made.url.raw_path.decode(errors='replace')}\r\n\r\n"
        self._log.wire("sent", line.encode() + _content(made))
        auth = None if "Authorization" in made.headers or not own else self._auth()
        response = await client.send(made, auth=auth, stream=True, follow_redirects=job.follow)
        try:
            content = await self._read(str(request), response)
        finally:
            await response.aclose()
        status = f"{response.status_code} {response.reason_phrase}\r\n\r\n"
        self._log.wire("received", status.encode() + content.content)
        if len(self._jar) > MAX_COOKIES:
            self._log.warning("more than %d cookies; they are all forgotten", MAX_COOKIES)
            self._jar.clear()
        return content

    async def _read(self, request: str, response: httpx.Response) -> Response:
        body = bytearray()
        status = response.status_code
        made = Response(request, status, response.reason_phrase, response.headers, b"")
        async for chunk in response.aiter_bytes():
            body += chunk
            if len(body) > MAX_BODY:
                raise HTTPError(
                    f"{request} answered {status} with more than {MAX_BODY} bytes", made
                )
        charset = response.charset_encoding or "utf-8"
        return Response(
            request, status, response.reason_phrase, response.headers, bytes(body), charset
        )

    def _headers(self, request: Request, *, own: bool) -> http_settings.Headers:
        """The driver's, and on top of them those of the settings, for its own device."""
        given = request.headers.items()
        if not own:
            return http_settings.merged(given)
        host = [("Host", self._settings.host_header)] if self._settings.host_header else []
        return http_settings.merged(given, host, self._settings.header_list())

    def _auth(self) -> httpx.Auth | None:
        if self._digest is not None:
            return self._digest
        authorization = self._target.authorization(self._settings)
        return None if authorization is None else _Fixed(authorization)

    def _client(self, *, own: bool) -> httpx.AsyncClient:
        client = self._clients.get(own)
        if client is None:
            client = self._clients[own] = self._make_client(own=own)
        return client

    def _make_client(self, *, own: bool) -> httpx.AsyncClient:
        settings = self._settings
        address = self._address
        if not own:  # no pin, no client certificate, and no leave to take any certificate
            kept = {"https_ca_certificates"} & address.settings.keys()
            address = Address(settings={name: address.settings[name] for name in kept})
        keep = self._concurrent if settings.http_max_requests else 0
        proxy = settings.proxy_url(credentials=False)
        login = settings.proxy.auth if settings.proxy is not None else None
        auth = (login.username, login.password) if login is not None else None
        transport = Transport(
            self._permit,
            verify=tls.context_of(address),
            proxy=httpx.Proxy(proxy, auth=auth) if proxy else None,
            limits=httpx.Limits(
                max_keepalive_connections=keep, keepalive_expiry=settings.http_keep_alive_seconds
            ),
            trust_env=False,
        )
        return httpx.AsyncClient(
            transport=transport,
            cookies=self._jar,
            headers={"User-Agent": f"PlaceOS/{__version__}"},
            timeout=httpx.Timeout(None, connect=settings.http_connect_timeout),
            max_redirects=MAX_REDIRECTS,
            event_hooks={"request": [self._leaving]} if own else None,
            trust_env=False,
        )

    async def _leaving(self, request: httpx.Request) -> None:
        """A redirect to elsewhere takes along none of the headers that the settings give."""
        if origin_of(str(request.url)) != origin_of(self._target.uri):
            for name in (*self._settings.headers, "Host", "Authorization"):
                request.headers.pop(name, None)
            request.headers["Host"] = request.url.netloc.decode()


class _Fixed(httpx.Auth):
    """A header that never changes; an `Auth`, so that httpx drops it on the way elsewhere."""

    def __init__(self, value: str) -> None:
        self._value = value

    def auth_flow(self, request: httpx.Request) -> Iterator[httpx.Request]:  # type: ignore[override]
        request.headers["Authorization"] = self._value
        yield request


def _content(request: httpx.Request) -> bytes:
    try:
        return request.content
    except httpx.RequestNotRead:  # a form with files
        return b""


def _why(error: BaseException) -> str:
    """What the system said: httpx hides it behind its own words."""
    explained = tls.explain(error)
    if explained != str(error):
        return explained
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.errno is not None:
            # asyncio puts words of its own there, but a resolver's codes have no others
            return os.strerror(cause.errno) if cause.errno > 0 else str(cause.strerror)
        if isinstance(cause, BaseExceptionGroup) and cause.exceptions:
            cause = cause.exceptions[-1]
        else:
            cause = cause.__cause__ or cause.__context__
    return str(error) or type(error).__name__
