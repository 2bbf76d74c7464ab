"""Requests to the gateways of several etcd members: short tries, one member after the other.

Every try is short and any error goes on to the next endpoint, which is then used first, so that
one frozen member of three delays one call by one try. Every request says that its member must
know a leader (`hasleader`), so one that is cut off from the others says so at once instead of
keeping the caller; and reads are linearizable (etcd's default), so one that lags cannot answer
from the past.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Final, TypeVar

import aiohttp

from placeos.cluster.access import EtcdAccess
from placeos.cluster.etcd_messages import (
    EtcdError,
    TokenAnswer,
    TokenRefused,
    decode,
    refuses_token,
)

T = TypeVar("T")

ATTEMPT: Final = 0.6  # seconds for one try at one endpoint
AUTHENTICATE: Final = 1.5  # seconds to get a token: etcd hashes the password slowly on purpose
_BUSY: Final = (408, 429)  # besides 5xx: another member may do better


class _Elsewhere(Exception):
    """This endpoint cannot do it now, another may. `sent`: it may have been done all the same."""

    def __init__(self, reason: str, *, sent: bool = False) -> None:
        super().__init__(reason)
        self.sent = sent


class _NeedsToken(Exception):
    """The endpoint wants a token, or a newer one than `used`."""

    def __init__(self, used: str) -> None:
        super().__init__("a token is needed")
        self.used = used


class Gateway:
    """The members of one cluster, of which one is in use. Lives inside one loop."""

    def __init__(self, access: EtcdAccess) -> None:
        if not access.endpoints:
            raise ValueError("no etcd endpoints")
        self._access = access
        self._endpoints = [endpoint.rstrip("/") for endpoint in access.endpoints]
        self._current = 0
        self._token = ""
        self._authenticating = asyncio.Lock()
        self._session: aiohttp.ClientSession | None = None
        self._streams: dict[aiohttp.ClientResponse, str] = {}

    async def open(self) -> None:
        """Get ready; nothing is connected yet. Raises EtcdError for unusable certificates."""
        try:
            context = self._access.ssl_context()
        except OSError as error:
            raise EtcdError(f"the certificates for etcd cannot be used: {error}") from error
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=16, keepalive_timeout=30, ssl=context or True),
            headers={"Grpc-Metadata-hasleader": "true"},
        )

    async def close(self) -> None:
        """Close all connections."""
        for stream in list(self._streams):
            stream.close()  # closing the session alone would leave its readers waiting
        if self._session is not None:
            await self._session.close()
            self._session = None

    @property
    def endpoint(self) -> str:
        """The one that is asked first."""
        return self._endpoints[self._current]

    async def post(self, path: str, body: Mapping[str, object]) -> bytes:
        """One request, carried out at least once. Raises EtcdError."""
        content, _ = await self.post_telling(path, body)
        return content

    async def post_telling(self, path: str, body: Mapping[str, object]) -> tuple[bytes, bool]:
        """As `post`; and whether an earlier try may have been carried out as well."""
        return await self.attempt(lambda endpoint: self.post_at(endpoint, path, body))

    async def attempt(self, step: Callable[[str], Awaitable[T]]) -> tuple[T, bool]:
        """Carry out `step(endpoint)` with one endpoint after the other, `ATTEMPT` s for each.

        Its result, and whether an earlier try may have been carried out. Raises EtcdError when
        each endpoint had its turn.
        """
        problem, repeated = "", False
        for _ in range(max(2, len(self._endpoints))):
            endpoint = self.endpoint
            try:
                return await self._with_token(endpoint, step), repeated
            except _Elsewhere as error:
                problem = str(error)
                repeated |= error.sent
            self._next(endpoint)
        raise EtcdError(f"etcd does not answer: {problem}")

    async def post_at(self, endpoint: str, path: str, body: Mapping[str, object]) -> bytes:
        """One request to one endpoint, as (part of) a step of `attempt`."""
        token = self._token
        try:
            async with self._open.post(endpoint + path, json=body, headers=_bearing(token)) as got:
                content = await got.read()
        except aiohttp.ClientConnectorError as error:
            raise _Elsewhere(f"{endpoint}: {error}") from error
        except (aiohttp.ClientError, OSError) as error:
            raise _Elsewhere(f"{endpoint}: {error or type(error).__name__}", sent=True) from error
        self._check(f"{endpoint}{path}", got.status, content, token)
        return content

    @asynccontextmanager
    async def stream(
        self, path: str, body: Mapping[str, object], silence: float
    ) -> AsyncIterator[aiohttp.StreamReader]:
        """A long answer of the endpoint in use; cut off when that endpoint fails another call.

        Raises EtcdError when it is lost, TimeoutError after `silence` seconds without a word.
        """
        endpoint = self.endpoint
        try:
            response = await self._with_token(
                endpoint, lambda _: self._open_stream(endpoint + path, body, silence)
            )
        except _Elsewhere as error:
            self._next(endpoint)
            raise EtcdError(f"watch lost: {error}") from error
        self._streams[response] = endpoint
        token = self._token
        try:
            yield response.content
        except TokenRefused:
            self._forget_token(token)
            raise
        except aiohttp.ServerTimeoutError:
            raise TimeoutError from None
        except (aiohttp.ClientError, OSError) as error:
            self._next(endpoint)
            raise EtcdError(f"watch lost: {error or type(error).__name__}") from error
        finally:
            del self._streams[response]
            response.close()

    async def _open_stream(
        self, url: str, body: Mapping[str, object], silence: float
    ) -> aiohttp.ClientResponse:
        token = self._token
        timeout = aiohttp.ClientTimeout(total=None, sock_read=silence)
        try:
            response = await self._open.post(
                url, json=body, timeout=timeout, headers=_bearing(token)
            )
            if response.status != 200:
                self._check(url, response.status, await response.read(), token)
        except (aiohttp.ClientError, OSError) as error:
            raise _Elsewhere(f"{url}: {error or type(error).__name__}") from error
        return response

    # -- endpoints

    @property
    def _open(self) -> aiohttp.ClientSession:
        if self._session is None:
            raise EtcdError("the client is closed")
        return self._session

    def _next(self, failed: str) -> None:
        """Ask another endpoint first from now on; what still hangs on this one is cut off."""
        if self.endpoint == failed:
            self._current = (self._current + 1) % len(self._endpoints)
        if len(self._endpoints) > 1:
            for stream in [one for one, endpoint in self._streams.items() if endpoint == failed]:
                stream.close()

    def _check(self, where: str, status: int, content: bytes, token: str) -> None:
        if status == 200:
            return
        if self._access.user and (status == 401 or refuses_token(content)):
            raise _NeedsToken(token)
        problem = f"{where} answered {status}: {content[:200].decode('utf-8', 'replace').strip()}"
        if status >= 500 or status in _BUSY:
            raise _Elsewhere(problem, sent=True)
        raise EtcdError(problem)

    # -- who we are

    async def _with_token(self, endpoint: str, step: Callable[[str], Awaitable[T]]) -> T:
        """One try; once more with a new token if the one we had was not taken."""
        try:
            async with asyncio.timeout(AUTHENTICATE):
                await self._first_token(endpoint)
            try:
                async with asyncio.timeout(ATTEMPT):
                    return await step(endpoint)
            except _NeedsToken as error:
                self._forget_token(error.used)
            async with asyncio.timeout(AUTHENTICATE):
                await self._first_token(endpoint)
            async with asyncio.timeout(ATTEMPT):
                return await step(endpoint)
        except TimeoutError as error:
            raise _Elsewhere(f"{endpoint}: time-out", sent=True) from error
        except _NeedsToken as error:
            raise _Elsewhere(f"{endpoint}: a new token was refused as well") from error

    async def _first_token(self, endpoint: str) -> None:
        """Exchange user and password for a token unless there is one."""
        if not self._access.user or self._token:
            return
        async with self._authenticating:
            if not self._token:
                body = {"name": self._access.user, "password": self._access.password}
                content = await self.post_at(endpoint, "/v3/auth/authenticate", body)
                self._token = decode(content, TokenAnswer).token

    def _forget_token(self, used: str) -> None:
        if self._token == used:
            self._token = ""


def _bearing(token: str) -> dict[str, str]:
    return {"Authorization": token} if token else {}
