"""Settings of a service, from `PLACEOS_*` environment variables."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import msgspec


class ConfigError(Exception):
    """An environment variable is missing or unusable; the message names it."""


class Config(msgspec.Struct, frozen=True):
    """What every service is told at start. Secrets come as files, never as values."""

    data: Path
    """PLACEOS_DATA: folder for what the service keeps (environments, snapshots)."""
    secrets: Path
    """PLACEOS_SECRETS: folder with jwt.pem, server_secret, cluster_secret, cookie_secret."""
    database_url: str
    """PLACEOS_DATABASE_URL: postgresql://…"""
    redis_url: str
    """PLACEOS_REDIS_URL: redis://… or unix://…"""
    etcd_endpoints: tuple[str, ...]
    """PLACEOS_ETCD_ENDPOINTS: comma list of http(s)://host:port."""
    listen: tuple[str, int]
    """PLACEOS_LISTEN: host:port of this service's (first) listener."""
    control_listen: tuple[str, int]
    """PLACEOS_CONTROL_LISTEN: host:port of the control websocket (api only)."""
    identity: str
    """PLACEOS_IDENTITY: stable name of this node, e.g. core-1."""
    zone: str
    """PLACEOS_AVAILABILITY_ZONE."""
    production: bool
    """PLACEOS_ENV is `production` (the default)."""

    def secret(self, name: str) -> bytes:
        """One secret of the secrets folder. Raises ConfigError: there is no default key."""
        path = self.secrets / name
        try:
            value = path.read_bytes().strip()
        except OSError as error:
            raise ConfigError(f"PLACEOS_SECRETS: cannot read {path}: {error.strerror}") from error
        if not value:
            raise ConfigError(f"PLACEOS_SECRETS: {path} is empty")
        return value


def load(environ: Mapping[str, str] = os.environ) -> Config:
    """Read the environment. Raises ConfigError naming the variable that is wrong."""
    return Config(
        data=Path(_need(environ, "PLACEOS_DATA")),
        secrets=Path(_need(environ, "PLACEOS_SECRETS")),
        database_url=_need(environ, "PLACEOS_DATABASE_URL"),
        redis_url=_need(environ, "PLACEOS_REDIS_URL"),
        etcd_endpoints=tuple(
            part.strip()
            for part in environ.get("PLACEOS_ETCD_ENDPOINTS", "http://127.0.0.1:2379").split(",")
            if part.strip()
        ),
        listen=_address(environ, "PLACEOS_LISTEN"),
        control_listen=_address(environ, "PLACEOS_CONTROL_LISTEN"),
        identity=environ.get("PLACEOS_IDENTITY") or os.uname().nodename,
        zone=environ.get("PLACEOS_AVAILABILITY_ZONE", ""),
        production=environ.get("PLACEOS_ENV", "production") == "production",
    )


def _need(environ: Mapping[str, str], name: str) -> str:
    value = environ.get(name, "")
    if not value:
        raise ConfigError(f"{name} is not set")
    return value


def _address(environ: Mapping[str, str], name: str) -> tuple[str, int]:
    text = environ.get(name, "127.0.0.1:0")
    host, separator, port = text.rpartition(":")
    if not separator or not port.isdigit() or int(port) > 65535:
        raise ConfigError(f"{name} should be host:port, not {text!r}")
    return host.strip("[]") or "127.0.0.1", int(port)
