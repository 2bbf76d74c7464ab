"""Programs that a test starts, freezes and kills; they end with it."""

from __future__ import annotations

import asyncio
import signal
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from placeos.local.process import RunAs, base_environment, launcher


async def until(
    condition: Callable[[], Awaitable[object] | object], timeout: float = 20.0, every: float = 0.02
) -> None:
    """Wait until the condition (plain or awaitable) holds; fails after `timeout` seconds."""
    async with asyncio.timeout(timeout):
        while True:
            found = condition()
            if isinstance(found, Awaitable):
                found = await found
            if found:
                return
            await asyncio.sleep(every)


@asynccontextmanager
async def running(*loops: Coroutine[object, object, None]) -> AsyncIterator[None]:
    """Run them beside the block; cancelled at its end, however it ends."""
    tasks = [asyncio.create_task(loop) for loop in loops]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


class Program:
    """One program with its log; started and ended any number of times."""

    def __init__(
        self,
        argv: Sequence[str],
        log: Path,
        *,
        env: Mapping[str, str] | None = None,
        run_as: RunAs | None = None,
        stop_signal: int = signal.SIGTERM,
    ) -> None:
        self.argv = list(argv)
        self.log = log
        self._env = base_environment() | dict(env or {})
        self._run_as = run_as
        self._stop_signal = stop_signal
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def runs(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        assert not self.runs
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [*launcher(run_as=self._run_as), *self.argv],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=self._env,
                cwd=self.log.parent,
            )

    def kill(self) -> None:
        """As a power cut would."""
        self._end(signal.SIGKILL)

    async def stop(self) -> None:
        """Ask it to end, and wait."""
        if self.runs:
            self.thaw()
            assert self._process is not None
            self._process.send_signal(self._stop_signal)
            await until(lambda: not self.runs)

    def freeze(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def _end(self, number: int) -> None:
        if self._process is not None:
            self._process.send_signal(number)
            self._process.wait()
