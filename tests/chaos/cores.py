"""Core processes that the suite itself starts, hurts and ends: no supervisor brings them back."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import psutil

from placeos.local.process import base_environment, launcher

HANG = Path(__file__).with_name("hang.py")


class CoreProcess:
    """One core: `python -m placeos.core` with the environment that `placeos up` gives it.

    `prefix` is put before the command: `ip netns exec NAME`.
    """

    def __init__(
        self, name: str, environment: Mapping[str, str], log: Path, prefix: Sequence[str] = ()
    ) -> None:
        self.name = name
        self.environment = dict(environment)
        self._argv: tuple[str, ...] = ()
        self._log = log
        self._prefix = tuple(prefix)
        self._process: subprocess.Popen[bytes] | None = None
        self._stopped: list[psutil.Process] = []

    def start(self, argv: Sequence[str]) -> None:
        """Start it; it dies with this process."""
        if self.alive:
            raise RuntimeError(f"{self.name} runs already")
        folder = Path(self.environment["PLACEOS_DATA"])
        folder.mkdir(parents=True, exist_ok=True)
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [*launcher(), *self._prefix, *argv],
                env=base_environment() | self.environment,
                cwd=folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    @property
    def alive(self) -> bool:
        """Whether it runs (or is stopped, but there)."""
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int:
        """Of the core itself. Raises RuntimeError if it was never started."""
        if self._process is None:
            raise RuntimeError(f"{self.name} was never started")
        return self._process.pid

    def family(self) -> list[psutil.Process]:
        """The core, its fork parents and driver processes."""
        try:
            own = psutil.Process(self.pid)
            return [own, *own.children(recursive=True)]
        except psutil.NoSuchProcess:
            return []

    # -- harm

    def kill(self) -> None:
        """`kill -9` of the core alone, as the kernel would for want of memory."""
        self._signal(signal.SIGKILL)

    def terminate(self) -> None:
        """Ask it to hand over and go."""
        self._signal(signal.SIGTERM)

    def stop(self, *, alone: bool = False) -> None:
        """Freeze it with all its processes, as a machine freezes, or only the core itself."""
        family = self.family()
        self._stopped = family[:1] if alone else family
        for process in self._stopped:
            with suppress(psutil.NoSuchProcess):
                process.suspend()

    def hang(self, seconds: float) -> subprocess.Popen[str]:
        """Hold its main thread for some time; returns, once it is held, the program that does."""
        command = [sys.executable, str(HANG), str(self.pid), f"{seconds:g}"]
        helper = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert helper.stdout is not None
        if helper.stdout.readline() != "held\n":
            raise RuntimeError(f"the loop of {self.name} could not be held (see above)")
        return helper

    def go_on(self) -> None:
        """Let everything that still exists run again."""
        for process in self._stopped:
            with suppress(psutil.NoSuchProcess):
                process.resume()
        self._stopped = []

    def wait(self, seconds: float) -> bool:
        """Whether it ended in time."""
        assert self._process is not None
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(seconds)
        return not self.alive

    def end(self) -> None:
        """Leave nothing behind."""
        if self._process is None:
            return
        family = self.family()
        for process in family:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        if self.alive:
            self._process.kill()
            self._process.wait()
        deadline = time.monotonic() + 5
        while any(_exists(process) for process in family) and time.monotonic() < deadline:
            time.sleep(0.02)

    def _signal(self, number: int) -> None:
        if self.alive:
            os.kill(self.pid, number)


def _exists(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
