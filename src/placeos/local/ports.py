"""Free TCP ports, remembered from one start to the next."""

from __future__ import annotations

import random
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

# Below the range from which kernels take ports for outgoing connections.
_RANGE = range(20_000, 32_000)


class PortTakenError(Exception):
    """No free port where one was needed; the message says which were tried."""


def is_free(port: int, host: str = "127.0.0.1") -> bool:
    """Whether a server could listen there now."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
        return True


@contextmanager
def front_door(wanted: int | None, default: int, *, public: bool) -> Iterator[int]:
    """The port of the front door: `wanted`, or else `default` or the next that is free.

    It is held against another `placeos up` that chooses at the same moment: Caddy itself would
    share it without a word. Raises PortTakenError.
    """
    ports = range(default, default + 200) if wanted is None else [wanted]
    for port in ports:
        if not _door_free(port, public):
            continue
        with _held(port) as held:
            if held:
                yield port
                return
    if wanted is None:
        raise PortTakenError(f"no free port from {default} on")
    why = "is taken by another program" if _may_listen(wanted) else "is not for ordinary users"
    raise PortTakenError(
        f"port {wanted} {why}; choose another with --port, "
        "or leave out --port to take one that is free"
    )


def _may_listen(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except PermissionError:
            return False
        except OSError:
            return True
        return True


def _door_free(port: int, public: bool) -> bool:
    """Free wherever a browser may look: `localhost` may mean either loopback address."""
    hosts = ["127.0.0.1", "0.0.0.0"] if public else ["127.0.0.1"]  # noqa: S104 - asked, not bound
    if _has_ipv6():
        hosts.append("::1")
    return all(is_free(port, host) for host in hosts)


def _has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return False
    return True


@contextmanager
def _held(port: int) -> Iterator[bool]:
    """Hold a name that only one process of the machine can have; the kernel lets go of it."""
    if sys.platform != "linux":
        yield True
        return
    with socket.socket(socket.AF_UNIX) as holder:
        try:
            holder.bind(f"\0placeos-front-door-{port}")
        except OSError:
            yield False
        else:
            yield True


class Ports:
    """Ports by name, kept in a file so that addresses stay the same over restarts.

    A remembered port that somebody else took meanwhile is replaced.
    """

    def __init__(self, file: Path) -> None:
        self._file = file
        self._ports: dict[str, int] = {}
        try:
            self._ports = msgspec.json.decode(file.read_bytes(), type=dict[str, int])
        except (OSError, msgspec.DecodeError):
            self._ports = {}  # first start, or an unreadable memory: choose anew

    def take(self, name: str) -> int:
        """A port that is free now, for `name`, never the same for two names."""
        remembered = self._ports.get(name)
        if remembered is not None and is_free(remembered):
            return remembered
        port = self._choose()
        self._ports[name] = port
        self._save()
        return port

    def forget(self, name: str) -> None:
        """Choose another port for `name` next time."""
        self._ports.pop(name, None)

    def _choose(self) -> int:
        used = set(self._ports.values())
        for _ in range(1000):
            port = random.choice(_RANGE)  # noqa: S311 - no secret
            if port not in used and is_free(port):
                return port
        raise PortTakenError(f"no free port between {_RANGE.start} and {_RANGE.stop}")

    def _save(self) -> None:
        self._file.parent.mkdir(parents=True, exist_ok=True)
        draft = self._file.with_suffix(".new")
        draft.write_bytes(msgspec.json.format(msgspec.json.encode(self._ports)))
        draft.replace(self._file)
