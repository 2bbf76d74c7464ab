"""The Telnet protocol (RFC 854, 855) under a stream of bytes. Pure: bytes in, bytes out.

Binary transmission (RFC 856) and suppress-go-ahead (RFC 858) are agreed to; every other
option of the other side is refused, unless it is asked for. Nothing is answered twice, so that
two sides never argue for ever (RFC 1143 tells how they do).
"""

from __future__ import annotations

from typing import Final

IAC: Final = 255
DONT: Final = 254
DO: Final = 253
WONT: Final = 252
WILL: Final = 251
SB: Final = 250  # begin of a subnegotiation
SE: Final = 240  # its end

BINARY: Final = 0
GO_AHEAD: Final = 3
MAX_SUBNEGOTIATION: Final = 1024  # bytes

_ESCAPED: Final = bytes((IAC, IAC))
_NEGOTIATION: Final = frozenset((DO, DONT, WILL, WONT))
_BOTH: Final = frozenset((BINARY, GO_AHEAD))


class TelnetError(Exception):
    """The other side does not speak Telnet."""


class Telnet:
    """One side of one connection. `offers` are further options this side is willing to do."""

    __slots__ = ("_asked", "_offers", "_ours", "_theirs", "_unread", "out", "subnegotiations")

    def __init__(self, offers: frozenset[int] = frozenset()) -> None:
        self.out = bytearray()
        """What has to be sent to the other side; take it away after each call."""
        self.subnegotiations: list[tuple[int, bytes]] = []
        """Option and content of each one received; take them away after each call."""
        self._offers = offers | _BOTH
        self._ours: dict[int, bool] = {}  # what this side does, once the other has answered
        self._theirs: dict[int, bool] = {}
        self._asked: set[tuple[int, int]] = set()  # (WILL or DO, option) without an answer yet
        self._unread = b""

    def begin(self) -> None:
        """Offer and ask for what is wanted."""
        for option in sorted(self._offers):
            self._ask(WILL, option)
        for option in sorted(_BOTH):
            self._ask(DO, option)

    def does(self, option: int) -> bool | None:
        """Whether this side does it; None while the other side did not answer the offer."""
        return self._ours.get(option)

    def escape(self, data: bytes) -> bytes:
        """Data as it is to be sent."""
        return data.replace(b"\xff", _ESCAPED)

    def send(self, option: int, content: bytes) -> None:
        """Put a subnegotiation into `out`."""
        self.out += bytes((IAC, SB, option)) + self.escape(content) + bytes((IAC, SE))

    def feed(self, data: bytes) -> bytes:
        """The data among what was received. Raises TelnetError."""
        if not self._unread and IAC not in data:
            return data
        data = self._unread + data
        plain: list[bytes] = []
        start = 0
        while (at := data.find(IAC, start)) >= 0:
            plain.append(data[start:at])
            end = self._command(data, at, plain)
            if end == 0:  # the rest of it is still to come
                start = at
                break
            start = end
        else:
            plain.append(data[start:])
            start = len(data)
        self._unread = data[start:]
        if len(self._unread) > MAX_SUBNEGOTIATION:
            raise TelnetError("a subnegotiation without an end")
        return b"".join(plain)

    def _command(self, data: bytes, at: int, plain: list[bytes]) -> int:
        """Carry out the command at `at`; where it ends, or 0 if it is not complete."""
        if at + 1 >= len(data):
            return 0
        command = data[at + 1]
        if command == IAC:
            plain.append(b"\xff")
            return at + 2
        if command in _NEGOTIATION:
            if at + 2 >= len(data):
                return 0
            self._negotiate(command, data[at + 2])
            return at + 3
        if command != SB:
            return at + 2  # no-operation, go-ahead and the like
        end = at + 2
        while (end := data.find(IAC, end)) >= 0 and data[end + 1 : end + 2] == b"\xff":
            end += 2
        if end < 0 or end + 1 >= len(data):
            return 0
        content = data[at + 2 : end].replace(_ESCAPED, b"\xff")
        if content:
            self.subnegotiations.append((content[0], content[1:]))
        return end + 2

    def _negotiate(self, command: int, option: int) -> None:
        mine = command in (DO, DONT)  # it is about what this side does
        wanted = command in (DO, WILL)
        state = self._ours if mine else self._theirs
        yes, no = (WILL, WONT) if mine else (DO, DONT)
        asked = (yes, option) in self._asked
        self._asked.discard((yes, option))
        allowed = option in (self._offers if mine else _BOTH)
        now = wanted and allowed
        before, state[option] = state.get(option), now
        if asked and now == wanted:
            return  # that was the answer
        if before is None and not wanted:
            return  # it is off as it always was
        if before != now or (wanted and not allowed and before is None):
            self.out += bytes((IAC, yes if now else no, option))

    def _ask(self, verb: int, option: int) -> None:
        self._asked.add((verb, option))
        self.out += bytes((IAC, verb, option))
