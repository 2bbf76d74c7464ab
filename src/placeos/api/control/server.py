"""The control websocket's listener. The only file that knows picows.

picows is fast and bare: its handshake callback is synchronous, it checks no UTF-8 and
reassembles no fragments. Here frames become whole text messages for a `Session`, and what a
session writes becomes frames.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import time
import uuid
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Final, Protocol

import msgspec
from picows import (
    WSCloseCode,
    WSFrame,
    WSListener,
    WSMsgType,
    WSTransport,
    WSUpgradeRequest,
    WSUpgradeResponse,
    WSUpgradeResponseWithListener,
    ws_create_server,
)

from placeos.api.authentication import Unauthorised
from placeos.api.control.frames import frames
from placeos.api.control.handshake import Credentials, Rejection, judge
from placeos.api.control.outbox import Outbox
from placeos.api.control.session import Bindings, Lookups, Router, Services, Session
from placeos.model.tokens import Claims, allows

SCOPES: Final = ("systems", "control")  # any of them admits, to write
MAX_MESSAGE: Final = 1024 * 1024  # bytes of one message, in however many frames
PONG_EVERY: Final = 80.0  # seconds between pongs sent unasked
HIGH_WATER: Final = 64 * 1024  # bytes in a socket's write buffer before values wait
RECHECK_DELAY: Final = 0.1  # seconds in which changes of rights are collected
RECHECK_BATCH: Final = 100  # sockets looked at in one turn of the loop
CLOSE_GRACE: Final = 2.0  # seconds a peer has to answer a close before it is cut off

log = logging.getLogger("placeos.control")
_picows_log = logging.getLogger("placeos.control.frames")
_picows_log.setLevel(logging.CRITICAL)  # it logs each connection, and peers' mistakes as ours


class Authenticator(Protocol):
    """Answers from memory (`api.authentication.Authenticator`)."""

    def authenticate(
        self,
        *,
        headers: Mapping[str, str],
        query: Mapping[str, str],
        cookies: Mapping[str, str],
        host: str,
    ) -> Claims:
        """Who the credentials belong to. Raises Unauthorised."""

    def on_change(self, callback: Callable[[], None]) -> Callable[[], None]:
        """Call back whenever somebody's rights may have changed; returns what ends that."""


class _Peer(WSListener):
    """One socket: frames in, text messages out."""

    def __init__(self, server: Server, credentials: Credentials, claims: Claims) -> None:
        super().__init__()
        self.credentials = credentials
        self._server = server
        self._loop = asyncio.get_running_loop()
        self._transport: WSTransport | None = None
        self._out: list[bytes] = []
        self._out_size = 0
        self._fragments: list[bytes] = []
        self._fragments_size = 0
        self._fragmented = False
        self._ping: bytes | None = None
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self._outbox = Outbox(self._write, self._overflow)
        self.session = Session(server.services, self._outbox, claims)

    # -- called by picows -------------------------------------------------------------------

    def on_ws_connected(self, transport: WSTransport) -> None:
        self._transport = transport
        transport.underlying_transport.set_write_buffer_limits(high=HIGH_WATER)
        raw = transport.underlying_transport.get_extra_info("socket")
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        self._server.joined(self)
        self._later("pong", PONG_EVERY, self._unasked_pong)
        self._expect_expiry()

    def on_ws_disconnected(self, transport: WSTransport) -> None:
        self._transport = None
        self._server.left(self)
        self.session.close()
        for timer in self._timers.values():
            timer.cancel()

    def pause_writing(self) -> None:
        self._outbox.pause()

    def resume_writing(self) -> None:
        if self._ping is not None:
            payload, self._ping = self._ping, None
            self._pong(payload)
        self.session.resume()

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        if transport.is_close_frame_sent and frame.msg_type != WSMsgType.CLOSE:
            return
        kind = frame.msg_type
        if frame.rsv1 or frame.rsv2 or frame.rsv3:
            self.close(WSCloseCode.PROTOCOL_ERROR, "reserved bits are set")
        elif kind == WSMsgType.TEXT and frame.fin and not self._fragmented:
            self._text(frame)
        elif kind == WSMsgType.TEXT or kind == WSMsgType.CONTINUATION:
            self._fragment(frame, kind == WSMsgType.TEXT)
        elif kind == WSMsgType.PING:
            self._pong(frame.get_payload_as_bytes())
        elif kind == WSMsgType.CLOSE:
            self._closing(frame)
        elif kind == WSMsgType.BINARY:
            self.close(WSCloseCode.UNSUPPORTED_DATA, "only text is understood")

    # -- frames -----------------------------------------------------------------------------

    def _text(self, frame: WSFrame) -> None:
        try:
            text = frame.get_payload_as_utf8_text()
        except UnicodeDecodeError:
            self.close(WSCloseCode.INVALID_TEXT, "invalid UTF-8")
        else:
            self.session.received(text)

    def _fragment(self, frame: WSFrame, first: bool) -> None:
        if first == self._fragmented:
            self.close(WSCloseCode.PROTOCOL_ERROR, "fragments out of order")
            return
        self._fragmented = not frame.fin
        payload = frame.get_payload_as_bytes()
        # Each fragment costs more than its bytes: a message of a million empty ones is too big.
        self._fragments_size += max(len(payload), 64)
        if self._fragments_size > MAX_MESSAGE:
            self._fragments.clear()
            self.close(WSCloseCode.MESSAGE_TOO_BIG, f"more than {MAX_MESSAGE} bytes")
            return
        self._fragments.append(payload)
        if not frame.fin:
            return
        whole = b"".join(self._fragments)
        self._fragments.clear()
        self._fragments_size = 0
        try:
            text = whole.decode()
        except UnicodeDecodeError:
            self.close(WSCloseCode.INVALID_TEXT, "invalid UTF-8")
        else:
            self.session.received(text)

    def _pong(self, payload: bytes) -> None:
        if self._outbox.paused:
            self._ping = payload  # the last one counts (RFC 6455, 5.5.3)
        elif self._transport is not None:
            self._transport.send_pong(payload)

    def _closing(self, frame: WSFrame) -> None:
        transport = self._transport
        if transport is None:
            return
        if not transport.is_close_frame_sent:
            code = frame.get_close_code() or WSCloseCode.OK
            transport.send_close(code)
        transport.disconnect()

    # -- called by the session and the server -----------------------------------------------

    def _write(self, message: bytes) -> None:
        """Send a text message in this turn of the loop, together with others of the turn."""
        if not self._out:
            self._server.has_output(self)
        self._out.append(message)
        self._out_size += len(message)
        if self._out_size > HIGH_WATER:
            self.flush()

    def flush(self) -> None:
        """Write what was gathered: a burst costs one system call instead of one per message."""
        out, self._out = self._out, []
        self._out_size = 0
        transport = self._transport
        if transport is None or transport.is_close_frame_sent:
            return
        if len(out) == 1:
            transport.send(WSMsgType.TEXT, out[0])
        elif out:
            transport.underlying_transport.write(frames(out))

    def _overflow(self) -> None:
        self.close(WSCloseCode.TRY_AGAIN_LATER, "answers are not being read")

    def close(self, code: WSCloseCode, reason: str) -> None:
        """Start the close handshake; a peer that does not answer it is cut off."""
        transport = self._transport
        if transport is None or transport.is_close_frame_sent:
            return
        self.flush()
        transport.send_close(code, reason[:120].encode()[:120].decode(errors="ignore"))
        self.session.close()
        self._later("close", CLOSE_GRACE, transport.underlying_transport.abort)

    def recheck(self) -> None:
        """Look again at what the client may do, and end what it may no longer."""
        if self._transport is None:
            return
        try:
            claims = self._server.authenticate(self.credentials)
        except Rejection as rejection:
            self.close(WSCloseCode.POLICY_VIOLATION, rejection.message or "access ended")
        except Exception:
            # Whoever cannot be checked does not stay.
            log.exception("recheck failed")
            self.close(WSCloseCode.INTERNAL_ERROR, "unexpected failure")
        else:
            self.session.renew(claims)
            self._expect_expiry()

    def _expect_expiry(self) -> None:
        left = max(1.0, self.session.claims.exp - time.time())
        self._later("expiry", min(left, 86_400.0), self.recheck)

    def _unasked_pong(self) -> None:
        self._outbox.pong()
        self._later("pong", PONG_EVERY, self._unasked_pong)

    def _later(self, name: str, delay: float, callback: Callable[[], object]) -> None:
        known = self._timers.get(name)
        if known is not None:
            known.cancel()
        self._timers[name] = self._loop.call_later(delay, callback)


class Server:
    """All open sockets of one listener."""

    def __init__(self, services: Services, authenticator: Authenticator) -> None:
        self.services = services
        self._loop = asyncio.get_running_loop()
        self._peers: set[_Peer] = set()
        self._waiting: list[_Peer] = []
        self._empty = asyncio.Event()
        self._empty.set()
        self._authenticator = authenticator
        self._changed = asyncio.Event()

    def authenticate(self, credentials: Credentials) -> Claims:
        """Who a client is. Raises Rejection (401; 403 when its scopes do not reach here)."""
        try:
            claims = self._authenticator.authenticate(
                headers=credentials.headers,
                query=credentials.query,
                cookies=credentials.cookies,
                host=credentials.host,
            )
        except Unauthorised as error:
            raise Rejection(401, error.message) from None
        if claims.is_guest or not allows(claims, SCOPES, "write"):
            raise Rejection(403, "")
        return claims

    def accept(self, request: WSUpgradeRequest) -> WSUpgradeResponseWithListener:
        """picows asks for each connection: a listener or an HTTP error."""
        headers: dict[str, str] = {}
        for name, value in request.headers.items():
            headers.setdefault(name.lower(), value)
        extra = {"X-Request-ID": headers.get("x-request-id") or str(uuid.uuid4())}
        try:
            credentials = judge(request.path.decode("latin-1"), headers)
            peer = _Peer(self, credentials, self.authenticate(credentials))
        except Rejection as rejection:
            status, message = rejection.status, rejection.message
            extra |= rejection.headers
        except Exception:
            log.exception("handshake failed")
            status, message = 500, "unexpected failure"
        else:
            response = WSUpgradeResponse.create_101_response(extra)
            return WSUpgradeResponseWithListener(response, peer)
        extra["Content-Type"] = "application/json"
        bodiless = status == 403 and not message
        body = b"" if bodiless else msgspec.json.encode({"error": message})
        response = WSUpgradeResponse.create_error_response(status, body, extra)
        return WSUpgradeResponseWithListener(response, None)

    def has_output(self, peer: _Peer) -> None:
        """A peer has gathered output that waits for the end of this turn."""
        if not self._waiting:
            self._loop.call_soon(self._flush)
        self._waiting.append(peer)

    def _flush(self) -> None:
        waiting, self._waiting = self._waiting, []
        for peer in waiting:
            peer.flush()

    def joined(self, peer: _Peer) -> None:
        """A socket is open."""
        self._peers.add(peer)
        self._empty.clear()

    def left(self, peer: _Peer) -> None:
        """A socket is closed."""
        self._peers.discard(peer)
        if not self._peers:
            self._empty.set()

    def changed(self) -> None:
        """Somebody's rights may have changed."""
        self._changed.set()

    async def watch_rights(self) -> None:
        """Look at every open socket again after each change; runs until cancelled."""
        while True:
            await self._changed.wait()
            await asyncio.sleep(RECHECK_DELAY)
            self._changed.clear()
            for number, peer in enumerate(list(self._peers), start=1):
                peer.recheck()
                if number % RECHECK_BATCH == 0:
                    await asyncio.sleep(0)

    async def drain(self) -> None:
        """Close every socket as going away, and wait until they are gone."""
        for peer in list(self._peers):
            peer.close(WSCloseCode.GOING_AWAY, "the service is stopping")
        try:
            async with asyncio.timeout(CLOSE_GRACE + 1.0):
                await self._empty.wait()
        except TimeoutError:
            log.warning("sockets left open", extra={"sockets": len(self._peers)})


@asynccontextmanager
async def serving(
    address: tuple[str, int],
    *,
    authenticator: Authenticator,
    lookups: Lookups,
    bindings: Bindings,
    router: Router,
) -> AsyncIterator[tuple[str, int]]:
    """Serve the control websocket on host and port; yields the address it got.

    On leaving, clients are told that the service goes away (1001) and everything is released.
    """
    server = Server(Services(lookups, bindings, router), authenticator)
    listener = await ws_create_server(
        server.accept,
        *address,
        max_frame_size=MAX_MESSAGE,
        read_buffer_init_size=4096,
        enable_auto_pong=False,
        logger_name=_picows_log,
        backlog=1024,
    )
    unsubscribe = authenticator.on_change(server.changed)
    rights = asyncio.create_task(server.watch_rights(), name="control-rights")
    rights.add_done_callback(_report)
    try:
        bound = listener.sockets[0].getsockname()
        yield bound[0], bound[1]
    finally:
        unsubscribe()
        rights.cancel()
        listener.close()
        await server.drain()


def _report(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and task.exception() is not None:
        log.critical("watching rights ended", exc_info=task.exception())
