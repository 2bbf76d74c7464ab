"""Function calls: websocket → api → core → driver process → back, against a bare echo."""

from __future__ import annotations

import statistics

import uvloop
from common import (
    BenchModule,
    Inbox,
    bench_module,
    chain,
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


async def latency(url: str, module: BenchModule) -> float:
    """Median of one call at a time, in microseconds."""
    inbox = Inbox()
    async with connected(url, inbox) as transport:
        await round_trips(transport, inbox, lambda number: request(module, number), 300)
        times = await round_trips(transport, inbox, lambda number: request(module, number), 2000)
    return statistics.median(times) * 1e6


async def rate(url: str, module: BenchModule) -> float:
    """Calls a second with many in flight."""
    inbox = Inbox()
    async with connected(url, inbox) as transport:
        found = await in_flight(
            transport, inbox, lambda number: request(module, number), flight=FLIGHT, seconds=2
        )
    if b'"error' in inbox.last:
        raise RuntimeError(f"the last call failed: {inbox.last!r}")
    return found


async def main() -> None:
    """Measure in turns and print the verdicts."""
    with platform() as site, floor("echo") as echo, chain() as bare_chain:
        module = await bench_module(site)
        urls = {
            "echo": f"ws://127.0.0.1:{echo}/",
            "chain": f"ws://127.0.0.1:{bare_chain}/",
            "ours": site.control_url,
            "front door": site.front_door_url,
        }
        times: dict[str, list[float]] = {name: [] for name in urls}
        rates: dict[str, list[float]] = {name: [] for name in urls if name != "chain"}
        for _ in range(ROUNDS):
            for name, url in urls.items():
                times[name].append(await latency(url, module))
            for name in rates:
                rates[name].append(await rate(urls[name], module))
    time = {name: statistics.median(figures) for name, figures in times.items()}
    pace = {name: statistics.median(figures) for name, figures in rates.items()}
    verdict(
        "call, one at a time, p50", time["ours"], time["echo"], unit="µs", at_most=ONE_AT_A_TIME
    )
    verdict(f"call, {FLIGHT} in flight", pace["ours"], pace["echo"], unit="/s", at_least=IN_FLIGHT)
    print(f"  three processes that only pass bytes on take {time['chain']:,.0f} µs")
    print(f"  through the front door: {time['front door']:,.0f} µs, {pace['front door']:,.0f}/s")


if __name__ == "__main__":
    uvloop.run(main())
