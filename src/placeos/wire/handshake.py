"""The first frames of a link: who is there, and the proof that both know the cluster secret.

Both sides send HELLO with a fresh nonce. Each answers the other's with PROOF::

    HMAC-SHA256(secret, "placeos link 2\\0" + role + length and bytes of: the other's HELLO,
                        the own HELLO, the binding)

Both HELLOs are in it whole, so nobody between can change an identity, a version or a feature;
both nonces are, so a recorded handshake proves nothing a second time; the role ("client" or
"server") is, so a proof sent back to its maker is worth nothing. `binding` are the hashes of
both certificates where the link is TLS: a proof made on one connection is of no use on another.

Until the proof is there, a peer can make this side keep `MAX_GREETING` bytes, no more, and
only HELLO and PROOF are read. Bytes in, bytes out: no sockets here.

Protocol 1 signed the nonces only; it is spoken to peers that know no other, but not over TLS,
which they never had.
"""

from __future__ import annotations

import hmac
import secrets
import struct
from typing import Final

import msgspec

from placeos.wire.frame import Command, FrameError, Header, encode, first_frame
from placeos.wire.transit import Transit, now_ms

PROTOCOL: Final = 2
MAX_GREETING: Final = 1024  # bytes of a HELLO or PROOF frame

_CLIENT: Final = b"client"
_SERVER: Final = b"server"


class Hello(msgspec.Struct, omit_defaults=True):
    """The first frame of each side."""

    protocol: int = 1  # what a HELLO of protocol 1 leaves out
    service: str = ""
    identity: str = ""
    nonce: str = ""
    features: list[str] = []


class Handshake:
    """One side of it. Without a secret (to a driver process) HELLO is enough."""

    def __init__(
        self, hello: Hello, *, secret: bytes | None, server: bool, binding: bytes = b""
    ) -> None:
        self.peer: Hello | None = None
        self.done = False
        self.rest = b""
        """What came and was not read yet; after `done`, what follows the handshake."""
        self.transit = Transit()
        self._secret = secret
        self._binding = binding
        self._role, self._peer_role = (_SERVER, _CLIENT) if server else (_CLIENT, _SERVER)
        self._hello = msgspec.structs.replace(hello, protocol=PROTOCOL, nonce=secrets.token_hex(16))
        self._own = msgspec.json.encode(self._hello)
        self._theirs = b""

    def begin(self) -> bytes:
        """What to send first."""
        return encode(Header(Command.HELLO, sent=now_ms()), self._own)

    def feed(self, data: bytes) -> bytes:
        """Read; returns what to send. Raises FrameError: the link has to be closed."""
        self.rest += data
        out = b""
        while not self.done:
            found = first_frame(self.rest, MAX_GREETING)
            if found is None:
                break
            header, payload, end = found
            self.rest = self.rest[end:]
            out += self._take(header, payload)
            if header.sent:
                self.transit.age(header.sent, now_ms())
        return out

    def _take(self, header: Header, payload: bytes) -> bytes:
        if header.command == Command.HELLO and self.peer is None:
            return self._greeted(payload)
        if header.command == Command.PROOF and self.peer is not None:
            self._proved(self.peer, payload)
            return b""
        message = f"unexpected frame {header.command} during the handshake"
        raise FrameError(message, "unexpected")

    def _greeted(self, payload: bytes) -> bytes:
        try:
            peer = msgspec.json.decode(payload, type=Hello)
        except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError):
            raise FrameError("unreadable hello") from None
        if peer.protocol < PROTOCOL - 1 or (self._binding and peer.protocol < 2):
            message = f"protocol {peer.protocol} is too old, {PROTOCOL} is spoken here"
            raise FrameError(message, "version")
        if not peer.nonce:
            raise FrameError("hello without a nonce")
        if peer.nonce == self._hello.nonce:
            raise FrameError("the own hello came back", "reflected")
        self.peer, self._theirs = peer, payload
        if self._secret is None:
            self.done = True
            return b""
        proof = self._proof(self._secret, self._role, peer, own=False)
        return encode(Header(Command.PROOF, sent=now_ms()), proof)

    def _proved(self, peer: Hello, payload: bytes) -> None:
        assert self._secret is not None  # else HELLO was the end
        if not hmac.compare_digest(
            payload, self._proof(self._secret, self._peer_role, peer, own=True)
        ):
            if hmac.compare_digest(payload, self._proof(self._secret, self._role, peer, own=False)):
                raise FrameError("the own proof came back", "reflected")
            raise FrameError("the proof of the cluster secret is wrong", "secret")
        self.done = True

    def _proof(self, secret: bytes, role: bytes, peer: Hello, *, own: bool) -> bytes:
        """The proof of `role`; `own`: over our nonce first, as the other side makes it."""
        if peer.protocol < 2:
            first, second = self._hello.nonce, peer.nonce
            if not own:
                first, second = second, first
            return hmac.digest(secret, role + first.encode() + second.encode(), "sha256")
        hellos = (self._own, self._theirs) if own else (self._theirs, self._own)
        message = b"placeos link 2\0" + role
        for part in (*hellos, self._binding):
            message += struct.pack(">I", len(part)) + part
        return hmac.digest(secret, message, "sha256")
