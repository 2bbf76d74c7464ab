"""Settings above level `none` are encrypted at rest.

Stored form: ESC, then `salt|iv|ciphertext`: the salt is a UUID's text, iv and ciphertext are
base64. AES-256-GCM with its tag appended, so that a changed record is noticed; the key is
SHA-256(salt + server secret + parent id + level name), so that a copy under another parent or
level cannot be read.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import os
import uuid

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from placeos.model.settings import EncryptionLevel

ESCAPE = "\x1b"
_LEVEL_NAMES = {
    EncryptionLevel.SUPPORT: "Support",
    EncryptionLevel.ADMIN: "Admin",
    EncryptionLevel.NEVER_DISPLAY: "NeverDisplay",
}


class Unreadable(Exception):
    """A stored string cannot be decrypted: another secret, parent or level, or damage."""


def is_encrypted(stored: str) -> bool:
    """Whether a string has the form of ciphertext."""
    return stored.startswith(ESCAPE)


def encrypt(plain: str, *, secret: bytes, parent_id: str, level: EncryptionLevel) -> str:
    """The form to store. Level `none` and what is ciphertext already stay as they are."""
    if level == EncryptionLevel.NONE or is_encrypted(plain):
        return plain
    salt = str(uuid.uuid4())
    iv = os.urandom(12)
    sealed = AESGCM(_key(salt, secret, parent_id, level)).encrypt(iv, plain.encode(), None)
    return f"{ESCAPE}{salt}|{_base64(iv)}|{_base64(sealed)}"


def decrypt(stored: str, *, secret: bytes, parent_id: str, level: EncryptionLevel) -> str:
    """The plain string. Raises Unreadable; what is no ciphertext is returned as it is."""
    if level == EncryptionLevel.NONE or not is_encrypted(stored):
        return stored
    try:
        salt, iv, sealed = stored[len(ESCAPE) :].split("|")
        cipher = AESGCM(_key(salt, secret, parent_id, level))
        plain = cipher.decrypt(
            base64.b64decode(iv, validate=True), base64.b64decode(sealed, validate=True), None
        )
        return plain.decode()
    except (ValueError, binascii.Error, InvalidTag) as error:
        raise Unreadable(f"the settings of {parent_id} cannot be decrypted") from error


def _key(salt: str, secret: bytes, parent_id: str, level: EncryptionLevel) -> bytes:
    name = _LEVEL_NAMES[level]
    return hashlib.sha256(salt.encode() + secret + parent_id.encode() + name.encode()).digest()


def _base64(raw: bytes) -> str:
    return base64.b64encode(raw).decode("ascii")
