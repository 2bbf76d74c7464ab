"""Drivers that bring a client library of their own: the SDK says when to connect."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar, Final

from placeos.driver.errors import DriverError
from placeos.driver.log import ModuleLogger
from placeos.driver.transports import base
from placeos.driver.transports.base import Author, Opening, Role, Transport

CLOSE_TIMEOUT: Final = 5.0  # seconds the hook `close` may take


@dataclass(frozen=True, kw_only=True)
class Service(Transport):
    """A device or service that the driver reaches by a library.

    Its hook `open` connects (within `connect_timeout`; what it raises is why it cannot),
    `close` gives everything back: once for each `open`, also one that failed. The driver
    says `self.disconnect("why")` when the library has lost the device; then it is closed and
    opened again. Give the usual `port` of a device (and `udp` if that is a UDP port), or the
    usual `uri` of a service.
    """

    name: ClassVar[str] = "Service"
    port: int | None = None
    uri: str | None = field(default=None, kw_only=False)
    udp: bool = False

    def __post_init__(self) -> None:
        if (self.port is None) == (self.uri is None):
            raise ValueError("a Service has a port or a uri")

    @property
    def role(self) -> Role:  # type: ignore[override]
        """That of a device if it has a port."""
        return Role.SERVICE if self.port is None else Role.DEVICE

    @property
    def default_port(self) -> int | None:
        """The port of its devices."""
        return self.port

    @property
    def default_uri(self) -> str | None:
        """The usual URI."""
        return self.uri

    async def open(self, opening: Opening) -> base.Connection:
        """Have the driver connect."""
        try:
            await opening.author.open()
        except BaseException:
            await _close(opening.author, opening.log, opened=False)
            raise
        return Connection(opening.author, opening.log)


class Connection:
    """One `open` of the driver, and the `close` that belongs to it."""

    __slots__ = ("_author", "_closing", "_log", "_lost", "_reason")

    def __init__(self, author: Author, log: ModuleLogger) -> None:
        self._author = author
        self._log = log
        self._lost: Callable[[base.Connection, str], None] | None = None
        self._reason = ""
        self._closing: asyncio.Task[None] | None = None

    def adopt(self, lost: Callable[[base.Connection, str], None]) -> None:
        """Take it into use."""
        if self._closing is not None and self._closing.done():
            lost(self, self._reason)
        else:
            self._lost = lost

    def write(self, data: Any) -> None:
        """Raises DriverError: the library is what sends."""
        raise DriverError("a driver on Service has nothing to send with")

    def drop(self, reason: str) -> None:
        """Have the driver close it."""
        if self._closing is None:
            self._reason = reason
            self._closing = asyncio.get_running_loop().create_task(self._end(), name="close")

    def finish(self, reason: str) -> None:
        """Have the driver close it."""
        self.drop(reason)

    async def wait_closed(self) -> None:
        """Returns once the driver has closed it."""
        if self._closing is not None:
            await self._closing

    async def _end(self) -> None:
        try:
            await _close(self._author, self._log, opened=True)
        finally:
            lost, self._lost = self._lost, None
            if lost is not None:
                lost(self, self._reason)


async def _close(author: Author, log: ModuleLogger, *, opened: bool) -> None:
    try:
        async with asyncio.timeout(CLOSE_TIMEOUT):
            await author.close()
    except TimeoutError:
        log.warning("close did not end within %g s", CLOSE_TIMEOUT)
    except Exception:
        if opened:
            log.exception("close failed")
        else:  # perhaps there was nothing yet to close
            log.debug("close failed after open had failed", exc_info=True)
