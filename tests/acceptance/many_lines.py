"""Many simulated devices in one process, each a port that answers every line with itself.

`python many_lines.py COUNT` prints a JSON list of their ports, then answers each line of
standard input with a line of JSON::

    connections    how often each device was connected to
    seen TEXT      when each device first heard that line, in unix seconds; null: not yet

It ends with its standard input. Lines end with a carriage return.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time


class Device(asyncio.Protocol):
    """A connection; what is kept belongs to the device."""

    def __init__(self, connections: list[int], seen: dict[str, float]) -> None:
        self._connections = connections
        self._seen = seen
        self._rest = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        self._connections[0] += 1

    def data_received(self, data: bytes) -> None:
        now = time.time()
        *lines, self._rest = (self._rest + data).split(b"\r")
        for line in lines:
            self._seen.setdefault(line.decode(), now)
            self._transport.write(line + b"\r")


async def main(count: int) -> None:
    loop = asyncio.get_running_loop()
    connections: list[list[int]] = [[0] for _ in range(count)]
    seen: list[dict[str, float]] = [{} for _ in range(count)]
    servers = [
        await loop.create_server(lambda one=one: Device(*one), "127.0.0.1", 0)
        for one in zip(connections, seen, strict=True)
    ]
    say([server.sockets[0].getsockname()[1] for server in servers])
    while line := await asyncio.to_thread(sys.stdin.readline):
        question, _, text = line.strip().partition(" ")
        if question == "connections":
            say([one[0] for one in connections])
        else:
            say([one.get(text) for one in seen])


def say(answer: object) -> None:
    print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1])))
