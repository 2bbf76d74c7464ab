"""Certificates for links between services: all three files or none, and readable."""

from __future__ import annotations

from pathlib import Path

import pytest

from placeos.config import ConfigError, load

BASE = {"PLACEOS_DATA": "/d", "PLACEOS_SECRETS": "/s"} | {
    "PLACEOS_DATABASE_URL": "postgresql://x",
    "PLACEOS_REDIS_URL": "redis://x",
}


def test_none_is_no_tls() -> None:
    assert load(BASE).cluster_certificates() is None


@pytest.mark.parametrize("given", ["CERT", "KEY", "CA"])
def test_one_alone_is_refused(given: str) -> None:
    with pytest.raises(ConfigError, match="all three are needed"):
        load(BASE | {f"PLACEOS_CLUSTER_TLS_{given}": "/x.pem"})


def test_what_cannot_be_read_is_told(tmp_path: Path) -> None:
    text = tmp_path / "no.pem"
    text.write_text("no certificate")
    for path in (text, tmp_path / "missing.pem"):
        given = {f"PLACEOS_CLUSTER_TLS_{part}": str(path) for part in ("CERT", "KEY", "CA")}
        with pytest.raises(ConfigError, match="PLACEOS_CLUSTER_TLS"):
            load(BASE | given).cluster_certificates()
