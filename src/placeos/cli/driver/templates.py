"""What `placeos driver new` writes: for each transport, a driver that does one thing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True)
class Kind:
    """One transport. `$words` in the texts are filled in by `new.py`."""

    about: str
    imports: tuple[str, ...]  # from placeos.driver
    declaration: str
    body: str
    test: str
    test_imports: tuple[str, ...]  # from placeos.driver.testing
    standard: tuple[str, ...] = ()  # modules of the standard library
    attributes: str = ""  # in the class, before the first method
    handed_over: str = ""  # how the test of the interfaces starts it


POLLED: Final = '''\
    async def connected(self) -> None:
        await self.refresh()

    @every("poll_every")
    async def refresh(self) -> None:
        """Ask the device how it is."""
        self["status"] = (await self.send($request)).decode()
'''

TEST_POLLED: Final = """\
async def test_asks_how_the_device_is() -> None:
    device = $device()
    device.answers($asked, $answer)
    async with drive(FILE, device=device, clock=FakeClock()) as module:
        await module.status("status", "fine")
        device.answers($asked, $other)
        await module.clock.advance(10)
        assert module.state["status"] == "broken"
"""


def _polled(
    name: str, declaration: str, device: str, about: str, ending: str = r"\r\n", line: bool = True
) -> Kind:
    """A device that is sent `status?` and answers."""
    words = {
        "$request": '"status?"' if line else 'b"status?"',
        "$device": device,
        "$asked": f'b"status?{ending}"',
        "$answer": f'b"fine{ending}"',
        "$other": f'b"broken{ending}"',
    }
    body, test = POLLED, TEST_POLLED
    for word, text in words.items():
        body, test = body.replace(word, text), test.replace(word, text)
    return Kind(
        about=about,
        imports=(name, "every"),
        declaration=declaration,
        body=body,
        test=test,
        test_imports=("FakeClock", device),
        handed_over=f", device={device}()",
    )


KINDS: Final[dict[str, Kind]] = {
    "tcp": _polled(
        "TCP",
        r'TCP(port=$port, ends_with=b"\r\n")',
        "ScriptedDevice",
        "a device on a TCP port",
    ),
    "udp": _polled(
        "UDP",
        "UDP(port=$port)",
        "ScriptedUDP",
        "a device on a UDP port",
        ending="",
        line=False,
    ),
    "ssh": _polled(
        "SSH",
        r'SSH(port=$port, ends_with=b"\n")',
        "ScriptedSSH",
        "a device with a shell over SSH",
        ending=r"\n",
    ),
    "http": Kind(
        about="a device or service that answers HTTP requests",
        imports=("HTTP", "every"),
        declaration="HTTP()",
        body='''\
    async def connected(self) -> None:
        await self.refresh()

    @every("poll_every")
    async def refresh(self) -> None:
        """Ask the device how it is."""
        answer = (await self.http.get("/status")).expect()
        self["status"] = answer.json()["status"]
''',
        test="""\
async def test_asks_how_the_device_is() -> None:
    device = ScriptedHTTP()
    device.answers("/status", {"status": "fine"})
    async with drive(FILE, device=device, clock=FakeClock()) as module:
        await module.status("status", "fine")
        device.answers("/status", {"status": "broken"})
        await module.clock.advance(10)
        assert module.state["status"] == "broken"
""",
        test_imports=("FakeClock", "ScriptedHTTP"),
        handed_over=", connected=False",
    ),
    "websocket": Kind(
        about="a device or service that speaks WebSocket",
        imports=("WebSocket",),
        declaration="WebSocket()",
        body="""\
    async def connected(self) -> None:
        await self.send("hello", wait=False)

    async def received(self, data: bytes) -> None:
        self["status"] = data.decode()
""",
        test="""\
async def test_hears_how_the_device_is() -> None:
    async with drive(FILE, device=ScriptedWebSocket()) as module:
        await module.should_send("hello")
        await module.responds("fine")
        await module.status("status", "fine")
""",
        test_imports=("ScriptedWebSocket",),
        handed_over=", device=ScriptedWebSocket()",
    ),
    "serial": _polled(
        "Serial",
        r'Serial(port=$port, baud=9600, ends_with=b"\r")',
        "ScriptedSerial",
        "a device on a serial line, behind a gateway that speaks RFC 2217",
        ending=r"\r",
    ),
    "service": Kind(
        about="a device or service that is reached by a Python library",
        imports=("Service", "every"),
        declaration="Service(port=$port)",
        standard=("asyncio",),
        attributes="""\
    _reader: asyncio.StreamReader
    _writer: asyncio.StreamWriter
""",
        body='''\
    async def open(self) -> None:
        """Connect; here is where a library would be told to."""
        where = self.config
        self._reader, self._writer = await asyncio.open_connection(where.ip, where.port)

    async def close(self) -> None:
        if hasattr(self, "_writer"):  # else nothing was opened
            self._writer.close()

    async def connected(self) -> None:
        await self.refresh()

    @every("poll_every")
    async def refresh(self) -> None:
        """Ask the device how it is."""
        self._writer.write(b"status?\\n")
        line = await self._reader.readline()
        if not line:
            self.disconnect("the device hung up")
        else:
            self["status"] = line.decode().strip()
''',
        test="""\
async def test_asks_how_the_device_is() -> None:
    device = ScriptedDevice()
    device.answers(b"status?\\n", b"fine\\n")
    async with drive(FILE, device=device, clock=FakeClock()) as module:
        await module.status("status", "fine")
        device.answers(b"status?\\n", b"broken\\n")
        await module.clock.advance(10)
        assert module.state["status"] == "broken"
""",
        test_imports=("FakeClock", "ScriptedDevice"),
        handed_over=", device=ScriptedDevice()",
    ),
    "logic": Kind(
        about="logic of a room, without a device of its own",
        imports=("on",),
        declaration="",
        body='''\
    @on("Display_1", "power")
    async def _display_power(self, power: bool | None) -> None:
        self["in_use"] = bool(power)

    async def shutdown(self) -> None:
        """Switch everything off."""
        await self.system.all("Display").power(False)
''',
        test="""\
class Display(FakeModule):
    async def power(self, state: bool) -> None:
        self["power"] = state


async def test_follows_the_display_and_switches_it_off() -> None:
    display = Display(power=True)
    async with drive(FILE, system={"Display": [display]}) as module:
        await module.status("in_use", True)
        await module.exec("shutdown")
        assert display.calls == [("power", [False])]
        await module.status("in_use", False)
""",
        test_imports=("FakeModule",),
    ),
}
"""All transports, by the name one gives them on the command line."""

PORTS: Final = {"tcp": 23, "udp": 5000, "ssh": 22, "serial": 4001, "service": 7000}
"""What stands there until the device's own port is known."""
