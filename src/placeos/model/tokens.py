"""Access tokens, API keys and scopes: who is calling, and what the credential allows.

The JWT is RS256 and signed with the installation's one key pair. Nothing here knows the
time or a database: a verified token may still be of a user who signed out.
"""

from __future__ import annotations

import hashlib
import hmac
import time
from collections.abc import Sequence
from functools import lru_cache
from typing import Literal

import msgspec
from joserfc import jws
from joserfc.errors import BadSignatureError, JoseError
from joserfc.jwk import RSAKey

ISSUER = "POS"
ALGORITHM = "RS256"
PUBLIC = "public"
GUEST = "guest"
MAX_TOKEN = 12 * 1024  # characters; longer ones are refused unread

Access = Literal["read", "write"]


class InvalidToken(Exception):
    """The token is malformed, expired or not ours. The message may be shown to the caller."""


class InvalidScope(ValueError):
    """A scope is no `resource`, `resource.read` or `resource.write`."""


class UserClaims(msgspec.Struct, frozen=True):
    """The user as the token describes them: name, e-mail, permissions, groups."""

    n: str = ""
    e: str = ""
    p: int = 0  # bit 1 support, bit 2 administrator
    r: list[str] = []  # groups; in guest tokens the ids the guest may see


class Claims(msgspec.Struct, frozen=True, kw_only=True):
    """The content of an access token; an API key becomes one too. Times are unix seconds."""

    iss: str = ISSUER
    iat: int
    exp: int
    nbf: int | msgspec.UnsetType = msgspec.UNSET
    jti: str = ""
    aud: str
    sub: str
    scope: list[str]
    u: UserClaims

    @property
    def is_support(self) -> bool:
        """Whether the caller may do what support may; administrators may as well."""
        return self.u.p >= 1

    @property
    def is_admin(self) -> bool:
        """Whether the caller is an administrator."""
        return self.u.p >= 2

    @property
    def is_guest(self) -> bool:
        """Whether this is the token of an anonymous guest of one system."""
        return GUEST in self.scope

    @property
    def clearance(self) -> int:
        """0 user, 1 support, 2 administrator, as `wire.frame.Clearance` counts."""
        return min(max(self.u.p, 0), 2)


_decode = msgspec.json.Decoder(Claims).decode
_encode = msgspec.json.Encoder().encode


@lru_cache(maxsize=8)
def _key(pem: bytes) -> RSAKey:
    key = RSAKey.import_key(pem)
    key.ensure_kid()
    return key


def sign(claims: Claims, private_pem: bytes) -> str:
    """The signed token. Raises ValueError if the key is no private RSA key in PEM."""
    return sign_payload(_encode(claims), private_pem)


def sign_payload(payload: bytes, private_pem: bytes) -> str:
    """Any JSON object as a JWT signed with the installation's key (identity tokens)."""
    key = _key(private_pem)
    header = {"alg": ALGORITHM, "typ": "JWT", "kid": key.kid}
    return jws.serialize_compact(header, payload, key, algorithms=[ALGORITHM])


def key_set(pem: bytes) -> dict[str, object]:
    """The JSON Web Key Set that publishes the public half of a key."""
    public = _key(pem).as_dict(private=False)
    return {"keys": [{**public, "use": "sig", "alg": ALGORITHM}]}


class Verifier:
    """Checks tokens against one RSA key, public or private, in PEM."""

    def __init__(self, pem: bytes) -> None:
        self._key = _key(pem)

    def verify(self, token: str, now: float | None = None) -> Claims:
        """The claims of a token that is ours and valid at `now` (unix seconds; the clock's).

        Raises InvalidToken. The audience is for the caller to compare.
        """
        claims = self.read(token)
        check_times(claims, time.time() if now is None else now)
        return claims

    def read(self, token: str) -> Claims:
        """The claims of a token with a good signature, however old. Raises InvalidToken."""
        if len(token) > MAX_TOKEN:
            raise InvalidToken("the token is too long")
        try:
            parsed = jws.deserialize_compact(token, self._key, algorithms=[ALGORITHM])
        except BadSignatureError:
            raise InvalidToken("the token's signature is invalid") from None
        except (JoseError, ValueError, TypeError, RecursionError):
            raise InvalidToken("the token is malformed") from None
        try:
            return _decode(parsed.payload)
        except (msgspec.MsgspecError, RecursionError):
            raise InvalidToken("the token's claims are malformed") from None


def check_times(claims: Claims, now: float) -> None:
    """Raises InvalidToken if the token is expired or not valid yet at `now` (unix seconds)."""
    if claims.exp <= now:
        raise InvalidToken("the token has expired")
    if claims.nbf is not msgspec.UNSET and claims.nbf > now:
        raise InvalidToken("the token is not valid yet")


def hash_api_key(key_id: str, secret: str) -> str:
    """What is stored of an API key `<id>.<secret>`: hex HMAC-SHA512(key=secret, id)."""
    return hmac.new(secret.encode(), key_id.encode(), hashlib.sha512).hexdigest()


def allows(claims: Claims, resources: Sequence[str], access: Access) -> bool:
    """Whether the token's scopes admit the access to any of the resources."""
    for scope in claims.scope:
        if scope == PUBLIC:
            return True
        resource, separator, kind = scope.partition(".")
        granted = not separator or kind.lower() == access
        if granted and (resource == PUBLIC or resource in resources):
            return True
    return False


def normalise_scope(scope: str) -> str:
    """A scope as it is emitted: `users.read` becomes `users.Read`. Raises InvalidScope."""
    resource, separator, access = scope.partition(".")
    if not resource:
        raise InvalidScope(f"invalid scope {scope!r}")
    if not separator:
        return resource
    if access.lower() not in ("read", "write"):
        raise InvalidScope(f"invalid scope {scope!r}: the access should be read or write")
    return f"{resource}.{access.capitalize()}"
