"""Who is calling: credentials checked from memory, so that no request waits for the database.

Authorities, users and API keys are held in memory and kept by the change feed. The control
websocket's handshake and REST use the same `Authenticator`.
"""

from __future__ import annotations

import asyncio
import hmac
import logging
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import TypeVar

import msgspec

from placeos.model.authority import host_of
from placeos.model.tokens import (
    Claims,
    InvalidToken,
    UserClaims,
    Verifier,
    check_times,
    hash_api_key,
)
from placeos.store import Database, Unavailable

log = logging.getLogger("placeos.api")

T = TypeVar("T")

MAX_TOKENS = 10_000  # verified tokens remembered; the least recently used go first
RETRY = 1.0  # seconds between tries to read the database

_USERS = (
    'SELECT id, name, email, groups, sys_admin, support, logged_out_at, authority_id FROM "user"'
)
_KEYS = "SELECT id, secret, scopes, permissions, expires_at, user_id, authority_id FROM api_key"
_AUTHORITIES = "SELECT id, domain FROM authority"


class Unauthorised(Exception):
    """The credential is missing or refused (HTTP 401). The message may be shown."""

    def __init__(self, message: str = "") -> None:
        super().__init__(message)
        self.message = message


class KnownUser(msgspec.Struct, frozen=True, gc=False):
    """What of a user decides about credentials."""

    id: str
    name: str
    email: str
    groups: list[str]
    sys_admin: bool
    support: bool
    logged_out_at: int | None
    authority_id: str

    @property
    def most(self) -> int:
        """The permission bits that the user's record allows."""
        return 3 if self.sys_admin else 1 if self.support else 0


class KnownKey(msgspec.Struct, frozen=True, gc=False):
    """What of an API key decides about it."""

    id: str
    secret: str
    scopes: list[str]
    permissions: int
    expires_at: int | None
    user_id: str
    authority_id: str


class KnownAuthority(msgspec.Struct, frozen=True, gc=False):
    """An authority by its domain."""

    id: str
    domain: str


class Authenticator:
    """Checks credentials. Its owner runs `run` in a task and feeds it with `changed`."""

    def __init__(self, database: Database, verifier: Verifier) -> None:
        self._database = database
        self._verifier = verifier
        self._authorities: dict[str, KnownAuthority] = {}
        self._by_domain: dict[str, KnownAuthority] = {}
        self._users: dict[str, KnownUser] = {}
        self._keys: dict[str, KnownKey] = {}
        self._tokens: OrderedDict[str, Claims] = OrderedDict()
        self._callbacks: set[Callable[[], None]] = set()
        self._stale: set[tuple[str, str]] = set()
        self._all_stale = True
        self._wake = asyncio.Event()
        self._refreshing = asyncio.Lock()
        self.loaded = asyncio.Event()

    # -- checking -------------------------------------------------------------------------

    def authority(self, host: str) -> KnownAuthority:
        """The authority of a host name (without port). Raises Unauthorised.

        An unknown name means the only authority while there is one.
        """
        found = self._by_domain.get(host.lower())
        if found is None and len(self._authorities) == 1:
            return next(iter(self._authorities.values()))
        if found is None:
            raise Unauthorised("authority not found")
        return found

    def authenticate(
        self,
        *,
        headers: Mapping[str, str],
        query: Mapping[str, str],
        cookies: Mapping[str, str],
        host: str,
    ) -> Claims:
        """The claims of the request's credential. Raises Unauthorised.

        `headers` have lower-case names, `host` is the name without port.
        """
        authority = self.authority(host)
        now = time.time()
        key = headers.get("x-api-key") or query.get("api-key") or cookies.get("api-key")
        if key:
            claims = self._key_claims(key, now)
        else:
            token = _token(headers, query, cookies)
            if not token:
                raise Unauthorised
            claims = self._token_claims(token, now)
        if host_of(claims.aud) != host_of(authority.domain):
            raise Unauthorised("the credential belongs to another domain")
        return claims

    def user(self, user_id: str) -> KnownUser | None:
        """A user's record as far as it is held in memory."""
        return self._users.get(user_id)

    def _key_claims(self, credential: str, now: float) -> Claims:
        key_id, _, secret = credential.partition(".")
        key = self._keys.get(key_id)
        if key is None or not hmac.compare_digest(hash_api_key(key_id, secret), key.secret):
            raise Unauthorised("unknown X-API-Key")
        if key.expires_at is not None and key.expires_at <= now:
            raise Unauthorised("API key has expired")
        user = self._users.get(key.user_id)
        authority = self._authorities.get(key.authority_id)
        if user is None or authority is None:
            raise Unauthorised("unknown X-API-Key")
        return Claims(
            iat=int(now) - 300,
            exp=min(int(now) + 3600, key.expires_at or int(now) + 3600),
            jti=key.id,
            aud=authority.domain,
            sub=key.user_id,
            scope=key.scopes,
            u=UserClaims(user.name, user.email, key.permissions, user.groups),
        )

    def _token_claims(self, token: str, now: float) -> Claims:
        claims = self._read(token)
        try:
            check_times(claims, now)
        except InvalidToken as error:
            raise Unauthorised(str(error)) from None
        if claims.is_guest:
            return claims
        user = self._users.get(claims.sub)
        if user is None:
            raise Unauthorised("the user no longer exists")
        if user.logged_out_at is not None and user.logged_out_at >= claims.iat:
            raise Unauthorised("logged out")
        if claims.u.p & ~user.most:  # rights that were taken away since
            rights = msgspec.structs.replace(claims.u, p=claims.u.p & user.most)
            return msgspec.structs.replace(claims, u=rights)
        return claims

    def _read(self, token: str) -> Claims:
        """The claims of a token with a good signature; checking one costs, so they are kept."""
        claims = self._tokens.get(token)
        if claims is not None:
            self._tokens.move_to_end(token)
            return claims
        try:
            claims = self._verifier.read(token)
        except InvalidToken as error:
            raise Unauthorised(str(error)) from None
        self._tokens[token] = claims
        if len(self._tokens) > MAX_TOKENS:
            self._tokens.popitem(last=False)
        return claims

    # -- keeping --------------------------------------------------------------------------

    def on_change(self, callback: Callable[[], None]) -> Callable[[], None]:
        """Call back, on the loop, after anything in memory changed. Returns how to stop."""
        self._callbacks.add(callback)
        return lambda: self._callbacks.discard(callback)

    def changed(self, table: str, id: str) -> None:
        """A record changed: look again. Other tables are ignored."""
        if table in ("user", "api_key", "authority"):
            self._stale.add((table, id))
            self._wake.set()

    def resync(self) -> None:
        """Anything may have changed: look at everything again."""
        self._all_stale = True
        self._wake.set()

    async def run(self) -> None:
        """Re-read what became stale, until cancelled. While PostgreSQL is away what is in
        memory stays valid."""
        while True:
            try:
                await self.refresh()
            except Unavailable as error:
                log.warning("authentication waits", extra={"why": str(error)})
                await asyncio.sleep(RETRY)
                continue
            await self._wake.wait()

    async def refresh(self) -> None:
        """Re-read what is stale now. Raises Unavailable; it stays stale then."""
        async with self._refreshing:
            await self._refresh()

    async def _refresh(self) -> None:
        self._wake.clear()
        if self._all_stale:
            self._all_stale = False
            self._stale.clear()
            try:
                await self._load_all()
            except BaseException:
                self._all_stale = True
                raise
        while self._stale:
            table, id = self._stale.pop()
            try:
                await self._load_one(table, id)
            except BaseException:
                self._stale.add((table, id))
                raise
        for callback in list(self._callbacks):
            callback()

    async def _load_all(self) -> None:
        authorities = await self._database.fetch(_AUTHORITIES)
        users = await self._database.fetch(_USERS)
        keys = await self._database.fetch(_KEYS)
        self._authorities = {row["id"]: KnownAuthority(**row) for row in authorities}
        self._users = {row["id"]: KnownUser(**row) for row in users}
        self._keys = {row["id"]: KnownKey(**row) for row in keys}
        self._index_domains()
        self.loaded.set()

    async def _load_one(self, table: str, id: str) -> None:
        if table == "user":
            row = await self._database.fetch_row(f"{_USERS} WHERE id = $1", id)
            _put(self._users, id, KnownUser(**row) if row else None)
        elif table == "api_key":
            row = await self._database.fetch_row(f"{_KEYS} WHERE id = $1", id)
            _put(self._keys, id, KnownKey(**row) if row else None)
        else:
            row = await self._database.fetch_row(f"{_AUTHORITIES} WHERE id = $1", id)
            _put(self._authorities, id, KnownAuthority(**row) if row else None)
            self._index_domains()

    def _index_domains(self) -> None:
        self._by_domain = {host_of(one.domain): one for one in self._authorities.values()}


def _token(headers: Mapping[str, str], query: Mapping[str, str], cookies: Mapping[str, str]) -> str:
    """The token where it is looked for; an empty header ends the search."""
    header = headers.get("authorization")
    if header is not None:
        return header.removeprefix("Bearer ").removeprefix("Token ").rstrip()
    return query.get("bearer_token") or cookies.get("bearer_token") or ""


def _put(records: dict[str, T], id: str, record: T | None) -> None:
    if record is None:
        records.pop(id, None)
    else:
        records[id] = record
