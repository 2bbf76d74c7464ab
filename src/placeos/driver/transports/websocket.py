"""Websockets (RFC 6455), with or without TLS."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Final

from placeos.driver.errors import DriverError
from placeos.driver.transports import base, http_settings
from placeos.driver.transports.base import Framed, Opening, Role

SCHEMES: Final = {"ws": "ws", "wss": "wss", "http": "ws", "https": "wss"}


@dataclass(frozen=True, kw_only=True)
class WebSocket(Framed):
    """A device or service at a `ws://` or `wss://` URI.

    Each message of the device is a message here, text and binary alike, unless the framing
    says otherwise (see `Framed`). `send("text")` sends a text, `send(b"…")` a binary message.
    A device that is silent for `ping` seconds is pinged (0: never), and is lost if it does
    not answer that within `ping_timeout`, or within `ping` where that is less.
    """

    role: ClassVar[Role] = Role.WEBSOCKET
    name: ClassVar[str] = "WebSocket"
    settings: ClassVar[type[http_settings.HttpSettings]] = http_settings.HttpSettings
    uri: str | None = field(default=None, kw_only=False)
    subprotocol: str = ""
    ping: float = 20.0
    ping_timeout: float = 10.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.ping < 0 or self.ping_timeout <= 0:
            raise ValueError("ping and ping_timeout are seconds; only ping may be 0, for none")

    @property
    def default_uri(self) -> str | None:
        """The URI of its service, if there is a usual one."""
        return self.uri

    def encode(self, data: bytes | str) -> Any:
        """Bytes stay bytes, for a binary message; a text stays one, and gets its ending."""
        return super().encode(data).decode() if isinstance(data, str) else data

    async def open(self, opening: Opening) -> base.Connection:
        """Connect and shake hands, with TLS if the URI says so."""
        from placeos.driver.transports.websocket_connection import connect  # picows: 5 MiB

        target = http_settings.target_of(opening.address.uri or self.uri or "", SCHEMES)
        return await connect(self, opening, target, await self._headers(opening, target))

    async def _headers(
        self, opening: Opening, target: http_settings.Target
    ) -> http_settings.Headers:
        """Those of the driver, and on top of them those of the settings."""
        try:
            given = await opening.author.websocket_headers()
        except (DriverError, OSError):
            raise
        except Exception as error:
            opening.log.debug("websocket_headers failed", exc_info=error)
            what = f"{type(error).__name__}: {error}"
            raise DriverError(f"websocket_headers failed: {what}") from error
        if not isinstance(given, Mapping):
            raise DriverError("websocket_headers must give a dict of names and values")
        settings = http_settings.read(opening.address)
        authorization = target.authorization(settings)
        own = [("Authorization", authorization)] if authorization else []
        if settings.host_header:
            own.append(("Host", settings.host_header))
        offered = [("Sec-WebSocket-Protocol", self.subprotocol)] if self.subprotocol else []
        return http_settings.merged(
            own,
            ((str(name), str(value)) for name, value in given.items()),
            settings.header_list(),
            offered,
        )
