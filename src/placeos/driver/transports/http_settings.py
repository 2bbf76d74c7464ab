"""What a module's settings and URI say about HTTP and websockets (drivers.md 4.4, 4.5)."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping
from functools import cache
from typing import Annotated
from urllib.parse import quote, unquote, urlsplit, urlunsplit

from msgspec import Meta, Struct

from placeos.driver.errors import DriverError
from placeos.driver.settings import Secret, SettingsReader
from placeos.driver.transports.base import Address
from placeos.driver.transports.tls import TlsSettings

Headers = list[tuple[str, str]]
Seconds = Annotated[float, Meta(gt=0)]


class Credentials(Struct):
    """A name and a password."""

    username: str
    password: Secret = ""


class Proxy(Struct):
    """An HTTP proxy; none where `host` is empty."""

    host: str = ""
    port: Annotated[int, Meta(ge=1, le=65535)] = 3128
    auth: Credentials | None = None

    def url(self, *, credentials: bool) -> str | None:
        """Its URL, with name and password or without; None if there is no proxy."""
        if not self.host:
            return None
        host = f"[{self.host}]" if ":" in self.host else self.host
        login = ""
        if credentials and self.auth is not None:
            login = f"{quote(self.auth.username, '')}:{quote(self.auth.password, '')}@"
        return f"http://{login}{host}:{self.port}"


class HttpSettings(TlsSettings):
    """The settings, named as the platform has always named them; times in seconds."""

    basic_auth: Credentials | None = None
    digest_auth: Credentials | None = None
    bearer_token: Secret | None = None
    headers: dict[str, str | list[str]] = {}
    host_header: str | None = None
    proxy: Proxy | None = None
    disable_cookies: bool = False
    http_connect_timeout: Seconds = 10.0
    http_comms_timeout: Seconds = 120.0
    http_keep_alive_seconds: Annotated[float, Meta(ge=0)] = 20.0
    http_max_requests: Annotated[int, Meta(ge=0)] = 1000

    def header_list(self) -> Headers:
        """The `headers` setting as name and value, once for each value."""
        return [
            (name, value)
            for name, values in self.headers.items()
            for value in ([values] if isinstance(values, str) else values)
        ]

    def proxy_url(self, *, credentials: bool) -> str | None:
        """Where its proxy is, if it has one."""
        return self.proxy.url(credentials=credentials) if self.proxy is not None else None


@cache
def _reader() -> SettingsReader:
    return SettingsReader(HttpSettings)


def read(address: Address) -> HttpSettings:
    """The settings of a module. Raises InvalidSettings naming each wrong one."""
    settings = _reader().read(address.settings)
    assert isinstance(settings, HttpSettings)
    return settings


class Target(Struct, frozen=True):
    """Where requests go. `uri` has no name, password or fragment any more."""

    uri: str
    login: Credentials | None = None

    def authorization(self, settings: HttpSettings) -> str | None:
        """The value of the header that can be told without asking the server."""
        if settings.bearer_token:
            return f"Bearer {settings.bearer_token}"
        login = settings.basic_auth or self.login
        if login is None:
            return None
        return "Basic " + base64.b64encode(f"{login.username}:{login.password}".encode()).decode()


def target_of(uri: str, schemes: Mapping[str, str]) -> Target:
    """Check a URI. `schemes` tells which ones there may be, and what each is taken for.

    Raises DriverError; its message holds nothing that may be secret.
    """
    try:
        parts = urlsplit(uri)
        host, port = parts.hostname, parts.port
    except ValueError:
        raise DriverError("the module's uri is not valid") from None
    wanted = " or ".join(f"{scheme}://" for scheme in dict.fromkeys(schemes.values()))
    scheme = schemes.get(parts.scheme)
    if scheme is None:
        raise DriverError(f"the module's uri must begin with {wanted}")
    if not host:
        raise DriverError(f"the module's uri names no host; it must be like {wanted}host/path")
    login = None
    if parts.username is not None:
        login = Credentials(unquote(parts.username), unquote(parts.password or ""))
    host = f"[{host}]" if ":" in host else host
    place = host if port is None else f"{host}:{port}"
    return Target(urlunsplit((scheme, place, parts.path, parts.query, "")), login)


def merged(*layers: Iterable[tuple[str, str]]) -> Headers:
    """Headers of several layers; a later layer replaces those of the same name.

    Raises DriverError for a header that could not be sent as one.
    """
    headers: Headers = []
    for layer in layers:
        layer = list(layer)
        names = {name.lower() for name, _ in layer}
        headers = [header for header in headers if header[0].lower() not in names] + layer
    for name, value in headers:
        if not name or any(c in "\r\n\0" for c in name + value):
            raise DriverError(f"the header {name!r} is empty or has a line break in it")
    return headers
