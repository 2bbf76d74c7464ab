"""State fan-out: one module's changes to 100 websockets, against a bare picows server."""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Callable
from contextlib import AsyncExitStack

import uvloop
from common import BenchModule, Inbox, bench_module, connected, floor, platform, verdict
from picows import WSMsgType, WSTransport

BUDGET = 0.6  # of the bare server's deliveries a second
CLIENTS = 100
KEYS = 50
ROUNDS = 3
SECONDS = 3.0


class Audience:
    """Counts deliveries at all clients together."""

    def __init__(self) -> None:
        self.received = 0
        self._wanted = 0
        self._done = asyncio.Event()

    def __call__(self, _: bytes) -> None:
        self.received += 1
        if self.received == self._wanted:
            self._done.set()

    async def wait(self, wanted: int) -> None:
        """Until that many deliveries have come in all."""
        self._wanted = wanted
        self._done.clear()
        if self.received < wanted:
            await asyncio.wait_for(self._done.wait(), 20)


async def deliveries(audience: Audience, burst: Callable[[int], None]) -> float:
    """Deliveries a second while each burst follows as soon as the last has arrived."""
    number, began = 0, time.perf_counter()
    while (elapsed := time.perf_counter() - began) < SECONDS:
        wanted = audience.received + KEYS * CLIENTS
        number += 1
        burst(number)
        await audience.wait(wanted)
    return number * KEYS * CLIENTS / elapsed


def notification(module: BenchModule, key: int, number: int) -> str:
    """What the platform sends for one change."""
    return (
        f'{{"id":{key},"type":"notify","value":{number},"meta":{{"sys":"{module.system}",'
        f'"mod":"Bench","index":1,"name":"key{key}"}}}}'
    )


async def measure_floor(port: int, module: BenchModule) -> float:
    """The bare server sends the same texts to as many clients."""
    audience = Audience()
    async with AsyncExitStack() as stack:
        url = f"ws://127.0.0.1:{port}/"
        for _ in range(CLIENTS):
            await stack.enter_async_context(connected(url, audience))
        asker = await stack.enter_async_context(connected(url, lambda _: None))

        def burst(number: int) -> None:
            texts = "\n".join(notification(module, key, number) for key in range(KEYS))
            asker.send(WSMsgType.TEXT, texts.encode())

        return await deliveries(audience, burst)


async def measure_platform(url: str, module: BenchModule, first: int) -> float:
    """The module sets its keys; every client has bound all of them."""
    audience = Audience()
    async with AsyncExitStack() as stack:
        for _ in range(CLIENTS):
            transport = await stack.enter_async_context(connected(url, audience))
            _bind(transport, module)
        await _settle(audience)
        inbox = Inbox()
        asker = await stack.enter_async_context(connected(url, inbox))

        def burst(number: int) -> None:
            asker.send(
                WSMsgType.TEXT,
                f'{{"id":1,"cmd":"exec","sys":"{module.system}","mod":"Bench","index":1,'
                f'"name":"burst","args":[{first + number},{KEYS}]}}'.encode(),
            )

        return await deliveries(audience, burst)


def _bind(transport: WSTransport, module: BenchModule) -> None:
    for key in range(KEYS):
        transport.send(
            WSMsgType.TEXT,
            f'{{"id":{key},"cmd":"bind","sys":"{module.system}","mod":"Bench","index":1,'
            f'"name":"key{key}"}}'.encode(),
        )


async def _settle(audience: Audience) -> None:
    """Until neither answers to the binds nor first values come any more."""
    before = -1
    while before != audience.received:
        before = audience.received
        await asyncio.sleep(0.5)


async def main() -> None:
    """Measure both in turns and print the verdict."""
    with platform() as site, floor("fanout") as port:
        module = await bench_module(site)
        floors, ours = [], []
        for turn in range(ROUNDS):
            floors.append(await measure_floor(port, module))
            ours.append(await measure_platform(site.control_url, module, turn * 1_000_000))
    verdict(
        f"state fan-out to {CLIENTS} websockets",
        statistics.median(ours),
        statistics.median(floors),
        unit="/s",
        at_least=BUDGET,
    )


if __name__ == "__main__":
    uvloop.run(main())
