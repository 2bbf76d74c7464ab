"""Many simulated devices in one process, which keep their own history of who drove them.

`python devices.py --host 127.77.0.1 --port 10000 --count 1000 --log FILE`

A device is a port. It serves one connection at a time, answers every line, and writes down what
it saw with the time of CLOCK_MONOTONIC: this history, and not what the platform thinks of itself,
is the evidence of the chaos suite (`history.py` says what the lines mean). A connection that comes
while another one is open is written down and refused; with `--second accept` it is served, as by a
device that keeps a half-open connection: then bytes that still arrive on the older one are the
proof of two writers.

Nothing of the platform is imported here. Standard input takes `open`, `drop` and `quit`, each
answered with one line.
"""

from __future__ import annotations

import argparse
import errno
import heapq
import os
import resource
import select
import socket
import struct
import sys
import time
from pathlib import Path

MAX_LINE = 4096  # bytes of an unfinished line, after which a connection is reset
PATIENCE = 1.0  # seconds a refused connection is given to say whose it is
_RESET = struct.pack("ii", 1, 0)  # SO_LINGER: closing resets
_STDIN = 0


class Connection:
    """One accepted connection."""

    __slots__ = ("device", "number", "peer", "refused", "rest", "socket")

    def __init__(self, device: Device, number: int, sock: socket.socket, peer: str) -> None:
        self.device = device
        self.number = number
        self.socket = sock
        self.peer = peer
        self.refused = False
        self.rest = b""


class Device:
    """One device: a listener, and the connections that are open."""

    __slots__ = ("index", "listener", "open")

    def __init__(self, index: int, listener: socket.socket) -> None:
        self.index = index
        self.listener = listener
        self.open: list[Connection] = []


class Devices:
    """All devices, in one loop over epoll."""

    def __init__(self, host: str, port: int, count: int, log: Path, *, accept_second: bool) -> None:
        self._accept_second = accept_second
        self._log = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        self._batch: list[str] = []
        self._numbers = 0
        self._poll = select.epoll()
        self._by_fd: dict[int, Device | Connection] = {}
        self._later: list[tuple[float, int, Connection, bytes]] = []
        self._order = 0
        self.devices = [self._listen(index, host, port + index) for index in range(count)]
        self._poll.register(_STDIN, select.EPOLLIN)
        self._running = True

    def _listen(self, index: int, host: str, port: int) -> Device:
        listener = socket.socket()
        listener.setblocking(False)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(16)
        device = Device(index, listener)
        self._by_fd[listener.fileno()] = device
        self._poll.register(listener, select.EPOLLIN)
        return device

    # -- the loop

    def run(self) -> None:
        """Serve until told to quit, or until standard input ends."""
        while self._running:
            wait = max(0.0, self._later[0][0] - time.monotonic()) if self._later else -1
            for fd, _ in self._poll.poll(wait):
                found = self._by_fd.get(fd)
                if isinstance(found, Device):
                    self._accept(found)
                elif found is not None:
                    self._read(found)
                elif fd == _STDIN:
                    self._obey()
            self._do_later()
            self._flush()

    def _do_later(self) -> None:
        now = time.monotonic()
        while self._later and self._later[0][0] <= now:
            _, _, connection, answer = heapq.heappop(self._later)
            if connection.socket.fileno() < 0:
                continue
            if connection.refused:
                self._end(connection, "X")
            else:
                self._send(connection, answer)

    def _at(self, seconds: float, connection: Connection, answer: bytes = b"") -> None:
        self._order += 1
        entry = (time.monotonic() + seconds, self._order, connection, answer)
        heapq.heappush(self._later, entry)

    def _obey(self) -> None:
        data = os.read(_STDIN, 4096)
        if not data:
            self._running = False
        for word in data.split():
            if word == b"open":
                answer = sum(1 for device in self.devices if device.open)
            elif word == b"drop":
                answer = self._drop()
            else:
                answer = 0
                self._running = False
            self._flush()
            os.write(1, b"%d\n" % answer)

    def _drop(self) -> int:
        """Reset all connections, as devices do that lose their power for a moment."""
        dropped = [connection for device in self.devices for connection in device.open]
        for connection in dropped:
            self._end(connection, "X")
        return len(dropped)

    # -- connections

    def _accept(self, device: Device) -> None:
        try:
            sock, address = device.listener.accept()
        except OSError as error:
            if error.errno in (errno.EAGAIN, errno.ECONNABORTED):
                return
            raise
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        # What came first must be seen first: an end of the older connection that the kernel
        # holds already makes this one the only one, and its last lines belong before it.
        for older in tuple(device.open):
            self._read(older)
        self._numbers += 1
        connection = Connection(device, self._numbers, sock, f"{address[0]}:{address[1]}")
        self._by_fd[sock.fileno()] = connection
        self._poll.register(sock, select.EPOLLIN | select.EPOLLRDHUP)
        if device.open and not self._accept_second:
            connection.refused = True
            self._note(connection, "S", connection.peer)
            self._at(PATIENCE, connection)
            return
        device.open.append(connection)
        self._note(connection, "O", connection.peer)

    def _read(self, connection: Connection) -> None:
        while connection.socket.fileno() >= 0:
            try:
                data = connection.socket.recv(65536)
            except BlockingIOError:
                return
            except OSError:
                self._end(connection, "R")
                return
            if not data:
                self._end(connection, "F")
                return
            self._take(connection, data)

    def _take(self, connection: Connection, data: bytes) -> None:
        *lines, connection.rest = (connection.rest + data).split(b"\n")
        for line in lines:
            text = line.decode("ascii", "replace")
            self._note(connection, "l" if connection.refused else "L", text)
            if connection.refused:  # now it is known whose it is
                self._end(connection, "X")
                return
            self._answer(connection, text)
        if len(connection.rest) > MAX_LINE:
            self._end(connection, "X")

    def _answer(self, connection: Connection, text: str) -> None:
        words = text.split()
        if len(words) == 3 and words[0] == "HOLD":
            self._at(float(words[1]), connection, b"OK\n")
        else:
            self._send(connection, b"OK\n")

    def _send(self, connection: Connection, data: bytes) -> None:
        try:
            connection.socket.send(data)
        except BlockingIOError:
            self._end(connection, "X")  # it takes no answers
        except OSError:
            self._end(connection, "R")

    def _end(self, connection: Connection, how: str) -> None:
        if connection.socket.fileno() < 0:
            return
        self._note(connection, how, "")
        self._poll.unregister(connection.socket)
        del self._by_fd[connection.socket.fileno()]
        if how == "X":
            connection.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        connection.socket.close()
        if connection in connection.device.open:
            connection.device.open.remove(connection)

    # -- the history

    def _note(self, connection: Connection, kind: str, text: str) -> None:
        now = time.monotonic_ns()
        self._batch.append(f"{now} {connection.device.index} {connection.number} {kind} {text}\n")

    def _flush(self) -> None:
        if self._batch:
            data = "".join(self._batch).encode()
            self._batch.clear()
            while data:
                data = data[os.write(self._log, data) :]


def main() -> None:
    """Serve the devices that the arguments ask for."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--host", default="127.77.0.1")
    parser.add_argument("--port", type=int, default=10_000, help="of the first device")
    parser.add_argument("--count", type=int, default=100)
    parser.add_argument("--log", type=Path, required=True)
    parser.add_argument("--second", choices=("refuse", "accept"), default="refuse")
    given = parser.parse_args()
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    accept_second = given.second == "accept"
    devices = Devices(given.host, given.port, given.count, given.log, accept_second=accept_second)
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    devices.run()


if __name__ == "__main__":
    main()
