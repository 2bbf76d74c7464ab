"""A link: one multiplexed connection between two processes.

Requests go both ways, each with a sequence number; answers come in any order. Memory is
bounded: outgoing bytes by `HIGH_WATER` (senders should `await drain()`; past `HARD_LIMIT`
a request fails as busy), open requests by `MAX_PENDING`.

Between services the link starts with a proof of the cluster secret (see `handshake`); before
it nothing else is read. A request that spent its caller's time on the way (see `transit`) is
answered as timed out and not handed on.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import Callable
from functools import partial
from ssl import SSLObject
from typing import Final, cast

from placeos.wire.errors import CallError, Failure
from placeos.wire.frame import COMMANDS, Command, FrameError, FrameReader, Header, encode
from placeos.wire.handshake import Handshake, Hello
from placeos.wire.transit import Transit, now_ms
from placeos.wire.waiting import OnReply, tell, wait_for_answer

HIGH_WATER: Final = 1024 * 1024  # bytes waiting in the socket before drain() waits
HARD_LIMIT: Final = 64 * 1024 * 1024  # bytes waiting before requests fail as busy
MAX_PENDING: Final = 65_536  # requests open in one direction
HANDSHAKE_TIMEOUT: Final = 5.0  # seconds

_turn: list[Link] | None = None
"""Links written to while the data one link received is handled; they are flushed at its end.
A flush by `call_soon` would cost every hop of a call one more turn of the loop."""

log = logging.getLogger("placeos.wire")

OnRequest = Callable[["Link", Header, bytes], None]
OnClosed = Callable[["Link", Exception | None], None]


class Link(asyncio.Protocol):
    """One end of a link. Give it to `create_connection`, `create_server` or a socket pair.

    `on_request` is called for every frame that is no answer, in order, on the loop; it must
    not block. It answers, now or later, with `reply` or `fail`. `on_cancel(sequence)` tells
    that the asking side no longer waits for that request. `certificate` is the own one (DER) of
    a link over TLS. `heard` is when bytes came last, in loop time.
    """

    def __init__(
        self,
        on_request: OnRequest,
        *,
        hello: Hello | None = None,
        secret: bytes | None = None,
        certificate: bytes = b"",
        server: bool = False,
        on_closed: OnClosed | None = None,
        on_cancel: Callable[[int], None] | None = None,
    ) -> None:
        self.peer = Hello()
        self.on_request = on_request
        self.on_closed = on_closed
        self.on_cancel = on_cancel
        self.on_ready: Callable[[Link], None] | None = None
        """Hears of the end of the handshake before any request; may raise FrameError."""
        loop = asyncio.get_running_loop()
        self.ready: asyncio.Future[Hello] = loop.create_future()
        self.ready.add_done_callback(_retrieve)  # a closed link must not warn about it
        self.closed: asyncio.Future[None] = loop.create_future()
        self.heard = loop.time()
        self._loop = loop
        self._hello = hello or Hello()
        self._secret = secret
        self._certificate = certificate
        self._server = server
        self._handshake: Handshake | None = None
        self._transport: asyncio.Transport | None = None
        self._reader = FrameReader()
        self.transit = Transit()
        self._out: list[bytes] = []
        self._pending: dict[int, OnReply] = {}
        self._sequence = 0
        self._handed = 0  # the last request of which the transport has bytes
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
        """Send a request; `on_reply` gets its REPLY or ERROR frame exactly once, and hears of
        waiting if it is `Patient`. A link that is lost answers for the other side: not_run if
        no byte of the request was handed to the transport, else may_have_run.

        Returns the sequence number, for `cancel`. Raises CallError (not_run, busy).
        """
        if not self.is_open:
            raise CallError(Failure.NOT_RUN, "the link is closed")
        if len(self._pending) >= MAX_PENDING or self.buffered() > HARD_LIMIT:
            raise CallError(Failure.BUSY, "too many requests are waiting on this link")
        self._sequence = sequence = self._sequence + 1
        header.sequence = sequence
        header.sent = now_ms() if header.remaining else 0
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

    def wait(self, sequence: int, seconds: float) -> None:
        """Tell the asking side that its request waits here, for so long at most."""
        if sequence and self.peer.protocol >= 2:
            self.send(Header(Command.WAIT, sequence, remaining=int(seconds * 1000)))

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
            self._handed = self._sequence
            self._transport.write(out[0] if len(out) == 1 else b"".join(out))

    def buffered(self) -> int:
        """Bytes queued for the other side that the kernel has not taken yet."""
        return self._transport.get_write_buffer_size() if self._transport is not None else 0

    # -- asyncio.Protocol -----------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports do not inherit from asyncio.Transport
        self._transport = transport = cast("asyncio.Transport", transport)
        transport.set_write_buffer_limits(high=HIGH_WATER)
        self._handshake = shake = Handshake(
            self._hello, secret=self._secret, server=self._server, binding=self._binding()
        )
        self.transit = shake.transit
        transport.write(shake.begin())
        self._timer = self._loop.call_later(HANDSHAKE_TIMEOUT, self._handshake_late)

    def data_received(self, data: bytes) -> None:
        global _turn
        if self._reason is not None:
            return  # closed by this side: what still comes is not read, proved or not
        turn: list[Link] = []
        _turn = turn
        try:
            self._handle(data)
        finally:
            _turn = None
            for link in turn:
                link._flush()

    def _handle(self, data: bytes) -> None:
        self.heard = self._loop.time()
        try:
            if self._handshake is not None:
                data = self._greet(self._handshake, data)
            for header, payload in self._reader.feed(data) if data else ():
                self._receive(header, payload)
        except FrameError as error:
            if self.is_open:  # before, it is told to whoever waits for `ready`
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
        unsent = CallError(Failure.NOT_RUN, "the link was lost before the call was sent")
        for sequence, on_reply in pending.items():
            error = unsent if sequence > self._handed else lost
            header = Header(Command.ERROR, sequence, code=error.code, error=error.failure)
            on_reply(header, error.detail())
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
            if header.sent:
                self.transit.age(header.sent, now_ms())
            on_reply = self._pending.pop(header.sequence, None)
            if on_reply is not None:
                on_reply(header, payload)
        elif command == Command.CANCEL:
            self._unanswered = max(0, self._unanswered - 1)
            if self.on_cancel is not None:
                self.on_cancel(header.sequence)
        elif command == Command.WAIT:
            on_reply = self._pending.get(header.sequence)
            if on_reply is not None:
                tell(on_reply, header.remaining / 1000)
        else:
            self._asked(header, payload)

    def _asked(self, header: Header, payload: bytes) -> None:
        command = header.command
        if command not in COMMANDS or command <= Command.PROOF:
            raise FrameError(f"unexpected frame {command}", "unexpected")
        if header.sequence:
            self._unanswered += 1
        if header.sent and not self._in_time(header):
            error = CallError(Failure.TIMED_OUT, "the call was not run: it came too late")
            self.fail(header.sequence, error)
        elif command == Command.PING:
            self.answer(Header(Command.REPLY, header.sequence, code=200, sent=now_ms()), payload)
        else:
            self.on_request(self, header, payload)

    def _in_time(self, header: Header) -> bool:
        """Count the time on the way against the caller's; whether any is left."""
        age = self.transit.age(header.sent, now_ms())
        if header.remaining:
            header.remaining -= age
            return header.remaining > 0
        return True

    def _greet(self, shake: Handshake, data: bytes) -> bytes:
        """Go on with the handshake; the bytes that follow it."""
        out = shake.feed(data)
        if out and self._transport is not None:
            self._transport.write(out)
        if not shake.done or shake.peer is None:
            return b""
        self._handshake = None
        self.peer = shake.peer
        if self.on_ready is not None:
            self.on_ready(self)
        if self._timer is not None:
            self._timer.cancel()
        self.ready.set_result(self.peer)
        return shake.rest

    def _binding(self) -> bytes:
        """Hashes of the server's and the client's certificate, where the link is TLS."""
        assert self._transport is not None
        tls = cast("SSLObject | None", self._transport.get_extra_info("ssl_object"))
        if tls is None:
            return b""
        pair = [self._certificate, tls.getpeercert(binary_form=True) or b""]
        if not self._server:
            pair.reverse()
        return b"".join(hashlib.sha256(one).digest() for one in pair)

    def _handshake_late(self) -> None:
        self.abort(TimeoutError(f"no handshake within {HANDSHAKE_TIMEOUT:g} s"))

    def _peer_name(self) -> str:
        return f"{self.peer.service or 'unknown'} {self.peer.identity}".strip()


def local_path(address: str) -> str:
    """Name of the unix socket at which a service that is known as `address` serves links to
    processes of its own machine: a hop costs about half of one over TCP.

    An abstract name: it needs no folder, and is seen only in one network namespace.
    """
    return f"\0placeos-link/{address}"


__all__ = ["Hello", "Link", "OnReply", "OnRequest", "local_path", "wait_for_answer"]


def _retrieve(future: asyncio.Future[Hello]) -> None:
    if not future.cancelled():
        future.exception()
