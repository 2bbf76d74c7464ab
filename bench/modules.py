"""A thousand modules of one driver: start, memory, commands, and all devices coming back.

`python bench/modules.py [COUNT]`. The floor of each is the barest asyncio client of the same
devices, in a process of its own.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import resource
import signal
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import uvloop
from common import HERE, Platform, create, create_driver, platform, verdict

PUMPED = 32  # modules that send commands at once
SECONDS = 2.0
ROUNDS = 3  # in turns with the floor; the median counts
OUTAGES = {"a blink": 0.0, "25 s": 25.0}  # after 25 s all pauses are at their longest
WINDOW = 0.1  # seconds in which connects are counted together
CROWD = 0.25  # most of all devices that may be connected to in one window
KIB_EACH = 12
START_WITHIN = 30.0  # seconds, for 10,000
LIMIT = 120.0  # seconds for anything


class Devices:
    """`devices.py`, as a process."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self.addresses: list[tuple[str, int]] = [tuple(one) for one in self._read()]

    def ask(self, question: str) -> Any:
        """One of its commands."""
        assert self._process.stdin is not None
        self._process.stdin.write(question + "\n")
        self._process.stdin.flush()
        return self._read()

    def _read(self) -> Any:
        assert self._process.stdout is not None
        return json.loads(self._process.stdout.readline())

    async def until_connected(self, count: int) -> float:
        """Seconds until so many devices have a connection."""
        began = time.monotonic()
        while self.ask("connected") != count:
            if time.monotonic() - began > LIMIT:
                raise RuntimeError(f"{self.ask('connected')} of {count} devices are connected")
            await asyncio.sleep(0.02)
        return time.monotonic() - began


@contextlib.contextmanager
def devices(count: int) -> Iterator[Devices]:
    """So many devices."""
    command = [sys.executable, str(HERE / "devices.py"), str(count)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            yield Devices(process)
        finally:
            process.kill()


class Barest(asyncio.Protocol):
    """The floor: sends a line, waits for its echo, sends the next."""

    count = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def pump(self) -> None:
        """Send the first."""
        self._transport.write(b"ping\r")

    def data_received(self, data: bytes) -> None:
        Barest.count += 1
        self._transport.write(b"ping\r")


async def floor(addresses: list[tuple[str, int]], seconds: float = 0) -> tuple[float, float]:
    """Seconds to connect to these devices, and then commands a second for some time."""
    loop = asyncio.get_running_loop()
    began = time.monotonic()
    pairs = [await loop.create_connection(Barest, *address) for address in addresses]
    connected = time.monotonic() - began
    Barest.count = 0
    if seconds:
        for _, protocol in pairs:
            protocol.pump()
        await asyncio.sleep(seconds)
    for transport, _ in pairs:
        transport.abort()
    return connected, Barest.count / (seconds or 1)


async def rates(
    client: httpx.AsyncClient, modules: list[str], addresses: list[tuple[str, int]]
) -> tuple[float, float]:
    """Commands a second of modules, and of the floor."""
    ours, bare = [], []
    for _ in range(ROUNDS):
        pumping = (execute(client, module, "pump", SECONDS) for module in modules)
        ours.append(sum(await asyncio.gather(*pumping)) / SECONDS)
        bare.append((await floor(addresses, SECONDS))[1])
    return statistics.median(ours), statistics.median(bare)


async def make_modules(
    client: httpx.AsyncClient, driver: str, addresses: list[tuple[str, int]]
) -> list[str]:
    """One running module for each device."""
    made: list[str] = []
    for start in range(0, len(addresses), 16):
        made += await asyncio.gather(
            *(
                create(client, "modules", driver_id=driver, ip=host, port=port, running=True)
                for host, port in addresses[start : start + 16]
            )
        )
    return made


async def execute(client: httpx.AsyncClient, module: str, *words: object) -> Any:
    """Call a function of a module directly."""
    function, *args = words
    answer = await client.post(f"/modules/{module}/exec/{function}", json=args)
    answer.raise_for_status()
    return answer.json()


def private_kib(pid: int) -> int:
    """What only this process holds."""
    text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    return sum(int(line.split()[1]) for line in text.splitlines() if line.startswith("Private_"))


async def storm(here: Devices, seconds: float) -> tuple[int, float]:
    """All devices vanish and return: most connects in one window, seconds until the last."""
    here.ask("unplug")
    await asyncio.sleep(seconds)
    here.ask("plug")
    await here.until_connected(len(here.addresses))
    accepted = here.ask("accepted")
    windows = Counter(int(moment / WINDOW) for moment in accepted)
    await asyncio.sleep(6)  # so that the connections count as good ones
    return max(windows.values()), max(accepted)


async def measure(site: Platform, here: Devices) -> None:
    """All figures, each with its verdict."""
    count = len(here.addresses)
    async with site.client() as client:
        driver = await create_driver(client, "device.py", role=1, module_name="Device")
        first, *_ = await make_modules(client, driver, here.addresses[:1])
        await here.until_connected(1)
        empty = private_kib(await execute(client, first, "pid"))
        modules = [first, *await make_modules(client, driver, here.addresses[1:])]
        await here.until_connected(count)
        pid = await execute(client, first, "pid")
        each = (private_kib(pid) - empty) / (count - 1)
        os.kill(pid, signal.SIGKILL)
        await asyncio.sleep(0.1)
        started = await here.until_connected(count)
        rate, bare_rate = await rates(client, modules[:PUMPED], here.addresses[:PUMPED])
        crowds = {what: await storm(here, seconds) for what, seconds in OUTAGES.items()}
    bare_start, _ = await floor(here.addresses)
    verdict(f"memory of each of {count} modules", each, KIB_EACH, unit="KiB", at_most=1)
    budget = START_WITHIN * 1000 * count / 10_000
    verdict("  from kill -9 to all connected", started * 1000, budget, unit="ms", at_most=1)
    what = "commands, answered one after the other"
    verdict(what, rate, bare_rate, unit="/s", at_least=0.1)
    for what, (most, last) in crowds.items():
        name = f"devices back after {what}: most in {WINDOW:g} s"
        verdict(name, most, count * CROWD, unit="", at_most=1)
        print(f"  the last one {last:.1f} s after they were back")
    print(f"  a bare client connects to all in {bare_start * 1000:,.0f} ms")


async def main() -> None:
    """Measure and print the verdicts."""
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 1000
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    with platform() as site, devices(count) as here:
        await measure(site, here)


if __name__ == "__main__":
    uvloop.run(main())
