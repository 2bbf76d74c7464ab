"""Serial lines behind a gateway that speaks RFC 2217 (the COM port option of Telnet).

A gateway that passes bytes as they are, its line set by hand, is a device on `TCP`.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Annotated, ClassVar, Final, Literal

from msgspec import Meta

from placeos.driver.settings import Settings, SettingsReader
from placeos.driver.transports import base, tcp
from placeos.driver.transports.base import Framed, Opening, Role
from placeos.driver.transports.telnet import Telnet
from placeos.driver.transports.tls import TlsSettings

COM_PORT: Final = 44  # RFC 2217 section 1
SET_BAUD, SET_BITS, SET_PARITY, SET_STOP, SET_CONTROL = range(1, 6)  # section 3
OF_SERVER: Final = 100  # by how much its answers are numbered above those
ANSWER_WITHIN: Final = 5.0  # seconds for the gateway to set the line

Baud = Annotated[int, Meta(ge=50, le=4_000_000)]
Bits = Literal[5, 6, 7, 8]
Parity = Literal["none", "odd", "even", "mark", "space"]
Flow = Literal["none", "software", "hardware"]

_PARITY: Final = {"none": 1, "odd": 2, "even": 3, "mark": 4, "space": 5}
_STOP: Final = {1: 1, 2: 2, 1.5: 3}
_FLOW: Final = {"none": 1, "software": 2, "hardware": 3}
_NO_GATEWAY: Final = "there is no gateway that speaks RFC 2217"
_NAMES: Final = {SET_BAUD: "baud", SET_BITS: "bits", SET_PARITY: "parity", SET_STOP: "stop_bits"}


class Line(Settings):
    """How a module's line differs from what its driver declares."""

    baud: Baud | None = None
    bits: Bits | None = None
    parity: Parity | None = None
    stop_bits: float | None = None
    flow: Flow | None = None


class SerialSettings(TlsSettings):
    """The settings."""

    serial: Line | None = None


@dataclass(frozen=True, kw_only=True)
class Serial(Framed):
    """A device on a serial line, behind a gateway at a TCP port; see `Framed` for its messages.

    The gateway is told `baud`, `bits`, `parity` (none, odd, even, mark, space), `stop_bits`
    (1, 1.5, 2) and `flow` (none, software, hardware), or what the module's setting `serial`
    says instead, and must confirm it.
    """

    role: ClassVar[Role] = Role.DEVICE
    name: ClassVar[str] = "Serial"
    settings: ClassVar[type[Settings] | None] = SerialSettings
    port: int
    baud: int = 9600
    bits: int = 8
    parity: Parity = "none"
    stop_bits: float = 1
    flow: Flow = "none"

    def __post_init__(self) -> None:
        super().__post_init__()
        self.commands(Line())  # says what is wrong, where the driver is loaded

    @property
    def default_port(self) -> int | None:
        """The port of its gateways."""
        return self.port

    def commands(self, line: Line) -> dict[int, bytes]:
        """Each command of RFC 2217 with its value. Raises ValueError."""
        baud = self.baud if line.baud is None else line.baud
        bits = self.bits if line.bits is None else line.bits
        parity = self.parity if line.parity is None else line.parity
        stop = self.stop_bits if line.stop_bits is None else line.stop_bits
        flow = self.flow if line.flow is None else line.flow
        if not 50 <= baud <= 4_000_000:
            raise ValueError(f"'baud': expected 50 to 4000000, got {baud}")
        if bits not in range(5, 9):
            raise ValueError(f"'bits': expected 5 to 8, got {bits}")
        for name, value, known in (
            ("parity", parity, _PARITY),
            ("stop_bits", stop, _STOP),
            ("flow", flow, _FLOW),
        ):
            if value not in known:
                raise ValueError(f"{name!r}: expected one of {', '.join(map(str, known))}")
        return {
            SET_BAUD: baud.to_bytes(4, "big"),
            SET_BITS: bytes((bits,)),
            SET_PARITY: bytes((_PARITY[parity],)),
            SET_STOP: bytes((_STOP[stop],)),
            SET_CONTROL: bytes((_FLOW[flow],)),
        }

    async def open(self, opening: Opening) -> base.Connection:
        """Connect to the gateway and set the line."""
        settings = SettingsReader(SerialSettings).read(opening.address.settings)
        assert isinstance(settings, SerialSettings)
        connection = Connection(self, opening, self.commands(settings.serial or Line()))
        await tcp.connect(opening.address, connection)
        try:
            await connection.agree()
        except BaseException:
            connection.drop("no longer wanted")
            raise
        return connection


class Connection(tcp.TelnetConnection):
    """One line."""

    __slots__ = ("_agreed", "_open", "_told")

    def __init__(self, spec: Framed, opening: Opening, commands: dict[int, bytes]) -> None:
        super().__init__(spec, opening, Telnet(frozenset((COM_PORT,))))
        self._open = commands  # those that are not confirmed
        self._told = False
        self._agreed: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._telnet.begin()
        self._negotiate()

    async def agree(self) -> None:
        """Returns once the gateway has set the line. Raises ConnectionError saying why not."""
        try:
            async with asyncio.timeout(ANSWER_WITHIN):
                await self._agreed
        except TimeoutError:
            what = ", ".join(_NAMES[command] for command in self._open) if self._told else "at all"
            raise ConnectionError(f"{_NO_GATEWAY}: it does not answer {what}") from None

    def negotiated(self) -> None:
        """Follow what the gateway says of itself and of the line."""
        if self._agreed.done():
            self._telnet.subnegotiations.clear()
            return
        if self._telnet.does(COM_PORT) is False:
            self._fail(f"{_NO_GATEWAY}: it refuses; a gateway that passes bytes on is used by TCP")
        elif self._telnet.does(COM_PORT) and not self._told:
            self._told = True
            for command, value in self._open.items():
                self._telnet.send(COM_PORT, bytes((command,)) + value)
            del self._open[SET_CONTROL]  # which not all of them confirm
        for option, content in self._telnet.subnegotiations:
            if option == COM_PORT and content:
                self._confirm(content[0] - OF_SERVER, content[1:])
        self._telnet.subnegotiations.clear()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._fail(f"{_NO_GATEWAY}: it closed the connection")

    def _confirm(self, command: int, value: bytes) -> None:
        wanted = self._open.pop(command, None)
        if wanted is not None and value != wanted:
            got, asked = int.from_bytes(value, "big"), int.from_bytes(wanted, "big")
            self._fail(f"the gateway cannot set {_NAMES[command]}: asked for {asked}, it set {got}")
        elif not self._open and not self._agreed.done():
            self._agreed.set_result(None)

    def _fail(self, reason: str) -> None:
        if not self._agreed.done():
            self._agreed.set_exception(ConnectionError(reason))
            self._agreed.exception()  # told by `agree`, if that still waits
