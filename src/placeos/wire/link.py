"""A link: one multiplexed connection between two processes.

Requests go both ways, each with a sequence number; answers come in any order. Memory is
bounded: outgoing bytes by `HIGH_WATER` (senders should `await drain()`; past `HARD_LIMIT`
a request fails as busy), open requests by `MAX_PENDING`.

Between services the link starts with a proof of the cluster secret: both sides send a nonce
in HELLO and answer the other's with HMAC-SHA256(secret, role + peer nonce + own nonce).
"""

from __future__ import annotations

import asyncio
import hmac
import logging
import secrets
from collections.abc import Callable
from functools import partial
from typing import Final, cast

import msgspec

from placeos.wire.errors import CallError, Failure
from placeos.wire.frame import Command, FrameError, FrameReader, Header, encode

PROTOCOL: Final = 1
HIGH_WATER: Final = 1024 * 1024  # bytes waiting in the socket before drain() waits
HARD_LIMIT: Final = 64 * 1024 * 1024  # bytes waiting before requests fail as busy
MAX_PENDING: Final = 65_536  # requests open in one direction
HANDSHAKE_TIMEOUT: Final = 5.0  # seconds

_turn: list[Link] | None = None
"""Links written to while the data one link received is handled; they are flushed at its end.
A flush by `call_soon` would cost every hop of a call one more turn of the loop."""

log = logging.getLogger("placeos.wire")

OnReply = Callable[[Header, bytes], None]
OnRequest = Callable[["Link", Header, bytes], None]
OnClosed = Callable[["Link", Exception | None], None]


class Hello(msgspec.Struct, omit_defaults=True):
    """The first frame of each side."""

    protocol: int = PROTOCOL
    service: str = ""
    identity: str = ""
    nonce: str = ""
    features: list[str] = []


class Link(asyncio.Protocol):
    """One end of a link. Give it to `create_connection`, `create_server` or a socket pair.

    `on_request` is called for every frame that is no answer, in order, on the loop; it must
    not block. It answers, now or later, with `reply` or `fail`. `on_cancel(sequence)` tells
    that the asking side no longer waits for that request.
    """

    def __init__(
        self,
        on_request: OnRequest,
        *,
        hello: Hello | None = None,
        secret: bytes | None = None,
        server: bool = False,
        on_closed: OnClosed | None = None,
        on_cancel: Callable[[int], None] | None = None,
    ) -> None:
        self.peer = Hello()
        self.on_request = on_request
        self.on_closed = on_closed
        self.on_cancel = on_cancel
        loop = asyncio.get_running_loop()
        self.ready: asyncio.Future[Hello] = loop.create_future()
        self.ready.add_done_callback(_retrieve)  # a closed link must not warn about it
        self.closed: asyncio.Future[None] = loop.create_future()
        self._loop = loop
        self._hello = hello or Hello()
        self._secret = secret
        self._role, self._peer_role = (b"server", b"client") if server else (b"client", b"server")
        self._transport: asyncio.Transport | None = None
        self._reader = FrameReader()
        self._out: list[bytes] = []
        self._pending: dict[int, OnReply] = {}
        self._sequence = 0
        self._unanswered = 0  # requests of the other side that still wait for our answer
        self._writable = asyncio.Event()
        self._writable.set()
        self._reason: Exception | None = None
        self._timer: asyncio.TimerHandle | None = None

    # -- asking ---------------------------------------------------------------------------

    @property
    def is_open(self) -> bool:
        """Whether the handshake is done and the connection stands."""
        return self.ready.done() and not self.closed.done() and self._reason is None

    def call(self, header: Header, payload: bytes, on_reply: OnReply) -> int:
        """Send a request; `on_reply` gets its REPLY or ERROR frame exactly once.

        Returns the sequence number, for `cancel`. Raises CallError (not_run, busy).
        """
        if not self.is_open:
            raise CallError(Failure.NOT_RUN, "the link is closed")
        if len(self._pending) >= MAX_PENDING or self.buffered() > HARD_LIMIT:
            raise CallError(Failure.BUSY, "too many requests are waiting on this link")
        self._sequence = sequence = self._sequence + 1
        header.sequence = sequence
        self.send(header, payload)
        if _turn is None and not self._pending:
            self._flush()  # nothing else is under way, so nothing is worth waiting for
        self._pending[sequence] = on_reply
        return sequence

    def cancel(self, sequence: int) -> None:
        """Stop waiting for a request and tell the other side. Unknown numbers are ignored."""
        if self._pending.pop(sequence, None) is not None and self.is_open:
            self.send(Header(Command.CANCEL, sequence))

    async def request(
        self, header: Header, payload: bytes = b"", *, timeout: float | None = None
    ) -> tuple[Header, bytes]:
        """Send a request and wait for its answer.

        `timeout` in seconds also travels as `header.remaining`. Raises CallError for an ERROR
        answer, a lost link (may_have_run) or a passed time-out (timed_out).
        """
        if timeout is not None:
            header.remaining = max(1, int(timeout * 1000))

        def ask(on_reply: OnReply) -> Callable[[], None]:
            return partial(self.cancel, self.call(header, payload, on_reply))

        return await wait_for_answer(ask, timeout)

    # -- answering and sending ------------------------------------------------------------

    def send(self, header: Header, payload: bytes = b"") -> None:
        """Queue one frame; frames of one turn of the loop leave in one write."""
        if self._transport is None or self.closed.done():
            return
        if not self._out:
            if _turn is None:
                self._loop.call_soon(self._flush)
            else:
                _turn.append(self)
        self._out.append(encode(header, payload))

    def reply(self, sequence: int, payload: bytes = b"null", code: int = 200) -> None:
        """Answer a request. Sequence 0 wanted no answer and gets none."""
        self.answer(Header(Command.REPLY, sequence, code=code), payload)

    def fail(self, sequence: int, error: CallError) -> None:
        """Answer a request with an error."""
        header = Header(Command.ERROR, sequence, code=error.code, error=error.failure)
        self.answer(header, error.detail())

    def answer(self, header: Header, payload: bytes) -> None:
        """Send a REPLY or ERROR frame, unless its request (sequence 0) wanted none."""
        if header.sequence:
            self._unanswered = max(0, self._unanswered - 1)
            self.send(header, payload)
            if _turn is None and not self._unanswered:
                self._flush()  # the other side waits for this one alone

    async def drain(self) -> None:
        """Wait until the other side takes bytes again."""
        await self._writable.wait()

    def close(self, reason: str = "") -> None:
        """Send what is queued, then close. Pending requests fail as `may_have_run`."""
        if self._reason is None:
            self._reason = ConnectionError(reason or "closed by this side")
        if self._transport is not None:
            self._flush()
            self._transport.close()

    def abort(self, reason: Exception) -> None:
        """Close at once, dropping what is queued."""
        if self._reason is None:
            self._reason = reason
        self._out.clear()
        if self._transport is not None:
            self._transport.abort()

    def _flush(self) -> None:
        if self._out and self._transport is not None and not self._transport.is_closing():
            out, self._out = self._out, []
            self._transport.write(out[0] if len(out) == 1 else b"".join(out))

    def buffered(self) -> int:
        """Bytes queued for the other side that the kernel has not taken yet."""
        return self._transport.get_write_buffer_size() if self._transport is not None else 0

    # -- asyncio.Protocol -----------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports do not inherit from asyncio.Transport
        self._transport = transport = cast("asyncio.Transport", transport)
        transport.set_write_buffer_limits(high=HIGH_WATER)
        self._hello.nonce = secrets.token_hex(16)
        self.send(Header(Command.HELLO), msgspec.json.encode(self._hello))
        self._timer = self._loop.call_later(HANDSHAKE_TIMEOUT, self._handshake_late)

    def data_received(self, data: bytes) -> None:
        global _turn
        turn: list[Link] = []
        _turn = turn
        try:
            self._handle(data)
        finally:
            _turn = None
            for link in turn:
                link._flush()

    def _handle(self, data: bytes) -> None:
        try:
            frames = self._reader.feed(data)
            for header, payload in frames:
                self._receive(header, payload)
        except FrameError as error:
            log.warning("closing the link to %s: %s", self._peer_name(), error)
            self.abort(error)

    def connection_lost(self, exc: Exception | None) -> None:
        reason = self._reason or exc
        if self._timer is not None:
            self._timer.cancel()
        if not self.ready.done():
            self.ready.set_exception(reason or ConnectionError("closed during the handshake"))
        if not self.closed.done():
            self.closed.set_result(None)
        self._writable.set()
        pending, self._pending = self._pending, {}
        lost = CallError(Failure.MAY_HAVE_RUN, "the link was lost while waiting for the answer")
        detail = lost.detail()
        for sequence, on_reply in pending.items():
            header = Header(Command.ERROR, sequence, code=lost.code, error=lost.failure)
            on_reply(header, detail)
        if self.on_closed is not None:
            self.on_closed(self, reason)

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()

    # -- inside ---------------------------------------------------------------------------

    def _receive(self, header: Header, payload: bytes) -> None:
        command = header.command
        if command in (Command.REPLY, Command.ERROR):
            on_reply = self._pending.pop(header.sequence, None)
            if on_reply is not None:
                on_reply(header, payload)
        elif not self.ready.done():
            self._handshake(header, payload)
        elif command == Command.CANCEL:
            self._unanswered = max(0, self._unanswered - 1)
            if self.on_cancel is not None:
                self.on_cancel(header.sequence)
        else:
            if header.sequence:
                self._unanswered += 1
            if command == Command.PING:
                self.reply(header.sequence, payload)
            else:
                self.on_request(self, header, payload)

    def _handshake(self, header: Header, payload: bytes) -> None:
        if header.command == Command.HELLO and not self.peer.nonce:
            try:
                self.peer = msgspec.json.decode(payload, type=Hello)
            except msgspec.MsgspecError as error:
                raise FrameError(f"unreadable hello: {error}") from error
            if self.peer.protocol < PROTOCOL - 1:
                raise FrameError(f"protocol {self.peer.protocol} is too old, need {PROTOCOL - 1}")
            if not self.peer.nonce:
                raise FrameError("hello without a nonce")
            if self._secret is None:
                self._established()
            else:
                proof = self._proof(self._role, self.peer.nonce, self._hello.nonce)
                self.send(Header(Command.PROOF), proof)
        elif header.command == Command.PROOF and self.peer.nonce and self._secret is not None:
            expected = self._proof(self._peer_role, self._hello.nonce, self.peer.nonce)
            if not hmac.compare_digest(payload, expected):
                raise FrameError("the proof of the cluster secret is wrong")
            self._established()
        else:
            raise FrameError(f"unexpected frame {header.command} during the handshake")

    def _proof(self, role: bytes, theirs: str, ours: str) -> bytes:
        assert self._secret is not None
        return hmac.digest(self._secret, role + theirs.encode() + ours.encode(), "sha256")

    def _established(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self.ready.set_result(self.peer)

    def _handshake_late(self) -> None:
        self.abort(TimeoutError(f"no handshake within {HANDSHAKE_TIMEOUT:g} s"))

    def _peer_name(self) -> str:
        return f"{self.peer.service or 'unknown'} {self.peer.identity}".strip()


async def wait_for_answer(
    ask: Callable[[OnReply], Callable[[], None]], timeout: float | None
) -> tuple[Header, bytes]:
    """Wait for the answer to a call; `ask` makes it and returns what cancels it.

    Raises CallError: that of an ERROR answer, or timed_out after `timeout` seconds.
    """
    future: asyncio.Future[tuple[Header, bytes]] = asyncio.get_running_loop().create_future()

    def on_reply(header: Header, body: bytes) -> None:
        if future.done():
            return
        if header.command == Command.ERROR:
            future.set_exception(CallError.parse(header.error, header.code, body))
        else:
            future.set_result((header, body))

    cancel = ask(on_reply)
    try:
        async with asyncio.timeout(timeout):
            return await future
    except TimeoutError:
        raise CallError(Failure.TIMED_OUT, f"no answer within {timeout:g} s") from None
    finally:
        cancel()


def local_path(address: str) -> str:
    """Name of the unix socket at which a service that is known as `address` serves links to
    processes of its own machine: a hop costs about half of one over TCP.

    An abstract name: it needs no folder, and is seen only in one network namespace.
    """
    return f"\0placeos-link/{address}"


def _retrieve(future: asyncio.Future[Hello]) -> None:
    if not future.cancelled():
        future.exception()
