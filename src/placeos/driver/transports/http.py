"""HTTP: a driver whose device or service answers requests; see `http_client.py` for them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar

from placeos.driver.errors import DriverError
from placeos.driver.transports import base, http_settings, tls
from placeos.driver.transports.base import Opening, Role, Transport

SCHEMES = {"http": "http", "https": "https"}


@dataclass(frozen=True, kw_only=True)
class HTTP(Transport):
    """A device or service at an `http://` or `https://` URI, spoken to by `self.http`.

    Requests go out one after the other, `concurrent` at once if that is more than 1, with
    `delay` seconds between them. A request that may be repeated (GET, HEAD, OPTIONS, PUT,
    DELETE) is, up to `retries` times, when its connection fails.
    """

    role: ClassVar[Role] = Role.SERVICE
    name: ClassVar[str] = "HTTP"
    settings: ClassVar[type[http_settings.HttpSettings]] = http_settings.HttpSettings
    uri: str | None = field(default=None, kw_only=False)
    concurrent: int = 1
    delay: float = 0.0
    retries: int = 1

    def __post_init__(self) -> None:
        if self.concurrent < 1 or self.delay < 0 or self.retries < 0:
            raise ValueError("concurrent is at least 1; delay and retries are at least 0")

    @property
    def standing(self) -> bool:
        """No connection is kept for its own sake."""
        return False

    @property
    def default_uri(self) -> str | None:
        """The URI of its service, if there is a usual one."""
        return self.uri

    async def open(self, opening: Opening) -> base.Connection:
        """Check URI and settings; nothing is connected before the first request."""
        http_settings.target_of(opening.address.uri or self.uri or "", SCHEMES)
        http_settings.read(opening.address)
        tls.context_of(opening.address)
        return _NoConnection()

    def encode(self, data: bytes | str) -> Any:
        """Raises DriverError: there is nothing to send."""
        raise DriverError("a driver on HTTP asks by self.http, such as self.http.get, not by send")


class _NoConnection:
    """Stands for a connection, and lasts until it is dropped."""

    def __init__(self) -> None:
        self._lost: Callable[[base.Connection, str], None] | None = None

    def adopt(self, lost: Callable[[base.Connection, str], None]) -> None:
        """Take it into use."""
        self._lost = lost

    def write(self, data: Any) -> None:
        """Nothing is ever written."""

    def drop(self, reason: str) -> None:
        """End it, as others do: not before the present turn of the loop is over."""
        lost, self._lost = self._lost, None
        if lost is not None:
            asyncio.get_running_loop().call_soon(lost, self, reason)

    def finish(self, reason: str) -> None:
        """End it."""
        self.drop(reason)

    async def wait_closed(self) -> None:
        """There is nothing to wait for."""
