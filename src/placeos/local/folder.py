"""The data folder of a local platform: where things are in it, and whose it is."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec


class FolderTakenError(Exception):
    """Another `placeos up` runs on the data folder; the message says where."""


class Note(msgspec.Struct):
    """What the holder of the lock says about itself."""

    pid: int
    url: str = ""


class Folder:
    """Paths below one data folder. Nothing outside it is kept."""

    def __init__(self, path: Path) -> None:
        self.path = path.absolute()
        self.secrets = self.path / "secrets"
        self.logs = self.path / "logs"
        self.ingress = self.path / "ingress"
        self.ports = self.path / "ports.json"

    def create(self) -> None:
        """Make what is missing. Only the owner may look inside.

        Root's folder may be passed through, since PostgreSQL's lies in it and runs as another
        user; what is private is closed one level below.
        """
        if not self.path.exists():
            self.path.mkdir(parents=True)
            self.path.chmod(0o711 if os.geteuid() == 0 else 0o700)
        for private in (self.secrets, self.logs, self.ingress):
            private.mkdir(mode=0o700, exist_ok=True)

    def of(self, service: str) -> Path:
        """The private folder of one service, made if missing."""
        place = self.path / service
        place.mkdir(mode=0o700, exist_ok=True)
        return place


class Lock:
    """The hold on a data folder; `say` leaves word for those who come later."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def say(self, url: str) -> None:
        """Note where we can be found."""
        text = msgspec.json.encode(Note(pid=os.getpid(), url=url))
        os.ftruncate(self._descriptor, 0)
        os.pwrite(self._descriptor, text, 0)


@contextmanager
def locked(folder: Folder) -> Iterator[Lock]:
    """Hold the folder for this process alone. Raises FolderTakenError.

    The kernel lets go when the process ends in whatever way; children do not inherit the hold.
    """
    descriptor = os.open(folder.path / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise FolderTakenError(_who(descriptor, folder)) from None
        lock = Lock(descriptor)
        lock.say("")
        yield lock
        os.ftruncate(descriptor, 0)
    finally:
        os.close(descriptor)


def _who(descriptor: int, folder: Folder) -> str:
    try:
        note = msgspec.json.decode(os.pread(descriptor, 4096, 0), type=Note)
    except msgspec.DecodeError:
        note = Note(pid=0)
    where = f" at {note.url}" if note.url else ""
    pid = f" (process {note.pid})" if note.pid else ""
    return (
        f"PlaceOS already runs{where} on the data folder {folder.path}{pid}. "
        "Stop it there with Ctrl-C, or give another folder with --data."
    )
