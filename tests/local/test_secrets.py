"""Keys and passwords of an installation."""

from __future__ import annotations

import re
import stat

from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from placeos.local import secrets


def test_made_once_for_the_owner_only(tmp_path):
    folder = tmp_path / "secrets"
    secrets.ensure_secrets(folder)
    first = {file.name: file.read_bytes() for file in folder.iterdir()}
    assert set(first) == {"jwt.pem", "server_secret", "cluster_secret", "cookie_secret"}
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert {stat.S_IMODE(file.stat().st_mode) for file in folder.iterdir()} == {0o600}
    secrets.ensure_secrets(folder)
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == first


def test_what_is_missing_is_added_and_the_rest_stays(tmp_path):
    secrets.ensure_secrets(tmp_path)
    before = (tmp_path / "jwt.pem").read_bytes()
    (tmp_path / "cookie_secret").unlink()
    secrets.ensure_secrets(tmp_path)
    assert (tmp_path / "cookie_secret").exists()
    assert (tmp_path / "jwt.pem").read_bytes() == before


def test_the_signing_key_is_strong_enough(tmp_path):
    secrets.ensure_secrets(tmp_path)
    key = load_pem_private_key((tmp_path / "jwt.pem").read_bytes(), password=None)
    assert isinstance(key, RSAPrivateKey)
    assert key.key_size >= 2048


def test_two_installations_share_nothing(tmp_path):
    for name in ("one", "two"):
        secrets.ensure_secrets(tmp_path / name)
    for file in (tmp_path / "one").iterdir():
        assert file.read_bytes() != (tmp_path / "two" / file.name).read_bytes()


def test_the_password_is_made_once(tmp_path):
    password = secrets.administrator_password(tmp_path)
    assert re.fullmatch(r"([a-z2-9]{5}-){3}[a-z2-9]{5}", password)
    assert secrets.administrator_password(tmp_path) == password
    assert stat.S_IMODE((tmp_path / "administrator_password").stat().st_mode) == 0o600
