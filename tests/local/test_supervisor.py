"""The supervisor, with real processes."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
import textwrap
import time
from pathlib import Path

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from placeos.local.logs import LogFile
from placeos.local.process import Kind, ProcessSpec, base_environment
from placeos.local.supervisor import StartFailedError, State, Supervisor, backoff


def script(code: str, name: str = "job", **options: object) -> ProcessSpec:
    """A process that runs a piece of Python."""
    argv = (sys.executable, "-c", textwrap.dedent(code))
    return ProcessSpec(name=name, argv=argv, **options)  # type: ignore[arg-type]


SLEEP = "import time\ntime.sleep(600)"
STUBBORN = """
    import signal, time
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    print("stubborn", flush=True)
    time.sleep(600)
"""


async def test_starts_and_stops(tmp_path, lives):
    async with Supervisor(tmp_path) as supervisor:
        await supervisor.start(script(SLEEP, "a"), script(SLEEP, "b"))
        pids = supervisor.pids()
        assert set(pids) == {"a", "b"}
        assert all(lives(pid) for pid in pids.values())
        assert {item.state for item in supervisor} == {State.READY}
    assert not any(lives(pid) for pid in pids.values())


async def test_ready_is_waited_for(tmp_path):
    flag = tmp_path / "flag"

    async def ready() -> bool:
        return flag.exists()

    code = f"import time\ntime.sleep(0.3)\nopen({str(flag)!r}, 'w')\ntime.sleep(600)"
    async with Supervisor(tmp_path / "logs") as supervisor:
        await supervisor.start(script(code, ready=ready))
        assert flag.exists()


async def test_one_that_is_never_ready_fails_with_its_last_words(tmp_path):
    async def ready() -> bool:
        return False

    # A shell speaks sooner than Python does, and it has three tries of a second each.
    spec = ProcessSpec(
        name="job",
        argv=("/bin/sh", "-c", "echo I am lost; sleep 600"),
        ready=ready,
        ready_timeout=1.0,
    )
    async with Supervisor(tmp_path) as supervisor:
        with pytest.raises(StartFailedError, match=r"(?s)was not ready after 1 s.*I am lost"):
            await supervisor.start(spec)


async def test_one_that_ends_at_once_fails_with_its_last_words(tmp_path):
    async with Supervisor(tmp_path) as supervisor:
        with pytest.raises(StartFailedError, match=r"(?s)job ended with status 3.*no such thing"):
            await supervisor.start(
                script(
                    "import sys\nprint('no such thing', file=sys.stderr)\nsys.exit(3)",
                    ready=_never,
                )
            )


async def _never() -> bool:
    return False


async def test_restarts_what_dies_and_says_so(tmp_path, until):
    events: list[str] = []
    async with Supervisor(tmp_path, on_event=events.append) as supervisor:
        await supervisor.start(script(SLEEP))
        first = supervisor.pids()["job"]
        os.kill(first, signal.SIGKILL)
        await until(lambda: supervisor.pids().get("job", first) != first)
        await until(lambda: len(events) == 2)
    assert events == ["job was killed by SIGKILL; starting it again", "job is back"]


async def test_kills_what_does_not_stop_in_time(tmp_path, lives, until):
    async with Supervisor(tmp_path) as supervisor:
        await supervisor.start(script(STUBBORN))
        log = tmp_path / "job.log"
        await until(lambda: b"stubborn" in log.read_bytes())
        pid = supervisor.pids()["job"]
        started = time.monotonic()
    assert time.monotonic() - started < 5
    assert not lives(pid)


async def test_a_frozen_process_is_stopped_too(tmp_path, lives):
    async with Supervisor(tmp_path) as supervisor:
        await supervisor.start(script(SLEEP))
        pid = supervisor.pids()["job"]
        os.kill(pid, signal.SIGSTOP)
    assert not lives(pid)


async def test_a_service_that_falls_silent_is_replaced(tmp_path, until, monkeypatch):
    monkeypatch.setattr("placeos.local.supervisor.SILENCE", 0.2)
    monkeypatch.setattr("placeos.local.supervisor.WATCH_EVERY", 0.05)
    silent: set[int] = set()
    events: list[str] = []

    async def ready() -> bool:
        return supervisor.pids().get("job") not in silent

    async with Supervisor(tmp_path, on_event=events.append) as supervisor:
        await supervisor.start(script(SLEEP, ready=ready))
        first = supervisor.pids()["job"]
        silent.add(first)
        await until(lambda: supervisor.pids().get("job", first) != first)
        await until(lambda: "job is back" in events)
    assert events[0].startswith("job has not answered")


async def test_stops_in_reverse_order_of_kinds(tmp_path, monkeypatch):
    # The order is what counts here: nobody may be killed before it could write its line.
    monkeypatch.setattr("placeos.local.supervisor._SHARE", dict.fromkeys(Kind, 10.0))
    ends = tmp_path / "ends"
    code = f"""
        import signal, sys, time
        def end(*_):
            with open({str(ends)!r}, "a") as file:
                file.write(sys.argv[1] + "\\n")
            sys.exit()
        signal.signal(signal.SIGTERM, end)
        print("up", flush=True)
        time.sleep(600)
    """
    order = [Kind.ENGINE, Kind.DEVICE, Kind.SERVICE, Kind.INGRESS]
    async with Supervisor(tmp_path / "logs") as supervisor:
        specs = []
        for kind in order:
            spec = script(code, kind.value, kind=kind, ready=_said_up(tmp_path, kind.value))
            specs.append(msgspec_replace(spec, argv=(*spec.argv, kind.value)))
        await supervisor.start(*specs)
    assert ends.read_text().split() == [kind.value for kind in reversed(order)]


def msgspec_replace(spec: ProcessSpec, **changes: object) -> ProcessSpec:
    import msgspec

    return msgspec.structs.replace(spec, **changes)


def _said_up(folder: Path, name: str):
    async def ready() -> bool:
        return b"up" in (folder / "logs" / f"{name}.log").read_bytes()

    return ready


async def test_children_of_a_process_go_with_it(tmp_path, lives, until):
    code = """
        import subprocess, sys, time
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
        print(child.pid, flush=True)
        time.sleep(600)
    """
    async with Supervisor(tmp_path) as supervisor:
        await supervisor.start(script(code))
        log = tmp_path / "job.log"
        await until(lambda: log.read_bytes().endswith(b"\n"))
        child = int(log.read_text())
        os.kill(supervisor.pids()["job"], signal.SIGKILL)
        await until(lambda: not lives(child))


async def test_nothing_outlives_a_killed_supervisor(tmp_path, lives, until):
    code = f"""
        import asyncio, sys
        from pathlib import Path
        from placeos.local.process import ProcessSpec
        from placeos.local.supervisor import Supervisor

        async def main():
            async with Supervisor(Path({str(tmp_path)!r})) as supervisor:
                argv = (sys.executable, "-c", "import time; time.sleep(600)")
                await supervisor.start(*(ProcessSpec(name=n, argv=argv) for n in "abc"))
                print(*supervisor.pids().values(), flush=True)
                await asyncio.sleep(600)

        asyncio.run(main())
    """
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", textwrap.dedent(code), stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    pids = [int(word) for word in (await process.stdout.readline()).split()]
    assert len(pids) == 3
    assert all(lives(pid) for pid in pids)
    process.kill()
    await process.wait()
    await until(lambda: not any(lives(pid) for pid in pids))


async def test_variables_meant_for_others_do_not_leak(tmp_path, monkeypatch, until):
    for name in ("PLACEOS_DATA", "ETCD_NAME", "PGPASSWORD", "REDIS_URL"):
        monkeypatch.setenv(name, "leaked")
    code = "import os, time\nprint(sorted(os.environ.items()), flush=True)\ntime.sleep(600)"
    async with Supervisor(tmp_path) as supervisor:
        await supervisor.start(
            script(code, env=base_environment(os.environ) | {"PLACEOS_DATA": "meant"})
        )
        log = tmp_path / "job.log"
        await until(lambda: log.read_bytes().endswith(b"\n"))
    assert "leaked" not in log.read_text()
    assert "('PLACEOS_DATA', 'meant')" in log.read_text()


async def test_no_process_stays_behind_when_starting_is_cancelled(tmp_path, until):
    code = f"{SLEEP}  # {tmp_path}"

    def running() -> list[int]:
        """Told by its words: the engines of other tests, children as well, make processes too."""
        found = []
        for child in psutil.Process().children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess):
                if any(str(tmp_path) in word for word in child.cmdline()):
                    found.append(child.pid)
        return found

    async def run() -> None:
        async with Supervisor(tmp_path) as supervisor:
            await supervisor.start(script(code, ready=_never))

    task = asyncio.create_task(run())
    await until(running)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not running()


def test_log_files_are_bounded(tmp_path):
    log = LogFile(tmp_path / "x.log", limit=1000)
    for number in range(1000):
        log.write(f"line {number}\n".encode())
    log.close()
    sizes = {file.name: file.stat().st_size for file in tmp_path.iterdir()}
    assert set(sizes) == {"x.log", "x.log.1"}
    assert all(size <= 1000 for size in sizes.values())
    assert log.tail(2) == ["line 998", "line 999"]


@given(st.integers(1, 10_000))
def test_backoff_grows_and_is_bounded(failures):
    assert 0 < backoff(failures) <= backoff(failures + 1) <= 30
