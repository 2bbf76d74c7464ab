"""What a supervised process is: its command, its environment, and how one knows it is ready."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Awaitable, Callable, Mapping
from enum import StrEnum
from pathlib import Path

import msgspec

Probe = Callable[[], Awaitable[bool]]

LAUNCHER = Path(__file__).with_name("launch.py")

# Variables of our own and of the engines: what was meant for `placeos up`, or for another
# installation, must not reach the programs we start (etcd takes every ETCD_* for a flag).
_PRIVATE = ("PLACEOS_", "ETCD_", "PG", "REDIS", "CADDY", "NOTIFY_SOCKET", "LISTEN_")
# Without byte code every service would compile thousands of modules at every start.
_HARMFUL = ("PYTHONDONTWRITEBYTECODE", "PYTHONINSPECT", "PYTHONSTARTUP")


class Kind(StrEnum):
    """What a process is to the platform; also the order of starting, and in reverse stopping."""

    ENGINE = "engine"
    DEVICE = "device"
    SERVICE = "service"
    INGRESS = "ingress"


class RunAs(msgspec.Struct, frozen=True):
    """Another identity for a process (see `launch.py`)."""

    uid: int
    gid: int
    capabilities: tuple[int, ...] = ()
    namespace: bool = False


class ProcessSpec(msgspec.Struct, kw_only=True, frozen=True):
    """One process to keep running.

    `env` is added to `base_environment()`. `ready` answers whether the process can be used; it
    is asked until it says yes and every few seconds from then on; None means ready once started.
    `prepare` runs before each start. Times are seconds.
    """

    name: str
    argv: tuple[str, ...]
    kind: Kind = Kind.SERVICE
    env: Mapping[str, str] = {}
    cwd: Path | None = None
    ready: Probe | None = None
    prepare: Callable[[], Awaitable[None]] | None = None
    ready_timeout: float = 60.0
    run_as: RunAs | None = None
    stop_signal: int = signal.SIGTERM
    death_signal: int = signal.SIGKILL


def base_environment(environ: Mapping[str, str] = os.environ) -> dict[str, str]:
    """The environment every process starts from: ours without what is private to somebody."""
    return {
        name: value
        for name, value in environ.items()
        if not name.startswith(_PRIVATE) and name not in _HARMFUL
    }


def launcher(*, run_as: RunAs | None = None, death_signal: int = signal.SIGKILL) -> tuple[str, ...]:
    """The words to put before a command so that it ends when this process does."""
    options = {"parent": os.getpid(), "death_signal": int(death_signal), "run_as": run_as}
    return _launch(options)


def may(run_as: RunAs | None, paths: Mapping[Path, int]) -> bool:
    """Whether a process under this identity can reach all `paths` (modes of `os.access`)."""
    checks = [[str(path), mode] for path, mode in paths.items()]
    options = {"parent": os.getpid(), "death_signal": 0, "run_as": run_as, "check": checks}
    outcome = subprocess.run(_launch(options), check=False, capture_output=True)
    return outcome.returncode == 0


def _launch(options: Mapping[str, object]) -> tuple[str, ...]:
    return (sys.executable, "-I", "-S", str(LAUNCHER), msgspec.json.encode(options).decode())
