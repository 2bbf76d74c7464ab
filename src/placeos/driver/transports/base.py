"""What all transports have in common: the declaration, the address, one connection.

A driver declares a `Transport` (or several: `TCP(…) | SSH(…)`). For each module the platform
gives it an `Address`; the transport opens a `Connection` to it, which reports to
`ConnectionEvents`. The connector replaces a lost one.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any, ClassVar, Final, Protocol

import msgspec
from msgspec import Raw

from placeos.driver.errors import DriverError
from placeos.driver.fencing.permit import OPEN, Permit
from placeos.driver.framing import FrameLength, Framer, FramingError
from placeos.driver.log import ModuleLogger
from placeos.driver.settings import Settings

CONNECT_TIMEOUT: Final = 10.0  # seconds, with name resolution and TLS

_SECRET: Final = re.compile(r"(?<=//)[^/]*@|[?#].*")  # a URI may hold a password or a token


class Role(IntEnum):
    """How a module's record says its device is reached (drivers.md 1.7)."""

    SSH = 0
    DEVICE = 1  # TCP or UDP
    SERVICE = 2  # HTTP, or a client library with a URI
    WEBSOCKET = 3
    LOGIC = 99


@dataclass(frozen=True)
class Address:
    """Where the device of one module is, and what its settings say about reaching it.

    `settings` holds only those that the SDK itself reads (see `SETTINGS`), as raw JSON, so
    that two addresses differ exactly when a new connection is needed.
    """

    host: str = ""
    port: int = 0
    uri: str = ""
    tls: bool = False
    makebreak: bool = False
    settings: Mapping[str, Raw] = field(default_factory=dict, hash=False, repr=False)

    def __str__(self) -> str:
        return _SECRET.sub("", self.uri) or f"{self.host}:{self.port}"

    def setting(self, name: str, default: Any = None) -> Any:
        """A setting as Python sees JSON; `default` where there is none, or null."""
        raw = self.settings.get(name)
        value = None if raw is None else msgspec.json.decode(raw)
        return default if value is None else value


class ConnectionEvents(Protocol):
    """Who is told what happens on the way to a device."""

    def opened(self) -> None:
        """A connection stands; nothing was sent yet."""

    def message(self, data: bytes) -> None:
        """The device sent a message."""

    def lost(self, reason: str) -> None:
        """The connection that was opened is gone."""

    def unreachable(self, reason: str) -> None:
        """An attempt to connect failed."""

    def heard(self) -> None:
        """The device is there, though what it sent is no message. For transports that keep no
        connection; a message says so by itself."""

    def unheard(self, reason: str) -> None:
        """The device does not answer. For transports that keep no connection."""


class Connection(Protocol):
    """One connection, used once. It delivers nothing before `adopt`."""

    def adopt(self, lost: Callable[[Connection, str], None]) -> None:
        """Take it into use: from now on messages are delivered; `lost(connection, reason)` is
        called once, when it ends (at once if it has ended already)."""

    def write(self, data: Any) -> None:
        """Send one message, encoded by the transport. A device that takes none is dropped.
        Raises LeaseLost, and drops it, when nothing may be written any more."""

    def drop(self, reason: str) -> None:
        """End the connection at once; the device sees a reset if it has not got all that was
        sent. Harmless when it has ended."""

    def finish(self, reason: str) -> None:
        """End the connection once the device has all that was sent; after a second at once."""

    async def wait_closed(self) -> None:
        """Returns once all that a connection which is to end used is given back. Never raises."""


class Cuts(Protocol):
    """What makes messages of a stream."""

    def feed(self, data: bytes, /) -> list[bytes]:
        """All messages completed by `data`. Raises FramingError."""


class Author(Protocol):
    """What of a driver a transport may use while it opens a connection: hooks, and state."""

    async def open(self) -> None: ...

    async def close(self) -> None: ...

    async def websocket_headers(self) -> Mapping[str, str]: ...

    def get(self, key: str) -> Any: ...


@dataclass(frozen=True)
class Opening:
    """All that a transport needs to open one connection."""

    address: Address
    events: ConnectionEvents
    log: ModuleLogger
    author: Author
    permit: Permit = OPEN
    """Asked before each write."""


@dataclass(frozen=True, kw_only=True)
class Transport:
    """Base of the transports a driver declares."""

    role: ClassVar[Role]
    name: ClassVar[str]  # as people call it: `TCP`
    settings: ClassVar[type[Settings] | None] = None
    """Which settings of a module it reads itself."""
    connect_timeout: float = CONNECT_TIMEOUT

    @property
    def standing(self) -> bool:
        """Whether a connection is kept. If not, commands may go out at any time, and
        `connected` only reports whether the device was heard of late."""
        return True

    @property
    def udp(self) -> bool:
        """Whether records of its modules say `udp`."""
        return False

    @property
    def default_port(self) -> int | None:
        """The port of its devices, if they have one."""
        return None

    @property
    def default_uri(self) -> str | None:
        """The URI of its service, if there is a usual one."""
        return None

    async def open(self, opening: Opening) -> Connection:
        """Open a connection. Raises OSError, TimeoutError, ssl.SSLError, ValueError or
        DriverError saying why not; leaves nothing open when cancelled."""
        raise NotImplementedError

    def encode(self, data: bytes | str) -> Any:
        """What `Connection.write` takes: bytes as they are, a text with its ending.
        Raises DriverError where nothing can be sent."""
        raise DriverError(f"a driver on {self.name} has nothing to send with")

    def __or__(self, other: Transport | Alternatives) -> Alternatives:
        return Alternatives((self,)) | other


@dataclass(frozen=True)
class Alternatives:
    """Several transports one driver can be used with; the module's record picks one."""

    options: tuple[Transport, ...]

    def __or__(self, other: Transport | Alternatives) -> Alternatives:
        return Alternatives((*self.options, *options_of(other)))


def options_of(transport: Transport | Alternatives | None) -> tuple[Transport, ...]:
    """The transports a driver can be used with; none for logic."""
    if transport is None:
        return ()
    return transport.options if isinstance(transport, Alternatives) else (transport,)


@dataclass(frozen=True, kw_only=True)
class Framed(Transport):
    """A transport that carries a stream of bytes, which is cut into messages.

    Messages end with `ends_with`, or are `length` bytes long, or as long as `frame` says;
    `starts_with` marks their beginning. `appends` is what a text passed to `send` is ended
    with; unless given it is `ends_with`.

    With `makebreak` (or where the module's record says so) it connects when a command waits
    and disconnects after `idle_timeout` seconds without traffic. Else a connection on which
    no message came for `idle_timeout` seconds counts as dead; 0: it may be silent for ever.
    """

    ends_with: bytes = b""
    starts_with: bytes = b""
    length: int = 0
    frame: FrameLength | None = None
    appends: bytes | None = None
    makebreak: bool = False
    idle_timeout: float = 0.0

    def __post_init__(self) -> None:
        if self.idle_timeout < 0:
            raise ValueError("idle_timeout is a number of seconds, 0 for none")
        self.framer()  # says what does not go together, where the driver is loaded

    def encode(self, data: bytes | str) -> bytes:
        """Bytes as they are, a text with its ending."""
        if isinstance(data, bytes):
            return data
        return data.encode() + (self.ends_with if self.appends is None else self.appends)

    def framer(self) -> Framer:
        """The framing of a new connection."""
        return Framer(
            ends_with=self.ends_with,
            starts_with=self.starts_with,
            length=self.length,
            frame=self.frame,
        )


def cut(framer: Cuts, data: bytes, log: ModuleLogger, drop: Callable[[str], None]) -> list[bytes]:
    """The messages that `data` completes. What cannot be framed drops the connection."""
    try:
        return framer.feed(data)
    except FramingError as error:
        drop(str(error))
    except Exception:  # the driver's own frame function
        log.exception("the frame function failed on %r", data[:200])
        drop("the frame function failed")
    return []


def makes_and_breaks(transport: Transport, address: Address) -> bool:
    """Whether a connection is made when a command waits, and no other."""
    return (
        isinstance(transport, Framed)
        and transport.standing
        and (transport.makebreak or address.makebreak)
    )
