"""Function calls: websocket → api → core → driver process → back, against a bare echo."""

from __future__ import annotations

import statistics

import uvloop
from common import (
    BenchModule,
    Inbox,
    bench_module,
    connected,
    floor,
    in_flight,
    platform,
    round_trips,
    verdict,
)

ONE_AT_A_TIME = 6  # times the echo's median
IN_FLIGHT = 0.2  # of the echo's rate
FLIGHT = 64
ROUNDS = 3


def request(module: BenchModule, number: int) -> bytes:
    """One call, as a client would write it."""
    return (
        f'{{"id":{number},"cmd":"exec","sys":"{module.system}","mod":"Bench","index":1,'
        f'"name":"echo","args":[{number}]}}'
    ).encode()


async def measure(url: str, module: BenchModule) -> tuple[float, float]:
    """Median of one at a time in microseconds, and calls a second with many in flight."""
    inbox = Inbox()
    async with connected(url, inbox) as transport:
        await round_trips(transport, inbox, lambda number: request(module, number), 300)
        times = await round_trips(transport, inbox, lambda number: request(module, number), 2000)
        rate = await in_flight(
            transport,
            inbox,
            lambda number: request(module, number),
            flight=FLIGHT,
            seconds=2,
        )
    if b'"error' in inbox.last:
        raise RuntimeError(f"the last call failed: {inbox.last!r}")
    return statistics.median(times) * 1e6, rate


async def main() -> None:
    """Measure both in turns and print the verdicts."""
    with platform() as site, floor("echo") as port:
        module = await bench_module(site)
        floors, ours = [], []
        for _ in range(ROUNDS):
            floors.append(await measure(f"ws://127.0.0.1:{port}/", module))
            ours.append(await measure(site.control_url, module))
        front_door = await measure(site.front_door_url, module)
    floor_time, floor_rate = (statistics.median(figures) for figures in zip(*floors, strict=True))
    time, rate = (statistics.median(figures) for figures in zip(*ours, strict=True))
    verdict("call, one at a time, p50", time, floor_time, unit="µs", at_most=ONE_AT_A_TIME)
    verdict(f"call, {FLIGHT} in flight", rate, floor_rate, unit="/s", at_least=IN_FLIGHT)
    print(f"through the front door: {front_door[0]:,.0f} µs, {front_door[1]:,.0f}/s")


if __name__ == "__main__":
    uvloop.run(main())
