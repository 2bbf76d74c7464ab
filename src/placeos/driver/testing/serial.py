"""A scripted device on a serial line, behind a gateway that speaks RFC 2217."""

from __future__ import annotations

import asyncio
from typing import Final

from placeos.driver.testing.devices import Line, ScriptedDevice
from placeos.driver.transports.telnet import DO, IAC, WILL, Telnet

COM_PORT: Final = 44  # RFC 2217 section 1
OF_SERVER: Final = 100  # by how much the answers of a gateway are numbered above the commands
NAMES: Final = {1: "baud", 2: "bits", 3: "parity", 4: "stop_bits", 5: "flow"}


class ScriptedSerial(ScriptedDevice):
    """A device on a serial line: bytes are the device's, the line is set as the module asks."""

    def __init__(self) -> None:
        super().__init__()
        self.line: dict[str, int] = {}
        """How the module has set the line: `baud`, `bits` and so on, as RFC 2217 numbers them."""

    def _line(self) -> Line:
        return _SerialLine(self)


class _Gateway(Telnet):
    """The other side of the SDK's own Telnet: it agrees to set a line."""

    __slots__ = ()

    def _negotiate(self, command: int, option: int) -> None:
        if (command, option) == (WILL, COM_PORT):
            self.out += bytes((IAC, DO, COM_PORT))
        else:
            super()._negotiate(command, option)


class _SerialLine(Line):
    """One connection to the gateway."""

    def __init__(self, device: ScriptedSerial) -> None:
        super().__init__(device)
        self._settings = device.line
        self._telnet = _Gateway()

    def write(self, data: bytes) -> None:
        super().write(self._telnet.escape(data))

    def data_received(self, data: bytes) -> None:
        plain = self._telnet.feed(data)
        for option, content in self._telnet.subnegotiations:
            if option == COM_PORT and content:
                self._settings[NAMES.get(content[0], "")] = int.from_bytes(content[1:], "big")
                self._telnet.send(COM_PORT, bytes((content[0] + OF_SERVER,)) + content[1:])
        self._telnet.subnegotiations.clear()
        if self._telnet.out:
            super().write(bytes(self._telnet.out))
            self._telnet.out.clear()
        if plain:
            super().data_received(plain)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._settings.clear()
