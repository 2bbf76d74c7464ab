"""OAuth 2 in words and rules: errors, scopes, what a token says. Pure."""

from __future__ import annotations

import re
import uuid
from typing import Final

import msgspec

from placeos.model.authority import Authority
from placeos.model.tokens import Claims, InvalidScope, UserClaims, normalise_scope
from placeos.model.user import User

ACCESS_LIFETIME: Final = 7200  # seconds an access token is valid
OPENID: Final = "openid"
MAX_SCOPE: Final = 4096  # characters

# `guest` tokens are not checked against a user, so nobody may ask for that scope.
_RESERVED: Final = frozenset(("guest", "edge-control"))
_RESOURCE = re.compile(r"[a-z][a-z0-9_]{0,63}")

_STATUSES: Final = {"invalid_client": 401, "slow_down": 429, "temporarily_unavailable": 503}


class OAuthError(Exception):
    """An error of RFC 6749, section 5.2 (and its later companions)."""

    def __init__(self, error: str, description: str, *, retry_after: int = 0) -> None:
        super().__init__(description)
        self.error = error
        self.description = description
        self.retry_after = retry_after  # seconds
        self.status = _STATUSES.get(error, 400)


class TokenAnswer(msgspec.Struct, omit_defaults=True):
    """What the token endpoint answers. Clients need `expires_in` even though it has a default."""

    access_token: str
    token_type: str
    expires_in: int
    refresh_token: str
    scope: str
    created_at: int
    id_token: str = ""


def parse_scope(text: str) -> list[str]:
    """The scopes asked for, `public` when none. Raises OAuthError."""
    if len(text) > MAX_SCOPE:
        raise OAuthError("invalid_scope", "the scope is too long")
    scopes: dict[str, None] = {}
    for word in text.split():
        try:
            scope = normalise_scope(word)
        except InvalidScope as error:
            raise OAuthError("invalid_scope", str(error)) from None
        resource = scope.partition(".")[0]
        if resource in _RESERVED or not _RESOURCE.fullmatch(resource):
            raise OAuthError("invalid_scope", f"the scope {word[:64]!r} is not offered")
        scopes[scope] = None
    return list(scopes) or ["public"]


def narrow_scope(text: str, granted: list[str]) -> list[str]:
    """The scopes of a renewed token: those asked for, none beyond `granted`."""
    if not text.strip():
        return granted
    asked = parse_scope(text)
    beyond = [scope for scope in asked if scope not in granted]
    if beyond:
        raise OAuthError("invalid_scope", f"{' '.join(beyond)} was not granted before")
    return asked


def permissions(user: User) -> int:
    """The permission bits of a user: 1 support, 2 administrator."""
    return (1 if user.support else 0) | (2 if user.sys_admin else 0)


def access_claims(user: User, authority: Authority, scope: list[str], now: int) -> Claims:
    """What an access token says.

    A user who signed out this very second gets a token dated after that: sign-out refuses
    every token that is not younger than itself.
    """
    issued = max(now, (user.logged_out_at or 0) + 1)
    return Claims(
        iat=issued,
        exp=now + ACCESS_LIFETIME,
        jti=str(uuid.uuid4()),
        aud=authority.domain,
        sub=user.id,
        scope=scope,
        u=UserClaims(n=user.name, e=user.email, p=permissions(user), r=user.groups),
    )


def profile(user: User) -> dict[str, object]:
    """What OpenID Connect says of a user; absent attributes are left out."""
    claims = {
        "sub": user.id,
        "email": user.email,
        "name": user.name,
        "full_name": user.name,
        "given_name": user.first_name,
        "family_name": user.last_name,
        "nickname": user.nickname,
        "phone_number": user.phone,
        "preferred_username": user.login_name or user.email,
    }
    return {name: value for name, value in claims.items() if value}


def id_claims(user: User, issuer: str, client_id: str, now: int) -> dict[str, object]:
    """The claims of an identity token."""
    return {
        "iss": issuer,
        "aud": client_id,
        "iat": now,
        "exp": now + ACCESS_LIFETIME,
        **profile(user),
    }
