"""Refresh tokens: opaque, stored hashed, each good for one use.

All tokens that descend from one sign-in are a *family*; at any time at most one of them is
live. A used one that turns up again was stolen from somebody, the user or the thief, so the
whole family ends. The one exception: an answer may be lost on its way, so within `GRACE` of
its use, and only while its successor was never used, a token may be used again; the lost
successor is revoked then.
"""

from __future__ import annotations

import hashlib
import secrets
from enum import Enum
from typing import Final

import msgspec

from placeos.store import Database, Session

LIFETIME: Final = 60 * 86_400  # seconds without use before a refresh token is worth nothing
REMEMBER_USED: Final = 7 * 86_400  # seconds a used token is remembered, to notice its reuse
GRACE: Final = 10  # seconds

_BY_HASH = (
    "SELECT id, token_hash, user_id, authority_id, client_id, scope, created_at, expires_at,"
    " used_at, revoked_at, family FROM refresh_token WHERE token_hash = $1"
)
_LOCK_FAMILY = "SELECT pg_advisory_xact_lock(hashtextextended($1, 0))"
_SUCCESSOR_USED = (
    "SELECT 1 FROM refresh_token WHERE family = $1 AND created_at >= $2 AND id <> $3"
    " AND used_at IS NOT NULL LIMIT 1"
)
_INSERT = (
    "INSERT INTO refresh_token (id, token_hash, user_id, authority_id, client_id, scope,"
    " created_at, expires_at, family) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)"
)
_USE = "UPDATE refresh_token SET used_at = $2 WHERE id = $1"
_REVOKE_LIVE = (
    "UPDATE refresh_token SET revoked_at = $2"
    " WHERE family = $1 AND used_at IS NULL AND revoked_at IS NULL"
)
_REVOKE_FAMILY = "UPDATE refresh_token SET revoked_at = $2 WHERE family = $1 AND revoked_at IS NULL"
_REVOKE_USER = "UPDATE refresh_token SET revoked_at = $2 WHERE user_id = $1 AND revoked_at IS NULL"
_FORGET = (
    "DELETE FROM refresh_token"
    " WHERE family = $1 AND (expires_at < $2 OR coalesce(used_at, revoked_at) < $3)"
)


class RefreshToken(msgspec.Struct, frozen=True):
    """One row. `id` is the `jti` of the access token that was issued with it."""

    id: str
    token_hash: str
    user_id: str
    authority_id: str
    client_id: str | None
    scope: str
    created_at: int
    expires_at: int
    used_at: int | None
    revoked_at: int | None
    family: str


class Verdict(Enum):
    """What becomes of a refresh token that is presented."""

    ROTATE = "rotate"  # use it up, issue the next
    REPLACE = "replace"  # its successor got lost: revoke that, issue another
    REVOKE = "revoke"  # it was used before: end the family
    EXPIRED = "expired"


def judge(token: RefreshToken, now: int, *, successor_used: bool) -> Verdict:
    """What to do with a token that is presented at `now` (unix seconds)."""
    if token.revoked_at is not None:
        return Verdict.REVOKE
    if token.used_at is not None:
        lost = now - token.used_at <= GRACE and not successor_used
        return Verdict.REPLACE if lost else Verdict.REVOKE
    return Verdict.EXPIRED if token.expires_at <= now else Verdict.ROTATE


def digest(token: str) -> str:
    """How a refresh token is stored: it is random, so one round of SHA-256 is enough."""
    return hashlib.sha256(token.encode()).hexdigest()


async def present(session: Session, token: str, now: int) -> tuple[RefreshToken, Verdict] | None:
    """Look up a token and carry out its verdict, except for issuing; None if unknown.

    The family stays locked until the end of the transaction.
    """
    row = await session.fetch_row(_BY_HASH, digest(token))
    if row is None:
        return None
    await session.execute(_LOCK_FAMILY, row["family"])
    row = await session.fetch_row(_BY_HASH, digest(token))
    if row is None:
        return None
    known = RefreshToken(**row)
    used = await session.fetch_row(_SUCCESSOR_USED, known.family, known.used_at or now, known.id)
    verdict = judge(known, now, successor_used=used is not None)
    if verdict is Verdict.REVOKE:
        await session.execute(_REVOKE_FAMILY, known.family, now)
    elif verdict is Verdict.REPLACE:
        await session.execute(_REVOKE_LIVE, known.family, now)
    elif verdict is Verdict.ROTATE:
        await session.execute(_USE, known.id, now)
        await session.execute(_FORGET, known.family, now, now - REMEMBER_USED)
    return known, verdict


async def issue(
    session: Session | Database,
    *,
    id: str,
    user_id: str,
    authority_id: str,
    client_id: str,
    scope: str,
    family: str,
    now: int,
) -> str:
    """Store a new token; the value that the client keeps is returned and not stored."""
    token = secrets.token_urlsafe(32)
    await session.execute(
        _INSERT,
        id,
        digest(token),
        user_id,
        authority_id,
        client_id or None,
        scope,
        now,
        now + LIFETIME,
        family,
    )
    return token


async def revoke(database: Database, token: str, now: int) -> None:
    """End the family of a refresh token; unknown ones are none to revoke (RFC 7009)."""
    row = await database.fetch_row(_BY_HASH, digest(token))
    if row is not None:
        await database.execute(_REVOKE_FAMILY, row["family"], now)


async def revoke_issued_with(database: Database, jti: str, now: int) -> None:
    """End the family of the refresh token that was issued with an access token."""
    row = await database.fetch_row("SELECT family FROM refresh_token WHERE id = $1", jti)
    if row is not None:
        await database.execute(_REVOKE_FAMILY, row["family"], now)


async def revoke_user(session: Session, user_id: str, now: int) -> None:
    """End all of a user's refresh tokens."""
    await session.execute(_REVOKE_USER, user_id, now)
