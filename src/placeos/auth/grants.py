"""Issuing and ending tokens."""

from __future__ import annotations

import logging
import time
import uuid
from collections.abc import Mapping

import msgspec

from placeos.auth import oauth, refresh
from placeos.auth.oauth import OAuthError, TokenAnswer
from placeos.auth.passwords import PasswordChecker
from placeos.auth.refresh import Verdict
from placeos.auth.throttle import PasswordThrottle
from placeos.model import tokens
from placeos.model.authority import Authority
from placeos.model.tokens import Claims, InvalidToken, Verifier
from placeos.model.user import User, email_digest
from placeos.store import Database, Session

MAX_PASSWORD = 1024  # characters

log = logging.getLogger("placeos.auth")

_USER_BY_EMAIL = 'SELECT id FROM "user" WHERE authority_id = $1 AND email_digest = $2'
_SIGNED_IN = (
    'UPDATE "user" SET login_count = login_count + 1, last_login = $2,'
    " password_digest = coalesce($3, password_digest) WHERE id = $1"
)
_SIGNED_OUT = 'UPDATE "user" SET logged_out_at = $2 WHERE id = $1'


class Asker(msgspec.Struct, frozen=True):
    """Who asks for a token: at which domain, from where, for which application."""

    authority: Authority
    origin: str
    address: str
    client_id: str


class Grants:
    """The token endpoint and what ends tokens again."""

    def __init__(self, database: Database, signing_key: bytes, checker: PasswordChecker) -> None:
        self._database = database
        self._signing_key = signing_key
        self._verifier = Verifier(signing_key)
        self._checker = checker
        self._throttle = PasswordThrottle()

    async def token(self, asker: Asker, given: Mapping[str, str]) -> TokenAnswer:
        """Serve the token endpoint. Raises OAuthError, Unavailable."""
        kind = given.get("grant_type", "")
        if kind == "password":
            return await self._by_password(asker, given)
        if kind == "refresh_token":
            return await self._by_refresh_token(asker, given)
        if not kind:
            raise OAuthError("invalid_request", "grant_type is missing")
        message = "grant_type should be password or refresh_token"
        raise OAuthError("unsupported_grant_type", message)

    # -- password -----------------------------------------------------------------------------

    async def _by_password(self, asker: Asker, given: Mapping[str, str]) -> TokenAnswer:
        email, password = given.get("username", ""), given.get("password", "")
        if not email or not password:
            raise OAuthError("invalid_request", "username or password is missing")
        scope = oauth.parse_scope(given.get("scope", ""))
        user, rehashed = await self._check_password(asker, email, password)
        now = int(time.time())
        async with self._database.transaction() as session:
            await session.execute(_SIGNED_IN, user.id, now, rehashed)
            answer = await self._issue(session, asker, user, scope, now, family=str(uuid.uuid4()))
        log.info("signed in", extra={"user": user.id, "address": asker.address})
        return answer

    async def _check_password(
        self, asker: Asker, email: str, password: str
    ) -> tuple[User, str | None]:
        account = f"{asker.authority.id} {email_digest(email)}"
        wait = self._throttle.wait(account, asker.address, time.monotonic())
        if wait > 0:
            message = "too many wrong passwords; wait before trying again"
            raise OAuthError("slow_down", message, retry_after=int(wait) + 1)
        self._throttle.charge(account, asker.address, time.monotonic())
        user = await self._find(asker.authority, email)
        stored = user.password_digest if user is not None else None
        right, rehashed = await self._checker.check(stored, password[:MAX_PASSWORD])
        if user is None or not right or len(password) > MAX_PASSWORD:
            log.warning("sign-in refused", extra={"address": asker.address})
            raise OAuthError("invalid_grant", "the e-mail address or the password is wrong")
        self._throttle.refund(account, asker.address)
        return user, rehashed

    async def _find(self, authority: Authority, email: str) -> User | None:
        row = await self._database.fetch_row(_USER_BY_EMAIL, authority.id, email_digest(email))
        user = await self._database.get(User, row["id"]) if row is not None else None
        return None if user is None or user.deleted else user

    # -- refresh ------------------------------------------------------------------------------

    async def _by_refresh_token(self, asker: Asker, given: Mapping[str, str]) -> TokenAnswer:
        token = given.get("refresh_token", "")
        if not token:
            raise OAuthError("invalid_request", "refresh_token is missing")
        now = int(time.time())
        async with self._database.transaction() as session:
            presented = await refresh.present(session, token, now)
            if presented is not None and presented[1] in (Verdict.ROTATE, Verdict.REPLACE):
                return await self._renew(session, asker, presented[0], given, now)
        # Only after the transaction: what was revoked has to stay so.
        if presented is not None and presented[1] is Verdict.REVOKE:
            log.warning("refresh token reused", extra={"user": presented[0].user_id})
        raise _refused()

    async def _renew(
        self,
        session: Session,
        asker: Asker,
        known: refresh.RefreshToken,
        given: Mapping[str, str],
        now: int,
    ) -> TokenAnswer:
        user = await session.get(User, known.user_id)
        if user is None or user.deleted or known.authority_id != asker.authority.id:
            raise _refused()
        if known.client_id and asker.client_id and known.client_id != asker.client_id:
            raise _refused()
        scope = oauth.narrow_scope(given.get("scope", ""), known.scope.split())
        return await self._issue(session, asker, user, scope, now, family=known.family)

    async def _issue(
        self,
        session: Session,
        asker: Asker,
        user: User,
        scope: list[str],
        now: int,
        *,
        family: str,
    ) -> TokenAnswer:
        claims = oauth.access_claims(user, asker.authority, scope, now)
        value = await refresh.issue(
            session,
            id=claims.jti,
            user_id=user.id,
            authority_id=asker.authority.id,
            client_id=asker.client_id,
            scope=" ".join(scope),
            family=family,
            now=now,
        )
        identity = ""
        if oauth.OPENID in scope:
            content = oauth.id_claims(user, asker.origin, asker.client_id, now)
            identity = tokens.sign_payload(msgspec.json.encode(content), self._signing_key)
        return TokenAnswer(
            access_token=tokens.sign(claims, self._signing_key),
            token_type="Bearer",  # noqa: S106 - a word of the protocol
            expires_in=oauth.ACCESS_LIFETIME,
            refresh_token=value,
            scope=" ".join(scope),
            created_at=now,
            id_token=identity,
        )

    # -- looking and ending -------------------------------------------------------------------

    async def user(self, token: str, authority: Authority) -> tuple[Claims, User] | None:
        """Who an access token belongs to, or None if it is not valid (any more)."""
        try:
            claims = self._verifier.verify(token)
        except InvalidToken:
            return None
        if claims.aud != authority.domain or claims.is_guest:
            return None
        user = await self._database.get(User, claims.sub)
        if user is None or (user.logged_out_at or 0) >= claims.iat:
            return None
        return claims, user

    async def revoke(self, token: str) -> None:
        """End a refresh token's family, or that of the token issued with an access token."""
        now = int(time.time())
        try:
            claims = self._verifier.read(token)
        except InvalidToken:
            await refresh.revoke(self._database, token, now)
        else:
            await refresh.revoke_issued_with(self._database, claims.jti, now)

    async def sign_out(self, claims: Claims, user: User) -> None:
        """End all tokens of a user, everywhere; `claims` are those of the one presented."""
        now = max(int(time.time()), claims.iat)
        async with self._database.transaction() as session:
            await session.execute(_SIGNED_OUT, user.id, now)
            await refresh.revoke_user(session, user.id, now)
        log.info("signed out", extra={"user": user.id})


def _refused() -> OAuthError:
    return OAuthError("invalid_grant", "the refresh token is not valid (any more)")
