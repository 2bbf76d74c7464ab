"""Starting the simulated devices, and following their log while it grows."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

from history import ENDS, Event, Kind, carried, parse

DEVICES = Path(__file__).with_name("devices.py")


class DeviceLog:
    """Reads what was appended; knows which connection each device has now, and whose it is."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._offset = 0
        self._rest = ""
        self._pending: list[Event] = []  # read, and not yet taken
        self.open: dict[int, Event] = {}  # by number: connections, in the order of their opening
        self._pids: dict[int, int] = {}  # by number of an open one: of the process that said hello
        self.last_change = 0  # when a connection was last opened or ended

    def look(self) -> None:
        """Read what is new."""
        with self.path.open() as file:
            file.seek(self._offset)
            text = self._rest + file.read()
            self._offset = file.tell()
        *lines, self._rest = text.split("\n")
        for event in parse(lines):
            self._pending.append(event)
            self._follow(event)

    def take(self) -> list[Event]:
        """All events since the last time."""
        self.look()
        taken, self._pending = self._pending, []
        return taken

    def begin(self, at: int) -> list[Event]:
        """Forget what was; the connections that are open, as events of this moment."""
        self.take()
        return carried(self.open.values(), at)

    @property
    def pids(self) -> dict[int, int]:
        """By device, the process that holds its youngest connection, once it has said hello."""
        return {
            event.device: self._pids[number]
            for number, event in self.open.items()
            if number in self._pids
        }

    def _follow(self, event: Event) -> None:
        if event.kind is Kind.OPENED:
            self.open[event.connection] = event
            self.last_change = event.at
        elif event.kind in ENDS:
            if self.open.pop(event.connection, None) is not None:
                self.last_change = event.at
            self._pids.pop(event.connection, None)
        elif event.kind is Kind.LINE and event.text.startswith("HELLO "):
            self._pids[event.connection] = int(event.text.split()[1])


class Devices:
    """The process of `devices.py`."""

    def __init__(
        self, log: Path, count: int, *, host: str, port: int = 10_000, second: str = "refuse"
    ) -> None:
        self.count = count
        self.host = host
        self.port = port
        log.touch()
        self.log = DeviceLog(log)
        command = [sys.executable, str(DEVICES), "--host", host, "--port", str(port)]
        command += ["--count", str(count), "--log", str(log), "--second", second]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        if self._read() != "ready":
            raise RuntimeError(f"the simulated devices did not start (see above): {command}")

    def addresses(self) -> Iterable[tuple[str, int]]:
        """Host and port of each."""
        return [(self.host, self.port + index) for index in range(self.count)]

    def drop(self) -> int:
        """All devices reset their connections; how many."""
        return self._ask("drop")

    def close(self) -> None:
        """End them."""
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()

    def _ask(self, word: str) -> int:
        assert self._process.stdin is not None
        self._process.stdin.write(word + "\n")
        self._process.stdin.flush()
        return int(self._read())

    def _read(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()
