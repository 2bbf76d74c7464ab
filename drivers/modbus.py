"""Whatever speaks Modbus TCP: meters, air conditioning, lighting gateways, I/O modules.

The settings say which registers the device has and what they mean; each becomes a key of the
state. Written from "MODBUS Application Protocol Specification V1.1b3" of 2012-04-26 and "MODBUS
Messaging on TCP/IP Implementation Guide V1.0b" (https://modbus.org/specs.php); section numbers
in the comments are those of the former. The library pymodbus speaks the protocol.
"""

# /// script
# requires-python = ">=3.11"
# dependencies = ["pymodbus>=3.11,<4"]
# ///

import logging
import struct
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from msgspec import Meta, Struct
from pymodbus.client import AsyncModbusTcpClient
from pymodbus.exceptions import ConnectionException, ModbusException, ModbusIOException

from placeos.driver import Driver, DriverError, NoReply, Service, Settings, every

TYPES = {"int16": ">h", "uint16": ">H", "int32": ">i", "uint32": ">I", "float32": ">f"}
BITS = ("coil", "discrete")  # kinds that hold one bit; the others hold a register of 16
READ = {
    "coil": "read_coils",  # 6.1
    "discrete": "read_discrete_inputs",  # 6.2
    "holding": "read_holding_registers",  # 6.3
    "input": "read_input_registers",  # 6.4
}
MOST = {"coil": 2000, "discrete": 2000, "holding": 125, "input": 125}  # in one request
REFUSALS = {  # 7
    1: "the device does not know this function",
    2: "the device has no such register",
    3: "the device does not accept this value",
    4: "the device failed",
    5: "the device takes longer for it",
    6: "the device is busy",
    10: "the gateway has no path to the device",
    11: "the device behind the gateway does not answer",
}

Value = bool | int | float

logging.getLogger("pymodbus").setLevel(logging.CRITICAL)  # it tells of each attempt


class Register(Struct, frozen=True):
    """Where a value is, and how it is to be understood."""

    address: Annotated[int, Meta(ge=0, le=0xFFFF, description="As sent: 0 for the first one")]
    kind: Literal["holding", "input", "coil", "discrete"] = "holding"
    type: Literal["int16", "uint16", "int32", "uint32", "float32"] = "uint16"
    scale: Annotated[float, Meta(gt=0, description="What one step of the number means")] = 1
    writable: bool = False

    @property
    def count(self) -> int:
        """How many registers, or bits, it takes."""
        return 1 if self.kind in BITS else struct.calcsize(TYPES[self.type]) // 2


class ModbusSettings(Settings):
    registers: Annotated[dict[str, Register], Meta(description="Each by its state key")] = {}
    unit: Annotated[int, Meta(ge=0, le=255, description="Behind a gateway: which device")] = 1
    word_order: Annotated[
        Literal["big", "little"], Meta(description="Which half of 32 bits comes first")
    ] = "big"
    gap: Annotated[
        int, Meta(ge=0, description="Unused registers that may be read to save a request")
    ] = 0
    poll_every: Annotated[float, Meta(ge=0.1, description="Seconds")] = 5
    timeout: Annotated[float, Meta(gt=0, description="Seconds, of one request")] = 2


@dataclass
class Block:
    """Neighbours of one kind, read with one request."""

    kind: str
    first: int
    end: int  # the address after the last one
    registers: dict[str, Register] = field(default_factory=dict)


class Refused(DriverError):
    """The device answered with an exception code."""


class Modbus(Driver[ModbusSettings]):
    module_name = "Modbus"
    transport = Service(port=502)

    def __init__(self) -> None:
        self._client: AsyncModbusTcpClient
        self._shown: set[str] = set()  # keys of the state

    # -- the connection ---------------------------------------------------------------------

    async def open(self) -> None:
        self._client = AsyncModbusTcpClient(
            self.config.ip,
            port=self.config.port,
            timeout=self.settings.timeout,
            retries=1,
            reconnect_delay=0,  # that is the platform's business
            trace_connect=self._connection_changed,
            trace_packet=self._show,
        )
        if not await self._client.connect():
            raise DriverError("it takes no connection")

    async def close(self) -> None:
        self._client.close()

    async def connected(self) -> None:
        await self.refresh()

    async def settings_changed(self) -> None:
        for name in self._shown - self.settings.registers.keys():
            del self[name]
        self.disconnect("the settings were changed")

    # -- functions --------------------------------------------------------------------------

    @every("poll_every")
    async def refresh(self) -> None:
        """Read all registers. What the device refuses is told in the state `errors`."""
        errors: dict[str, str] = {}
        for block in blocks(self.settings.registers, self.settings.gap):
            try:
                await self._read(block)
            except Refused as error:
                errors |= dict.fromkeys(block.registers, str(error))
                for name in block.registers:
                    self[name] = None
        self["errors"] = errors

    async def read(self, name: str) -> Value:
        """Read one register now."""
        register = self._register(name)
        await self._read(*blocks({name: register}))
        value: Value = self[name]
        return value

    async def write(self, name: str, value: Value) -> Value:
        """Write a register that the settings call writable; what the device has then."""
        register = self._register(name)
        if not register.writable or register.kind in ("input", "discrete"):
            raise DriverError(f"{name!r} is not writable", code=403)
        if register.kind == "coil":
            await self._ask("write_coil", register.address, bool(value))  # 6.5
        else:
            words = to_words(register, value, self.settings.word_order)
            if len(words) == 1:
                await self._ask("write_register", register.address, words[0])  # 6.6
            else:
                await self._ask("write_registers", register.address, words)  # 6.12
        return await self.read(name)

    # -- the protocol -----------------------------------------------------------------------

    def _register(self, name: str) -> Register:
        try:
            return self.settings.registers[name]
        except KeyError:
            raise DriverError(f"the settings name no register {name!r}", code=404) from None

    async def _read(self, block: Block) -> None:
        """Read a block into the state."""
        count = block.end - block.first
        response = await self._ask(READ[block.kind], block.first, count=count)
        found = response.bits if block.kind in BITS else response.registers
        if len(found) < count:
            raise DriverError(f"asked for {count} registers, the device sent {len(found)}")
        for name, register in block.registers.items():
            begin = register.address - block.first
            words = found[begin : begin + register.count]
            self[name] = from_words(register, words, self.settings.word_order)
            self._shown.add(name)

    async def _ask(self, request: str, address: int, *values: Any, **more: Any) -> Any:
        """One request of the library. Raises Refused or NoReply."""
        client = self._client
        try:
            ask = getattr(client, request)
            response = await ask(address, *values, **more, device_id=self.settings.unit)
        except (ConnectionException, ModbusIOException) as error:
            if client is self._client:  # else it is connected anew already
                self.disconnect("the device does not answer")
            raise NoReply(f"{request} at {address}: the device does not answer") from error
        except ModbusException as error:
            raise DriverError(str(error), code=400) from error
        if response.isError():
            code = response.exception_code
            raise Refused(REFUSALS.get(code, f"the device answers with exception code {code}"))
        return response

    def _connection_changed(self, up: bool) -> None:
        if not up:
            self.disconnect("the connection was lost")

    def _show(self, sending: bool, packet: bytes) -> bytes:
        self.log.wire("sent" if sending else "received", packet)
        return packet


def blocks(registers: dict[str, Register], gap: int = 0) -> list[Block]:
    """Registers together with their neighbours, and with those not more than `gap` away."""
    found: list[Block] = []
    for name, one in sorted(registers.items(), key=lambda item: (item[1].kind, item[1].address)):
        end = one.address + one.count
        block = found[-1] if found else Block("", 0, 0)
        apart = one.kind != block.kind or one.address > block.end + gap
        if apart or end - block.first > MOST[one.kind]:
            block = Block(one.kind, one.address, end)
            found.append(block)
        block.end = max(block.end, end)
        block.registers[name] = one
    return found


def from_words(register: Register, words: list[Any], order: str) -> Value:
    """What registers (or one bit) mean."""
    if register.kind in BITS:
        return bool(words[0])
    if order == "little":
        words = words[::-1]
    raw = struct.pack(f">{len(words)}H", *words)
    number: int | float = struct.unpack(TYPES[register.type], raw)[0]
    if register.type == "float32":
        return float(f"{number * register.scale:.7g}")  # as exact as 32 bits are
    return number if register.scale == 1 else float(f"{number * register.scale:.10g}")


def to_words(register: Register, value: Value, order: str) -> list[int]:
    """The registers that mean a value. Raises DriverError if there are none."""
    number = value / register.scale
    code = TYPES[register.type]
    try:
        raw = struct.pack(code, number if register.type == "float32" else round(number))
    except (struct.error, OverflowError, ValueError) as error:
        raise DriverError(f"{value} does not fit an {register.type}", code=400) from error
    words = list(struct.unpack(f">{len(raw) // 2}H", raw))
    return words[::-1] if order == "little" else words
