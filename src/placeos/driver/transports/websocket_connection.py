"""One websocket. The only file of the SDK that knows picows, so that only its users pay for it.

picows is fast and bare: it puts fragments together no more than it answers a close.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

import picows
from picows import WSCloseCode, WSFrame, WSMsgType, WSTransport

from placeos.driver.errors import DriverError, LeaseLost
from placeos.driver.fencing import sockets as device_sockets
from placeos.driver.framing import MAX_MESSAGE
from placeos.driver.transports import base, http_settings, tls
from placeos.driver.transports.base import Opening, cut
from placeos.driver.transports.tcp import MAX_UNSENT

if TYPE_CHECKING:
    from placeos.driver.transports.websocket import WebSocket

_log = logging.getLogger("placeos.driver.websocket")
_log.setLevel(logging.CRITICAL)  # picows logs each connection, and the device's mistakes as ours

AT_A_TIME: Final = 64 * 1024
"""Bytes the system keeps unread, or thereabouts: picows takes all there are at once, millions of
frames if they are small, before others have their turn."""

_DATA: Final = (WSMsgType.TEXT, WSMsgType.BINARY, WSMsgType.CONTINUATION)


async def connect(
    spec: WebSocket,
    opening: Opening,
    target: http_settings.Target,
    headers: http_settings.Headers,
) -> Connection:
    """Connect and shake hands. Raises OSError, TimeoutError, ssl.SSLError or DriverError."""
    sockets: list[socket.socket] = []

    async def opened(url: picows.WSParsedURL) -> socket.socket:
        sockets.append(await device_sockets.connected(url.host, url.port, receive=AT_A_TIME))
        return sockets[-1]

    settings = http_settings.read(opening.address)
    secure = target.uri.startswith("wss:")
    try:
        transport, connection = await picows.ws_connect(
            lambda: Connection(spec, opening, sockets),
            target.uri,
            ssl_context=tls.context_of(opening.address) if secure else None,
            extra_headers=headers,
            proxy=settings.proxy_url(credentials=True),
            websocket_handshake_timeout=None,  # the connector has one
            enable_auto_pong=False,  # it would do so without an end
            enable_auto_ping=spec.ping > 0,
            auto_ping_idle_timeout=spec.ping,
            auto_ping_reply_timeout=min(spec.ping_timeout, spec.ping),
            max_frame_size=MAX_MESSAGE,
            max_redirects=0,
            socket_factory=opened,
            use_aiofastnet=False,
            logger_name=_log,
        )
    except BaseException as error:
        for one in sockets:  # picows leaves it open when it is cancelled in the handshake
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
        if isinstance(error, Exception) and not isinstance(error, OSError | ValueError):
            raise DriverError(_why(error)) from error
        raise
    if not isinstance(connection, Connection):  # so picows tells that it was closed
        raise DriverError("closed by the device during the handshake")
    connection.check_subprotocol(transport)
    return connection


def _why(error: Exception) -> str:
    response = getattr(error, "response", None)
    if isinstance(error, picows.WSInvalidStatusError) and response is not None:
        status = response.status
        return f"answered {status.value} {status.phrase} and not with a websocket"
    return str(error) or type(error).__name__


class Connection(picows.WSListener):
    """One connection."""

    def __init__(self, spec: WebSocket, opening: Opening, used: list[socket.socket]) -> None:
        self._spec = spec
        self._used = used  # the last one is that of this connection
        self._permit = opening.permit
        self._farewell: device_sockets.Farewell | None = None
        self._framer = spec.framer()
        self._events = opening.events
        self._log = opening.log
        self._transport: WSTransport | None = None
        self._ended: asyncio.Task[None] | None = None
        self._reason = ""
        self._early: list[bytes] | None = []  # what came before `adopt`
        self._parts: bytearray | None = None  # of a message that came in fragments so far
        self._lost: Callable[[base.Connection, str], None] | None = None

    # -- what the connector asks ----------------------------------------------------------

    def check_subprotocol(self, transport: WSTransport) -> None:
        """Raises DriverError if the device insists on a subprotocol that was not offered."""
        chosen = transport.response.headers.get("Sec-WebSocket-Protocol", "")
        if chosen and chosen != self._spec.subprotocol:
            self.drop("wrong subprotocol")
            raise DriverError(
                f"speaks the subprotocol {chosen!r} and not {self._spec.subprotocol!r}"
            )

    def adopt(self, lost: Callable[[base.Connection, str], None]) -> None:
        """Take the connection into use."""
        if self._transport is None:
            lost(self, self._reason)
            return
        self._lost = lost
        early, self._early = self._early, None
        for data in early or ():
            self._receive(data)

    def write(self, data: bytes | str) -> None:
        """Send one message. A device that takes none is dropped."""
        if self._transport is None or self._reason:
            return
        self._permit.check(self.drop)
        kind = WSMsgType.BINARY
        if isinstance(data, str):
            kind, data = WSMsgType.TEXT, data.encode()
        self._log.wire("sent", data)
        self._send(self._transport, kind, data)

    def _send(self, transport: WSTransport, kind: WSMsgType, data: bytes) -> None:
        transport.send(kind, data)
        if transport.underlying_transport.get_write_buffer_size() > MAX_UNSENT:
            self._reason = self._reason or "the device does not take what is sent"
            self._disconnect()

    def drop(self, reason: str) -> None:
        """Say goodbye, which takes a moment; the second time end the connection at once."""
        if self._farewell is not None:
            self._disconnect()
        else:
            self._end(reason, WSCloseCode.OK)

    def finish(self, reason: str) -> None:
        """Say goodbye, and end the connection once the device has got that."""
        self._end(reason, WSCloseCode.OK)

    async def wait_closed(self) -> None:
        """Returns once the socket is closed."""
        if self._ended is not None:
            await asyncio.wait([self._ended])

    # -- what picows tells ----------------------------------------------------------------

    def on_ws_connected(self, transport: WSTransport) -> None:
        """The handshake was made."""
        self._transport = transport
        # Also keeps what picows itself may have found wrong from going unread.
        self._ended = asyncio.get_running_loop().create_task(
            transport.wait_disconnected(), name="websocket"
        )
        self._ended.add_done_callback(self._on_end)

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        """A frame came."""
        if self._reason or transport.is_close_frame_sent:  # picows goes on after its own no
            return
        kind = frame.msg_type
        if kind is WSMsgType.CLOSE:
            self._closed(frame.get_payload_as_bytes())
        elif kind is WSMsgType.PING:
            self._control(transport, WSMsgType.PONG, frame.get_payload_as_bytes())
        elif kind in _DATA:
            self._assemble(kind, frame)

    def send_user_specific_ping(self, transport: WSTransport) -> None:
        """The device was silent for long."""
        self._control(transport, WSMsgType.PING, b"")

    # -- inside ---------------------------------------------------------------------------

    def _control(self, transport: WSTransport, kind: WSMsgType, data: bytes) -> None:
        with contextlib.suppress(LeaseLost):
            self._permit.check(self.drop)
            self._send(transport, kind, data)

    def _assemble(self, kind: WSMsgType, frame: WSFrame) -> None:
        """A whole message, or a fragment of one."""
        if frame.rsv1 or frame.rsv2 or frame.rsv3:
            self._end("sent a frame of an extension nobody asked for", WSCloseCode.PROTOCOL_ERROR)
        elif (kind is WSMsgType.CONTINUATION) == (self._parts is None):
            self._end("mixed up the fragments of its messages", WSCloseCode.PROTOCOL_ERROR)
        elif self._parts is None and frame.fin:
            self._receive(frame.get_payload_as_bytes())
        else:
            parts = self._parts = bytearray() if self._parts is None else self._parts
            parts += frame.get_payload_as_memoryview()
            if len(parts) > MAX_MESSAGE:
                self._end(
                    f"sent a message of more than {MAX_MESSAGE} bytes", WSCloseCode.MESSAGE_TOO_BIG
                )
            elif frame.fin:
                self._parts = None
                self._receive(bytes(parts))

    def _receive(self, data: bytes) -> None:
        if self._early is not None:
            self._early.append(data)
            return
        self._log.wire("received", data)
        for message in cut(self._framer, data, self._log, self.drop):
            self._events.message(message)

    def _closed(self, payload: bytes) -> None:
        """The device says goodbye, with a code and a reason, or without."""
        self._reason = "closed by the device"
        if len(payload) >= 2:
            self._reason += f" with code {int.from_bytes(payload[:2], 'big')}"
        if len(payload) > 2:
            self._reason += f": {payload[2:].decode(errors='replace')}"
        if self._transport is not None and self._permit.valid:
            self._transport.send(WSMsgType.CLOSE, payload[:2])
        self._part()

    def _end(self, reason: str, code: WSCloseCode) -> None:
        if self._farewell is not None:
            return
        self._reason = self._reason or reason
        if self._transport is not None and self._permit.valid:
            self._transport.send_close(code)
        self._part()

    def _part(self) -> None:
        """End it once the device has all that was sent."""
        if self._transport is None:
            return
        if not self._permit.valid:
            self._disconnect()
            return
        above = self._transport.underlying_transport.get_write_buffer_size
        self._farewell = device_sockets.Farewell(self._used[-1], above, self._disconnect)

    def _disconnect(self) -> None:
        if self._transport is not None:
            if not self._transport.underlying_transport.get_write_buffer_size():
                device_sockets.before_close(self._used[-1])
            self._transport.disconnect(graceful=False)

    def _on_end(self, ended: asyncio.Task[None]) -> None:
        error = None if ended.cancelled() else ended.exception()
        transport, self._transport = self._transport, None
        assert transport is not None
        if self._farewell is not None:
            self._farewell.cancel()
        sent = transport.close_handshake.sent if transport.close_handshake else None
        if not self._reason and sent is not None and sent.code == WSCloseCode.GOING_AWAY:
            self._reason = "the device does not answer pings"
        self._reason = self._reason or (str(error) if error else "closed by the device")
        lost, self._lost = self._lost, None
        if lost is not None:
            lost(self, self._reason)
