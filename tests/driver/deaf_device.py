"""A device that takes a connection and reads only when it is told to, on a thread of its own."""

from __future__ import annotations

import array
import fcntl
import socket
import termios


class DeafDevice:
    """Listens on a port of this machine."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._listener.settimeout(10)
        self.connection: socket.socket | None = None

    def accept(self) -> None:
        """Wait for the connection."""
        self.connection, _ = self._listener.accept()
        self.connection.settimeout(10)

    def has(self) -> int:
        """Bytes that have arrived and were not read."""
        assert self.connection is not None
        found = array.array("i", [0])
        fcntl.ioctl(self.connection, termios.FIONREAD, found)
        return found[0]

    def read(self) -> tuple[bytes, str]:
        """All that comes, and how it ended: `end` or `reset`."""
        assert self.connection is not None
        got = bytearray()
        try:
            while piece := self.connection.recv(65_536):
                got += piece
        except ConnectionResetError:
            return bytes(got), "reset"
        return bytes(got), "end"

    def close(self) -> None:
        self._listener.close()
        if self.connection is not None:
            self.connection.close()
