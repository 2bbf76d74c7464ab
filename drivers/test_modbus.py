"""The Modbus driver, against the server of pymodbus and against one that misbehaves."""

import importlib.util
import math
import struct
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pymodbus.server import ModbusTcpServer
from pymodbus.simulator import DataType, SimData, SimDevice

from placeos.driver.testing import CallError, ScriptedDevice, TestedModule, drive

FILE = Path(__file__).with_name("modbus.py")

REGISTERS: dict[str, Any] = {
    "setpoint": {"address": 0, "type": "int16", "scale": 0.1, "writable": True},
    "energy": {"address": 1, "type": "uint32", "writable": True},
    "power": {"address": 3, "type": "float32", "writable": True},
    "temperature": {"address": 7, "kind": "input", "type": "int16", "scale": 0.1},
    "fan": {"address": 2, "kind": "coil", "writable": True},
    "window": {"address": 4, "kind": "discrete"},
}


class Meter:
    """A pymodbus server; `requests` are the function codes and addresses it was asked for."""

    def __init__(self) -> None:
        self.requests: list[tuple[int, int, int]] = []
        self.server: ModbusTcpServer
        self.port = 0

    async def note(
        self, code: int, _start: int, address: int, count: int, _now: object, _new: object
    ) -> None:
        """Called by the server for each request."""
        self.requests.append((code, address, count))

    async def listen(self) -> None:
        """Answer, on the same port as before."""
        bits = [False] * 16
        bits[2] = bits[4] = True
        coils = [SimData(0, values=bits, datatype=DataType.BITS)]
        holding = [
            SimData(0, values=[-215 & 0xFFFF, 1, 0x86A0], datatype=DataType.REGISTERS),
            SimData(3, values=21.7, datatype=DataType.FLOAT32),
            SimData(5, values=[0] * 5, datatype=DataType.REGISTERS),
        ]
        inputs = [SimData(7, values=[217], datatype=DataType.REGISTERS)]
        simulated = SimDevice(1, (coils, coils, holding, inputs), action=self.note)
        self.server = ModbusTcpServer(simulated, address=("127.0.0.1", self.port))
        await self.server.serve_forever(background=True)
        self.port = self.server.transport.sockets[0].getsockname()[1]

    async def hang_up(self) -> None:
        """Drop all connections and accept no more."""
        await self.server.shutdown()


@asynccontextmanager
async def meter(
    registers: dict[str, Any] = REGISTERS,
    errors: dict[str, str] | None = None,
    **settings: object,
) -> AsyncIterator[tuple[TestedModule, Meter]]:
    """A module and the server it reads."""
    device = Meter()
    await device.listen()
    given = {"registers": registers, "poll_every": 0.1} | settings
    try:
        async with drive(FILE, port=device.port, settings=given) as module:
            await module.status("errors", errors or {})
            yield module, device
    finally:
        await device.hang_up()


async def test_reads_every_kind_and_type() -> None:
    async with meter() as (module, _):
        assert module.state == {
            "connected": True,
            "setpoint": -21.5,
            "energy": 100_000,
            "power": 21.7,
            "temperature": 21.7,
            "fan": True,
            "window": True,
            "errors": {},
        }


async def test_neighbours_are_read_with_one_request() -> None:
    async with meter(poll_every=60) as (_, device):
        assert device.requests == [(1, 2, 1), (2, 4, 1), (3, 0, 5), (4, 7, 1)]


@pytest.mark.parametrize(
    ("name", "value", "code"),
    [("setpoint", 19.5, 6), ("energy", 70_000, 16), ("power", -1.5, 16), ("fan", False, 5)],
)
async def test_write(name: str, value: float, code: int) -> None:
    async with meter() as (module, device):
        assert await module.exec("write", name, value) == value
        assert code in {request[0] for request in device.requests}
        assert module.state[name] == value


async def test_value_that_changes_is_polled() -> None:
    async with meter() as (module, device):
        await device.server.async_setValues(1, 6, 0, [235])
        await module.status("setpoint", 23.5)


@pytest.mark.parametrize(
    ("name", "value", "words", "code"),
    [
        ("temperature", 1, "'temperature' is not writable", 403),
        ("window", True, "'window' is not writable", 403),
        ("nothing", 1, "no register 'nothing'", 404),
        ("setpoint", 4000, "4000 does not fit an int16", 400),
        ("energy", -1, "-1 does not fit an uint32", 400),
    ],
)
async def test_what_cannot_be_written(name: str, value: float, words: str, code: int) -> None:
    async with meter() as (module, _):
        with pytest.raises(CallError, match=words) as caught:
            await module.exec("write", name, value)
        assert caught.value.code == code


async def test_refused_register_spoils_no_other() -> None:
    more = {"beyond": {"address": 900}, "power": {"address": 3, "type": "float32"}}
    async with meter(more, {"beyond": "the device has no such register"}) as (module, _):
        assert module.state["power"] == 21.7
        assert "beyond" not in module.state
        with pytest.raises(CallError, match="no such register"):
            await module.exec("read", "beyond")


async def test_other_registers_in_the_settings() -> None:
    async with meter() as (module, _):
        await module.update(registers={"heat": {"address": 0, "type": "int16"}}, poll_every=0.1)
        await module.status("heat", -215)
        assert "setpoint" not in module.state


async def test_connection_that_is_cut_is_made_again() -> None:
    async with meter() as (module, device):
        await device.hang_up()
        await module.status("connected", False)
        await device.listen()
        await module.status("connected", True, timeout=20)
        assert await module.exec("read", "setpoint") == -21.5


# -- a device that misbehaves -------------------------------------------------------------------

ONE = {"level": {"address": 5, "writable": True}}


def reply(number: int, *words: int) -> bytes:
    """The answer to a request to read registers."""
    pdu = struct.pack(f">BBB{len(words)}H", 1, 3, 2 * len(words), *words)
    return struct.pack(">HHH", number, 0, len(pdu)) + pdu


@asynccontextmanager
async def scripted(**settings: object) -> AsyncIterator[tuple[TestedModule, ScriptedDevice]]:
    device = ScriptedDevice()
    given = {"registers": ONE, "poll_every": 60, "timeout": 0.2} | settings
    async with drive(FILE, device=device, settings=given) as module:
        yield module, device


async def test_silent_device_is_dropped() -> None:
    async with scripted() as (module, device):
        await module.status("connected", False)
        await device.expect_connection(2)


async def test_late_answer_is_not_taken_for_another() -> None:
    async with scripted(timeout=3) as (module, device):
        await device.expect_send()
        await device.responds(reply(1, 7))
        await module.status("level", 7)
        call = module.exec("read", "level")
        request = await device.expect_send()
        assert request[:2] == b"\0\x02"
        await device.responds(reply(1, 99) + reply(2, 8))
        assert await call == 8


async def test_fewer_registers_than_asked_for() -> None:
    async with scripted(timeout=3) as (module, device):
        await device.expect_send()
        await device.responds(reply(1))
        await module.fault("asked for 1 registers, the device sent 0")
        assert "level" not in module.state


@pytest.mark.parametrize(
    "garbage", [b"HTTP/1.1 400 Bad Request\r\n\r\n" * 20, b"\0\1\0\0\0\3\1\x63\0"]
)
async def test_garbage(garbage: bytes) -> None:
    async with scripted() as (module, device):
        await device.expect_send()
        await device.responds(garbage)
        await device.expect_connection(2)
        await device.expect_send()
        await device.responds(reply(1, 3))
        await module.status("level", 3)


async def test_half_an_answer_and_then_the_end() -> None:
    async with scripted(timeout=3) as (module, device):
        await device.expect_send()
        await device.responds(reply(1, 7)[:5])
        await device.hang_up()
        await module.status("connected", False)
        await device.expect_connection(2)


# -- what is pure ---------------------------------------------------------------------------------

spec = importlib.util.spec_from_file_location("tested_modbus", FILE)
assert spec is not None
assert spec.loader is not None
modbus = sys.modules["tested_modbus"] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(modbus)

registers = st.builds(
    modbus.Register,
    address=st.integers(0, 400),
    kind=st.sampled_from(["holding", "input", "coil", "discrete"]),
    type=st.sampled_from(sorted(modbus.TYPES)),
)


@given(st.dictionaries(st.text(), registers, max_size=60), st.integers(0, 20))
def test_blocks_hold_every_register_once(named: dict[str, Any], gap: int) -> None:
    found = modbus.blocks(named, gap)
    assert [name for block in found for name in block.registers] == sorted(
        named, key=lambda name: (named[name].kind, named[name].address)
    )
    for block in found:
        assert 0 < block.end - block.first <= modbus.MOST[block.kind]
        for register in block.registers.values():
            assert block.kind == register.kind
            assert block.first <= register.address
            assert register.address + register.count <= block.end


@given(
    st.sampled_from(["int16", "uint16", "int32", "uint32"]),
    st.integers(-(2**31), 2**32 - 1),
    st.sampled_from(["big", "little"]),
    st.sampled_from([1, 0.1, 0.01, 10]),
)
def test_words_of_a_number_mean_that_number(kind: str, step: int, order: str, scale: float) -> None:
    register = modbus.Register(address=0, type=kind, scale=scale)
    value = step * scale
    try:
        words = modbus.to_words(register, value, order)
    except modbus.DriverError:
        bits = int(kind.strip("uint"))
        least = 0 if kind[0] == "u" else -(2 ** (bits - 1))
        assert not least <= step < least + 2**bits
    else:
        assert len(words) == register.count
        assert math.isclose(modbus.from_words(register, words, order), value, rel_tol=1e-9)
