"""Settings of a service, from `PLACEOS_*` environment variables."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import quote, urlsplit, urlunsplit

import msgspec

from placeos.cluster.access import EtcdAccess
from placeos.wire import tls
from placeos.wire.tls import Certificates


class ConfigError(Exception):
    """An environment variable is missing or unusable; the message names it."""


class Config(msgspec.Struct, frozen=True):
    """What every service is told at start. Secrets come as files, never as values."""

    data: Path
    """PLACEOS_DATA: folder for what the service keeps (environments, snapshots)."""
    secrets: Path
    """PLACEOS_SECRETS: folder with jwt.pem, server_secret, cluster_secret, cookie_secret."""
    database_url: str
    """PLACEOS_DATABASE_URL: postgresql://…, with the password of the file `database_password`."""
    redis_url: str
    """PLACEOS_REDIS_URL: redis://…, rediss://…, redis+sentinel://…, rediss+sentinel://… or
    unix://…, with the passwords of the files `redis_password` and `redis_sentinel_password`."""
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
    etcd: EtcdAccess = EtcdAccess(())
    """The same, with PLACEOS_ETCD_CA, PLACEOS_ETCD_CERT and PLACEOS_ETCD_KEY: PEM files for
    https; PLACEOS_ETCD_USER: its password is in the file `etcd_password`."""
    packages_index: str = ""
    """PLACEOS_PACKAGES_INDEX: URL of the index that drivers' packages come from (core only)."""
    packages_folder: str = ""
    """PLACEOS_PACKAGES_FOLDER: folder of wheels; without an index their only source."""
    packages_offline: bool = False
    """PLACEOS_PACKAGES_OFFLINE: `true`: no network, only the folder and what is there already."""
    packages_from_source: bool = False
    """PLACEOS_PACKAGES_FROM_SOURCE: `true`: build packages without a wheel; runs their code."""

    cluster_ttl: float = 5.0
    """PLACEOS_CLUSTER_TTL: seconds a core lives without its lease being renewed, at least 3;
    the same for all cores."""
    fail_safe: float = 900.0
    """PLACEOS_FAIL_SAFE: seconds that cores go on while etcd is away for all of them."""
    standalone: bool = False
    """PLACEOS_STANDALONE: `true`: the only core, which never ends for want of etcd."""
    git_poll: float = 300.0
    """PLACEOS_GIT_POLL: seconds between two fetches of a repository (core only)."""
    git_protocols: tuple[str, ...] = ("https", "ssh", "file")
    """PLACEOS_GIT_PROTOCOLS: comma list; `http` and `git` prove nothing of what they bring."""

    cluster_tls: tuple[str, str, str] | None = None
    """PLACEOS_CLUSTER_TLS_CERT, _KEY and _CA: PEM files with which links between services are
    TLS, both sides showing a certificate of that authority; all three or none."""

    def cluster_certificates(self) -> Certificates | None:
        """The files of `cluster_tls`, read. Raises ConfigError."""
        if self.cluster_tls is None:
            return None
        try:
            return tls.load(*(Path(name) for name in self.cluster_tls))
        except (OSError, ValueError) as error:
            raise ConfigError(f"PLACEOS_CLUSTER_TLS_*: {error}") from error

    def secret(self, name: str) -> bytes:
        """One secret of the secrets folder. Raises ConfigError: there is no default key."""
        return _secret(self.secrets, name)

    def __repr__(self) -> str:
        """Addresses may hold passwords, so they are left out."""
        return f"Config(identity={self.identity!r}, data={self.data!r})"


def load(environ: Mapping[str, str] = os.environ) -> Config:
    """Read the environment. Raises ConfigError naming the variable that is wrong."""
    data = Path(_need(environ, "PLACEOS_DATA"))
    secrets = Path(_need(environ, "PLACEOS_SECRETS"))
    access = _etcd(environ, secrets)
    return Config(
        data=data,
        secrets=secrets,
        database_url=_database_url(environ, secrets),
        redis_url=_redis_url(environ, secrets),
        etcd_endpoints=access.endpoints,
        etcd=access,
        listen=_address(environ, "PLACEOS_LISTEN"),
        control_listen=_address(environ, "PLACEOS_CONTROL_LISTEN"),
        identity=environ.get("PLACEOS_IDENTITY") or os.uname().nodename,
        zone=environ.get("PLACEOS_AVAILABILITY_ZONE", ""),
        production=environ.get("PLACEOS_ENV", "production") == "production",
        cluster_ttl=_ttl(environ),
        fail_safe=_seconds(environ, "PLACEOS_FAIL_SAFE", 900.0),
        standalone=_flag(environ, "PLACEOS_STANDALONE"),
        cluster_tls=_tls(environ),
        git_poll=_seconds(environ, "PLACEOS_GIT_POLL", 300.0),
        git_protocols=_protocols(environ),
        packages_index=environ.get("PLACEOS_PACKAGES_INDEX", ""),
        packages_folder=_absolute(environ, "PLACEOS_PACKAGES_FOLDER"),
        packages_offline=_flag(environ, "PLACEOS_PACKAGES_OFFLINE"),
        packages_from_source=_flag(environ, "PLACEOS_PACKAGES_FROM_SOURCE"),
    )


def with_password(url: str, password: str) -> str:
    """The address with a password; as it is when it has one (or none is given)."""
    parts = urlsplit(url)
    user, _, hosts = parts.netloc.rpartition("@")
    if not password or ":" in user:
        return url
    return urlunsplit(parts._replace(netloc=f"{user}:{quote(password, safe='')}@{hosts}"))


def _etcd(environ: Mapping[str, str], secrets: Path) -> EtcdAccess:
    text = environ.get("PLACEOS_ETCD_ENDPOINTS", "http://127.0.0.1:2379")
    endpoints = tuple(part.strip() for part in text.split(",") if part.strip())
    if "@" in text:  # it would show in messages, which name endpoints
        raise ConfigError(
            "PLACEOS_ETCD_ENDPOINTS holds no credentials: "
            "use PLACEOS_ETCD_USER and the secret etcd_password"
        )
    if not endpoints or not all(one.startswith(("http://", "https://")) for one in endpoints):
        raise ConfigError("PLACEOS_ETCD_ENDPOINTS should be http(s)://host:port, separated by ,")
    files = {name: _file(environ, f"PLACEOS_ETCD_{name.upper()}") for name in ("ca", "cert", "key")}
    if files["key"] is not None and files["cert"] is None:
        raise ConfigError("PLACEOS_ETCD_KEY needs PLACEOS_ETCD_CERT")
    user = environ.get("PLACEOS_ETCD_USER", "")
    return EtcdAccess(
        endpoints,
        **files,
        user=user,
        password=_secret(secrets, "etcd_password").decode() if user else "",
    )


def _database_url(environ: Mapping[str, str], secrets: Path) -> str:
    url = _need(environ, "PLACEOS_DATABASE_URL")
    return with_password(url, _optional_secret(secrets, "database_password"))


def _redis_url(environ: Mapping[str, str], secrets: Path) -> str:
    url = with_password(
        _need(environ, "PLACEOS_REDIS_URL"), _optional_secret(secrets, "redis_password")
    )
    sentinels = _optional_secret(secrets, "redis_sentinel_password")
    if not sentinels or "+sentinel:" not in url or "sentinel_password=" in url:
        return url
    return f"{url}{'&' if '?' in url else '?'}sentinel_password={quote(sentinels, safe='')}"


def _secret(secrets: Path, name: str) -> bytes:
    path = secrets / name
    try:
        value = path.read_bytes().strip()
    except OSError as error:
        raise ConfigError(f"PLACEOS_SECRETS: cannot read {path}: {error.strerror}") from error
    if not value:
        raise ConfigError(f"PLACEOS_SECRETS: {path} is empty")
    return value


def _optional_secret(secrets: Path, name: str) -> str:
    """Empty when there is no such file; one that cannot be read is an error all the same."""
    return _secret(secrets, name).decode() if (secrets / name).exists() else ""


def _file(environ: Mapping[str, str], name: str) -> Path | None:
    value = environ.get(name, "")
    if not value:
        return None
    path = Path(value)
    if not path.is_file():
        raise ConfigError(f"{name}: there is no file {value!r}")
    return path


def _need(environ: Mapping[str, str], name: str) -> str:
    value = environ.get(name, "")
    if not value:
        raise ConfigError(f"{name} is not set")
    return value


def _tls(environ: Mapping[str, str]) -> tuple[str, str, str] | None:
    names = [f"PLACEOS_CLUSTER_TLS_{part}" for part in ("CERT", "KEY", "CA")]
    certificate, key, authority = (environ.get(name, "") for name in names)
    if certificate and key and authority:
        return certificate, key, authority
    if certificate or key or authority:
        missing = [name for name in names if not environ.get(name)]
        raise ConfigError(f"{', '.join(missing)} is not set: all three are needed, or none")
    return None


def _seconds(environ: Mapping[str, str], name: str, default: float) -> float:
    text = environ.get(name) or str(default)
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 1 <= seconds < float("inf"):
        raise ConfigError(f"{name} should be seconds, at least 1, not {text!r}")
    return seconds


def _ttl(environ: Mapping[str, str]) -> float:
    seconds = _seconds(environ, "PLACEOS_CLUSTER_TTL", 5.0)
    if not 3 <= seconds <= 60 or seconds != int(seconds):
        raise ConfigError(
            f"PLACEOS_CLUSTER_TTL should be whole seconds from 3 to 60, not {seconds:g}"
        )
    return seconds


def _protocols(environ: Mapping[str, str]) -> tuple[str, ...]:
    text = environ.get("PLACEOS_GIT_PROTOCOLS") or "https,ssh,file"
    found = tuple(part.strip() for part in text.split(",") if part.strip())
    unknown = set(found) - {"https", "ssh", "file", "http", "git"}
    if unknown:
        raise ConfigError(f"PLACEOS_GIT_PROTOCOLS: there is no {', '.join(sorted(unknown))}")
    return found


def _absolute(environ: Mapping[str, str], name: str) -> str:
    value = environ.get(name, "")
    if value and not Path(value).is_absolute():
        raise ConfigError(f"{name} should be an absolute path, not {value!r}")
    return value


def _flag(environ: Mapping[str, str], name: str) -> bool:
    value = environ.get(name, "").lower()
    if value not in ("", "0", "1", "false", "true"):
        raise ConfigError(f"{name} should be true or false, not {value!r}")
    return value in ("1", "true")


def _address(environ: Mapping[str, str], name: str) -> tuple[str, int]:
    text = environ.get(name, "127.0.0.1:0")
    host, separator, port = text.rpartition(":")
    if not separator or not port.isdigit() or int(port) > 65535:
        raise ConfigError(f"{name} should be host:port, not {text!r}")
    return host.strip("[]") or "127.0.0.1", int(port)
