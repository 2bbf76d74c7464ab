"""How a service is told of its engines: addresses in variables, passwords in files."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from placeos.config import ConfigError, load, with_password
from placeos.state.client import connect


def settings(folder: Path, **more: str) -> dict[str, str]:
    return {
        "PLACEOS_DATA": str(folder),
        "PLACEOS_SECRETS": str(folder),
        "PLACEOS_DATABASE_URL": "postgresql://placeos@db1,db2:5433/placeos",
        "PLACEOS_REDIS_URL": "redis+sentinel://one,two:2/main?db=3",
    } | more


def test_passwords_come_from_files(tmp_path: Path) -> None:
    for name in ("database", "redis", "redis_sentinel", "etcd"):
        (tmp_path / f"{name}_password").write_text(f"p/w @{name}\n")
    (tmp_path / "ca.pem").touch()
    config = load(
        settings(
            tmp_path,
            PLACEOS_ETCD_ENDPOINTS="https://a:2379, https://b:2379",
            PLACEOS_ETCD_USER="placeos",
            PLACEOS_ETCD_CA=str(tmp_path / "ca.pem"),
        )
    )
    assert config.database_url == "postgresql://placeos:p%2Fw%20%40database@db1,db2:5433/placeos"
    assert config.redis_url == (
        "redis+sentinel://:p%2Fw%20%40redis@one,two:2/main?db=3"
        "&sentinel_password=p%2Fw%20%40redis_sentinel"
    )
    assert config.etcd.endpoints == config.etcd_endpoints == ("https://a:2379", "https://b:2379")
    assert (config.etcd.user, config.etcd.password) == ("placeos", "p/w @etcd")
    assert config.etcd.ca == tmp_path / "ca.pem"
    assert "p/w" not in repr(config)
    assert "p%2F" not in repr(config)


def test_without_files_addresses_stay_as_they_are(tmp_path: Path) -> None:
    given_settings = settings(tmp_path)
    config = load(given_settings)
    assert config.database_url == given_settings["PLACEOS_DATABASE_URL"]
    assert config.redis_url == given_settings["PLACEOS_REDIS_URL"]
    assert not config.etcd.user


@pytest.mark.parametrize(
    ("variable", "value", "named"),
    [
        ("PLACEOS_ETCD_USER", "placeos", "etcd_password"),
        ("PLACEOS_ETCD_CA", "/nowhere/ca.pem", "PLACEOS_ETCD_CA"),
        ("PLACEOS_ETCD_KEY", __file__, "PLACEOS_ETCD_CERT"),
        ("PLACEOS_ETCD_ENDPOINTS", "http://me:secret@a:2379", "PLACEOS_ETCD_USER"),
        ("PLACEOS_ETCD_ENDPOINTS", "a:2379", "PLACEOS_ETCD_ENDPOINTS"),
        ("PLACEOS_ETCD_ENDPOINTS", " , ", "PLACEOS_ETCD_ENDPOINTS"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, variable: str, value: str, named: str) -> None:
    with pytest.raises(ConfigError, match=named) as refused:
        load(settings(tmp_path, **{variable: value}))
    assert "secret@" not in str(refused.value)


@given(st.text(min_size=1))
def test_a_password_arrives_as_it_was_written(password: str) -> None:
    for url in ("redis://user@host:1/2", "redis://host", "unix:///run/redis.sock"):
        redis = connect(with_password(url, password))
        assert redis.connection_pool.connection_kwargs["password"] == password
    url = "redis+sentinel://one:1,[::1]:2/name"
    redis = connect(with_password(url, password))
    assert redis.connection_pool.connection_kwargs["password"] == password
    assert "secret" in with_password("redis://user:secret@host", password)
