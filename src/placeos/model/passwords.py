"""Local passwords, hashed with argon2id."""

from __future__ import annotations

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

_hasher = PasswordHasher()  # RFC 9106, low-memory profile: 64 MiB, about 50 ms
_decoy = _hasher.hash("nobody's password")


def hash_password(password: str) -> str:
    """The digest to store. Takes about 50 ms: call it off the event loop."""
    return _hasher.hash(password)


def verify_password(digest: str | None, password: str) -> bool:
    """Whether a password fits. As slow without a digest as with one, so that the time taken
    does not tell which users exist. Call it off the event loop."""
    try:
        return _hasher.verify(digest or _decoy, password) and bool(digest)
    except (VerificationError, InvalidHashError):
        return False


def needs_rehash(digest: str) -> bool:
    """Whether a digest was made with weaker parameters than today's."""
    return _hasher.check_needs_rehash(digest)
