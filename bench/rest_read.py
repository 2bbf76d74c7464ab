"""REST reads of one record and of one state value, against a bare application on granian."""

from __future__ import annotations

import asyncio
import statistics
import time
from typing import cast

import uvloop
from common import BenchModule, Platform, bench_module, floor, platform, verdict

BUDGET = 0.5  # of the bare application's answers a second
CONNECTIONS = 32
ROUNDS = 3
SECONDS = 2.0


class Reader(asyncio.Protocol):
    """Keeps one HTTP request under way, and counts answers."""

    def __init__(self, request: bytes) -> None:
        self._request = request
        self._pending = b""
        self.count = 0
        self.status = b""
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is no subclass of it
        self._transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        self._pending += data
        head, separator, body = self._pending.partition(b"\r\n\r\n")
        if separator and len(body) >= _content_length(head):
            self.status = head[9:12]
            self.count += 1
            self._pending = b""
            assert self._transport is not None
            self._transport.write(self._request)

    def close(self) -> None:
        """End the connection."""
        assert self._transport is not None
        self._transport.abort()


def _content_length(head: bytes) -> int:
    for line in head.lower().split(b"\r\n"):
        if line.startswith(b"content-length:"):
            return int(line[15:])
    raise RuntimeError(f"an answer without a length: {head!r}")


async def answers(address: tuple[str, int], path: str, headers: str = "") -> float:
    """Answers a second over all connections."""
    request = f"GET {path} HTTP/1.1\r\nHost: localhost\r\n{headers}\r\n".encode()
    loop = asyncio.get_running_loop()
    readers = []
    for _ in range(CONNECTIONS):
        _, reader = await loop.create_connection(lambda: Reader(request), *address)
        readers.append(reader)
    await asyncio.sleep(0.5)  # warm up: not measured
    before, began = sum(reader.count for reader in readers), time.perf_counter()
    await asyncio.sleep(SECONDS)
    rate = (sum(reader.count for reader in readers) - before) / (time.perf_counter() - began)
    for reader in readers:
        reader.close()
    if {reader.status for reader in readers} != {b"200"}:
        raise RuntimeError(f"{path} answers {readers[0].status!r}")
    return rate


async def compare(site: Platform, module: BenchModule, port: int, kind: str) -> None:
    """One kind of read, both sides in turns."""
    bare, ours = {
        "record": (f"/record/{module.system}", f"/systems/{module.system}"),
        "state": (f"/state/{module.module}/key0", f"/systems/{module.system}/Bench_1/key0"),
    }[kind]
    key = f"X-API-Key: {site.api_key}\r\n"
    floors, rates = [], []
    for _ in range(ROUNDS):
        floors.append(await answers(("127.0.0.1", port), bare))
        rates.append(await answers(site.rest_address, f"/api/engine/v2{ours}", key))
    verdict(
        f"REST read of one {kind}",
        statistics.median(rates),
        statistics.median(floors),
        unit="/s",
        at_least=BUDGET,
    )


async def main() -> None:
    """Measure records and state, and print the verdicts."""
    with platform() as site:
        module = await bench_module(site)
        async with site.client() as client:
            answer = await client.post(f"/systems/{module.system}/Bench_1/burst", json=[1, 1])
            answer.raise_for_status()
        engines = site.ready["engines"]
        with floor("read", engines["database_url"], engines["redis_url"]) as port:
            await compare(site, module, port, "record")
            await compare(site, module, port, "state")


if __name__ == "__main__":
    uvloop.run(main())
