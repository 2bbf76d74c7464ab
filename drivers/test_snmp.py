"""The SNMP driver, against the agent of snmpsim and against one that misbehaves."""

import asyncio
import importlib.util
import os
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from placeos.driver.testing import CallError, ScriptedUDP, TestedModule, drive
from placeos.wire.frame import Clearance

FILE = Path(__file__).with_name("snmp.py")

READ = """\
1.3.6.1.2.1.1.1.0|4|Acme PDU-8 rev B
1.3.6.1.2.1.1.2.0|6|1.3.6.1.4.1.99999.1
1.3.6.1.2.1.1.3.0|67|123456
1.3.6.1.2.1.1.5.0|4|strip-7
1.3.6.1.2.1.1.6.0|4|Rack 12
1.3.6.1.2.1.2.2.1.6.1|4x|0011223344ff
1.3.6.1.2.1.4.20.1.1.10.0.0.9|64|10.0.0.9
1.3.6.1.2.1.31.1.1.1.6.1|70|18446744073709551615
1.3.6.1.4.1.99999.1.1.0|2|-5
1.3.6.1.4.1.99999.1.2.0|66|230
"""
OUTLETS = "".join(f"1.3.6.1.4.1.99999.2.{n}|2|{n * 10}\n" for n in range(1, 51))
WRITE = """\
1.3.6.1.2.1.1.5.0|4:error|op=set,status=notwritable,value=strip-7
1.3.6.1.2.1.1.6.0|4:writecache|value=Rack 12
1.3.6.1.4.1.99999.3.0|2:writecache|value=1
"""


class Agent:
    """The command responder of snmpsim; each community is a file of what it may see."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None
        for name, lines in (("public", READ + OUTLETS), ("private", WRITE)):
            (folder / "data").mkdir(exist_ok=True)
            (folder / "data" / f"{name}.snmprec").write_text(lines)
        with socket.socket(type=socket.SOCK_DGRAM) as free:
            free.bind(("127.0.0.1", 0))
            self.port: int = free.getsockname()[1]

    def start(self) -> None:
        """Answer, on the same port as before."""
        found = importlib.util.find_spec("snmpsim")
        assert found is not None
        assert found.origin is not None
        command = [
            str(Path(sys.executable).with_name("snmpsim-command-responder")),
            f"--data-dir={self._folder / 'data'}",
            f"--cache-dir={self._folder / 'cache'}",
            f"--variation-modules-dir={Path(found.origin).with_name('variation')}",
            f"--agent-udpv4-endpoint=127.0.0.1:{self.port}",
        ]
        if os.geteuid() == 0:  # else it insists on another account
            command += ["--process-user=root", "--process-group=root"]
        log = self._folder / "log"
        with log.open("wb") as output:
            self._process = subprocess.Popen(command, stdout=output, stderr=output)
        limit = time.monotonic() + 60
        while b"Listening at" not in log.read_bytes():
            assert self._process.poll() is None, log.read_text()
            assert time.monotonic() < limit, log.read_text()
            time.sleep(0.05)

    def stop(self) -> None:
        """Be gone."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None


@pytest.fixture(scope="module")
def agent(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Agent]:
    """One that answers."""
    made = Agent(tmp_path_factory.mktemp("snmp"))
    made.start()
    yield made
    made.stop()


@asynccontextmanager
async def strip(agent: Agent, **settings: object) -> AsyncIterator[TestedModule]:
    """A module that reads the agent."""
    given = {"write_community": "private", "poll_every": 1} | settings
    played = ScriptedUDP()  # takes no part, but says that the module is on UDP
    async with drive(FILE, device=played, port=agent.port, settings=given) as module:
        yield module


async def test_reads_the_values_of_the_settings(agent: Agent) -> None:
    async with strip(agent) as module:
        await module.status("location", "Rack 12")
        assert module.state["name"] == "strip-7"
        assert module.state["description"] == "Acme PDU-8 rev B"
        assert module.state["uptime"] >= 1234.56  # the simulator's goes on


@pytest.mark.parametrize(
    ("oid", "value"),
    [
        ("1.3.6.1.2.1.1.2.0", "1.3.6.1.4.1.99999.1"),
        (".1.3.6.1.2.1.2.2.1.6.1", "0011223344ff"),
        ("1.3.6.1.2.1.4.20.1.1.10.0.0.9", "10.0.0.9"),
        ("1.3.6.1.2.1.31.1.1.1.6.1", 2**64 - 1),
        ("1.3.6.1.4.1.99999.1.1.0", -5),
        ("1.3.6.1.4.1.99999.1.2.0", 230),
        ("1.3.6.1.4.1.99999.9.9.0", None),
    ],
)
async def test_types(agent: Agent, oid: str, value: object) -> None:
    async with strip(agent) as module:
        assert await module.exec("read", oid) == value


async def test_walk(agent: Agent) -> None:
    outlets = {f"1.3.6.1.4.1.99999.2.{n}": n * 10 for n in range(1, 51)}
    async with strip(agent) as module:
        assert await module.exec("walk", "1.3.6.1.4.1.99999.2") == outlets
        first = dict(list(outlets.items())[:30])
        assert await module.exec("walk", "1.3.6.1.4.1.99999.2", 30) == first
        assert await module.exec("walk", "1.3.6.1.4.1.99998") == {}


async def test_write(agent: Agent) -> None:
    async with strip(agent, community="private") as module:
        assert await module.exec("write", "1.3.6.1.4.1.99999.3.0", 0) == 0
        assert await module.exec("read", "1.3.6.1.4.1.99999.3.0") == 0
        text = await module.exec("write", "1.3.6.1.2.1.1.6.0", "Rack 13", "text")
        assert text == "Rack 13"
        await module.status("location", "Rack 13")


@pytest.mark.parametrize(
    ("function", "arguments", "words", "code"),
    [
        ("read", ["1.3.six"], "'1.3.six' is no object identifier", 400),
        ("read", ["1.77.1"], "'1.77.1' is no object identifier", 400),
        ("write", ["1.3.6.1.2.1.1.6.0", "many", "integer"], "'many' is no integer", 400),
        ("write", ["1.3.6.1.2.1.1.6.0", "x", "shoe"], "argument 'type'", 400),
        ("walk", ["1.3.6", 0], "argument 'limit'", 400),
    ],
)
async def test_wrong_arguments(
    agent: Agent, function: str, arguments: list[object], words: str, code: int
) -> None:
    async with strip(agent) as module:
        with pytest.raises(CallError, match=words) as caught:
            await module.exec(function, *arguments)
        assert caught.value.code == code


async def test_what_may_not_be_written(agent: Agent) -> None:
    async with strip(agent) as module:
        with pytest.raises(CallError, match=r"1\.3\.6\.1\.2\.1\.1\.5\.0: notWritable"):
            await module.exec("write", "1.3.6.1.2.1.1.5.0", "other", "text")
        with pytest.raises(CallError, match="privileged function"):
            await module.exec(
                "write", "1.3.6.1.2.1.1.5.0", "x", "text", clearance=Clearance.SUPPORT
            )
    async with strip(agent, write_community=None) as module:
        with pytest.raises(CallError, match="write_community is missing"):
            await module.exec("write", "1.3.6.1.2.1.1.5.0", "other", "text")


async def test_device_info(agent: Agent) -> None:
    async with strip(agent) as module:
        info = await module.exec("device_info")
        assert (info["make"], info["model"]) == ("Acme", "PDU-8 rev B")
        assert info["hostname"] == "strip-7"


async def test_other_values_in_the_settings(agent: Agent) -> None:
    async with strip(agent) as module:
        await module.status("name", "strip-7")
        await module.update(values={"volts": "1.3.6.1.4.1.99999.1.2.0"})
        await module.status("volts", 230)
        assert set(module.state) - {"device_info"} == {"connected", "volts"}


async def test_wrong_community_gets_no_answer(agent: Agent) -> None:
    played = ScriptedUDP()
    wrong = {"community": "guessed", "poll_every": 1}
    how: dict[str, Any] = {"device": played, "port": agent.port, "connected": False}
    async with drive(FILE, settings=wrong, **how) as module:
        await module.status("connected", False, timeout=20)
        assert not any("guessed" in line.message for line in module.logs)
        await module.update(community="public", poll_every=1)
        await module.status("connected", True, timeout=20)


async def test_agent_that_is_gone_and_back(agent: Agent) -> None:
    async with strip(agent) as module:
        await module.status("name", "strip-7")
        agent.stop()
        await module.status("connected", False, timeout=20)
        await asyncio.to_thread(agent.start)
        await module.status("connected", True, timeout=20)
        assert await module.exec("read", "1.3.6.1.2.1.1.5.0") == "strip-7"


# -- an agent that misbehaves -------------------------------------------------------------------

spec = importlib.util.spec_from_file_location("tested_snmp", FILE)
assert spec is not None
assert spec.loader is not None
snmp = sys.modules["tested_snmp"] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(snmp)

NAME = "1.3.6.1.2.1.1.5.0"
LONG_NUMBER = bytes.fromhex(  # a response whose members claim more octets than can be counted
    "30570288aa010104067075626c6963a24a020105020100020100303f301106082b06010201010100040568656c6c6f"
    "300d06082b0601020101030043014d300e06062b0601040100400401020304300b06052b0601020002022b06"
)


def number_of(request: bytes) -> int:
    """The number of a request."""
    message, _ = snmp.decoder.decode(request, asn1Spec=snmp.rfc1901.Message())
    pdus, _ = snmp.decoder.decode(message["data"].asOctets(), asn1Spec=snmp.rfc1905.PDUs())
    return int(pdus.getComponent()["request-id"])


def reply(number: int, *values: tuple[str, str]) -> bytes:
    """A response with texts."""
    bindings = [(name, snmp.rfc1902.OctetString(text)) for name, text in values]
    message: bytes = snmp.request("response", number, "public", bindings)
    return message


@asynccontextmanager
async def scripted() -> AsyncIterator[tuple[TestedModule, ScriptedUDP]]:
    """A module, and the device to which it has sent its first request."""
    device = ScriptedUDP()
    settings = {"values": {"name": NAME}, "poll_every": 3600}
    async with drive(FILE, device=device, settings=settings, connected=False) as module:
        yield module, device


async def test_garbage_and_answers_to_others_are_passed_over() -> None:
    async with scripted() as (module, device):
        request = await device.expect_send()
        number = number_of(request)
        await device.responds(b"")
        await device.responds(b"\x30\x82\xff\xff\x02")
        await device.responds(b"\x30\x88" + b"\xff" * 8)  # as long as no memory is
        await device.responds(LONG_NUMBER)
        await device.responds(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        await device.responds(request)  # an echo is no answer
        await device.responds(reply(number + 1, (NAME, "another")))
        await device.responds(reply(number, (NAME, "right")))
        await module.status("name", "right")
        assert "another" not in module.state.values()
        assert not any(line.level > 2 for line in module.logs)  # nor is it worth a warning


async def test_lost_datagram_is_asked_for_again() -> None:
    async with scripted() as (module, device):
        first = await device.expect_send()
        again = await device.expect_send(timeout=10)
        assert again == first
        await device.responds(reply(number_of(first), (NAME, "right")))
        await module.status("name", "right")


async def test_other_values_than_asked_for() -> None:
    async with scripted() as (module, device):
        number = number_of(await device.expect_send())
        await device.responds(reply(number, (NAME, "a"), (NAME, "b")))
        await module.fault("the device answers 2 values for 1")


async def test_walk_that_goes_in_circles() -> None:
    async with scripted() as (module, device):
        await device.responds(reply(number_of(await device.expect_send()), (NAME, "right")))
        call = module.exec("walk", "1.3.6.1.2.1.1")
        number = number_of(await device.expect_send())
        await device.responds(reply(number, (NAME, "a"), (NAME, "b")))
        with pytest.raises(CallError, match=f"does not go on after {NAME}"):
            await call


# -- what is pure -------------------------------------------------------------------------------


@given(st.binary(max_size=60), st.integers(0, 40))
def test_no_bytes_are_too_odd(noise: bytes, at: int) -> None:
    message = reply(1, (NAME, "text"))
    for tried in (noise, message[:at] + noise + message[at + len(noise) :]):
        try:
            snmp.parse(tried)
        except snmp.DriverError:
            assert not snmp.answers(1)(tried)


@given(st.text())
def test_text_stays_text_or_becomes_digits(text: str) -> None:
    octets = text.encode()
    found = snmp.text(octets)
    assert found == text.rstrip("\0") or found == octets.hex()
