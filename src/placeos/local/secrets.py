"""What only this installation knows: keys and passwords, made once, readable by nobody else."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

SIGNING_KEY = "jwt.pem"
RANDOM = ("server_secret", "cluster_secret", "cookie_secret")
ADMINISTRATOR = "administrator_password"
API_KEY = "api_key"


def ensure_secrets(folder: Path) -> None:
    """Make what is missing in `folder` (mode 0700): the signing key and the random secrets.

    Blocks for some tenths of a second the first time.
    """
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o700)
    if not (folder / SIGNING_KEY).exists():
        write_private(folder / SIGNING_KEY, _new_signing_key())
    for name in RANDOM:
        if not (folder / name).exists():
            write_private(folder / name, secrets.token_hex(32).encode() + b"\n")


def read(folder: Path, name: str) -> str | None:
    """One secret that was kept earlier, or None."""
    try:
        return (folder / name).read_text().strip() or None
    except FileNotFoundError:
        return None


def keep(folder: Path, name: str, value: str) -> str:
    """Keep a secret, return it."""
    write_private(folder / name, value.encode() + b"\n")
    return value


def administrator_password(folder: Path) -> str:
    """The password generated at the first start: four groups, easy to read out."""
    known = read(folder, ADMINISTRATOR)
    if known is not None:
        return known
    letters = "abcdefghjkmnpqrstuvwxyz23456789"
    groups = ("".join(secrets.choice(letters) for _ in range(5)) for _ in range(4))
    return keep(folder, ADMINISTRATOR, "-".join(groups))


def write_private(file: Path, data: bytes) -> None:
    """Write a file that only its owner may read, all of it or nothing."""
    draft = file.with_name(f".{file.name}.{os.getpid()}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        draft.replace(file)
    finally:
        draft.unlink(missing_ok=True)


def _new_signing_key() -> bytes:
    return rsa.generate_private_key(public_exponent=65_537, key_size=2048).private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
