"""A scripted device that speaks WebSocket."""

from __future__ import annotations

from typing import Final

import picows

from placeos.driver.testing.script import HOST, Connected, Messages
from placeos.wire.messages import DriverDefaults, ModuleStart

WEBSOCKET: Final = 3  # role of a module on a websocket

Message = bytes | str
"""Text frames are `str`, binary ones `bytes`."""


class ScriptedWebSocket(Connected[Message], Messages[Message]):
    """A WebSocket server that plays the device: a message is `str` or `bytes`, as its frame."""

    roles = (WEBSOCKET,)

    def __init__(self, *, path: str = "/") -> None:
        super().__init__()
        self.path = ""
        """What the module asked for when it connected last."""
        self.headers: dict[str, str] = {}
        """The headers it sent then, with names in lower case."""
        self._path = path

    @property
    def uri(self) -> str:
        """Where it is: `ws://127.0.0.1:<port>/`, with the `path` it was given."""
        return f"ws://{HOST}:{self.port}{self._path}"

    async def listen(self) -> None:
        """Accept connections, on the same port as before."""
        self._hold_a_port()
        self._server = await picows.ws_create_server(
            self._came, HOST, self.port, reuse_address=True
        )

    def introduce(self, start: ModuleStart, defaults: DriverDefaults) -> None:
        """Write into the module's record how it is reached."""
        super().introduce(start, defaults)
        start.uri = self.uri

    def _came(self, request: picows.WSUpgradeRequest) -> _Line | None:
        if self._server is None:
            return None
        self.path = request.path.decode()
        self.headers = {str(k).lower(): str(v) for k, v in request.headers.items()}
        return _Line(self)


class _Line(picows.WSListener):
    """One connection."""

    def __init__(self, device: ScriptedWebSocket) -> None:
        self._device = device
        self._message = bytearray()
        self._text = False
        self.transport: picows.WSTransport

    def write(self, message: Message, /) -> None:
        """Send one message."""
        text = isinstance(message, str)
        data = message.encode() if isinstance(message, str) else message
        self.transport.send(picows.WSMsgType.TEXT if text else picows.WSMsgType.BINARY, data)

    def abort(self) -> None:
        """Drop it."""
        self.transport.disconnect()

    def on_ws_connected(self, transport: picows.WSTransport) -> None:
        self.transport = transport
        self._device._opened(self)

    def on_ws_disconnected(self, transport: picows.WSTransport) -> None:
        self._device._closed(self)

    def on_ws_frame(self, transport: picows.WSTransport, frame: picows.WSFrame) -> None:
        kind = frame.msg_type
        if kind == picows.WSMsgType.CLOSE:
            transport.disconnect()
            return
        if kind not in (
            picows.WSMsgType.TEXT,
            picows.WSMsgType.BINARY,
            picows.WSMsgType.CONTINUATION,
        ):
            return
        if kind != picows.WSMsgType.CONTINUATION:
            self._text = kind == picows.WSMsgType.TEXT
        self._message += frame.get_payload_as_bytes()
        if frame.fin:
            message, self._message = bytes(self._message), bytearray()
            self._device._heard(message.decode() if self._text else message)
