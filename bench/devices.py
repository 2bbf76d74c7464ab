"""Many simulated devices in one process: each an address that sends every line back.

`python bench/devices.py COUNT` prints a JSON line with host and port of each, then answers each
line of standard input with one line of JSON::

    connected    how many devices have a connection
    unplug       all devices vanish: connections are reset, new ones refused
    plug         they are back
    accepted     when connections were accepted since `plug`, in seconds after it
"""

from __future__ import annotations

import asyncio
import json
import socket
import sys
import time

import uvloop

PORT = 20_023  # below the range that outgoing connections are given


class Devices:
    """All devices; their addresses stay theirs while they are unplugged."""

    def __init__(self, count: int) -> None:
        self.connections: dict[asyncio.Transport, int] = {}
        self.accepted: list[float] = []
        self.plugged_at = 0.0
        self._loop = asyncio.get_running_loop()
        self._tasks: set[asyncio.Task[object]] = set()
        self.sockets = [self._bind(index) for index in range(count)]

    def plug(self) -> None:
        """Listen."""
        self.accepted.clear()
        self.plugged_at = time.monotonic()
        for index, listener in enumerate(self.sockets):
            listener.listen(8)
            self._loop.add_reader(listener, self._accept, index, listener)

    def unplug(self) -> None:
        """Reset all connections, refuse new ones."""
        for listener in self.sockets:
            self._loop.remove_reader(listener)
            listener.shutdown(socket.SHUT_RDWR)  # on Linux it can listen again
        for transport in list(self.connections):
            transport.abort()

    def _bind(self, index: int) -> socket.socket:
        listener = socket.socket()
        listener.setblocking(False)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((f"127.1.{index // 250}.{index % 250 + 1}", PORT))
        return listener

    def _accept(self, index: int, listener: socket.socket) -> None:
        try:
            connection, _ = listener.accept()
        except OSError:
            return
        self.accepted.append(time.monotonic() - self.plugged_at)
        job = self._loop.connect_accepted_socket(lambda: Session(self, index), connection)
        task = self._loop.create_task(job)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


class Session(asyncio.Protocol):
    """One connection."""

    def __init__(self, devices: Devices, index: int) -> None:
        self._devices = devices
        self._index = index

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        self._devices.connections[transport] = self._index

    def data_received(self, data: bytes) -> None:
        self._transport.write(data)

    def connection_lost(self, exc: Exception | None) -> None:
        self._devices.connections.pop(self._transport, None)


async def serve(count: int) -> None:
    """Until standard input ends."""
    devices = Devices(count)
    devices.plug()
    say([listener.getsockname() for listener in devices.sockets])
    while line := await asyncio.to_thread(sys.stdin.readline):
        match line.strip():
            case "connected":
                say(len(set(devices.connections.values())))
            case "unplug":
                devices.unplug()
                say(True)
            case "plug":
                devices.plug()
                say(True)
            case "accepted":
                say(devices.accepted)


def say(answer: object) -> None:
    """One line of JSON."""
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    uvloop.run(serve(int(sys.argv[1])))
