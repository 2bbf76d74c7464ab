"""Driver processes as core sees them: forked, used, broken, ended."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from contextlib import asynccontextmanager

import msgspec
import pytest

from placeos.driver.testing import CallError, drive
from placeos.driver.testing.core import PlayedCore
from placeos.driver.testing.parent import ForkParent
from placeos.wire.errors import Failure
from placeos.wire.frame import Clearance, Command, Header

LIMIT = 5.0

CALLS = """
    import asyncio, os, sys
    from placeos.driver import Logic, Settings, DriverError, support, administrator, timeout

    class Calls(Logic[Settings]):
        async def started(self):
            self["entered"] = 0

        async def add(self, a: int, b: int = 1) -> int:
            return a + b

        def plain(self) -> str:
            return "plain"

        @support
        async def mend(self) -> None: ...

        @administrator
        async def erase(self) -> None: ...

        async def who(self) -> str | None:
            return self.user

        async def count(self) -> int:
            for number in range(100):
                self["counted"] = number + 1
            return self["counted"]

        async def hang(self) -> None:
            self["entered"] += 1
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                self["cancelled"] = True
                raise

        @timeout(0.1)
        async def short(self) -> None:
            await asyncio.sleep(60)

        async def refuse(self) -> None:
            raise DriverError("not on a Sunday", code=409)

        async def fail(self) -> None:
            raise ValueError("no luck")

        async def leave(self) -> None:
            sys.exit(9)

        async def odd(self) -> object:
            return object()

        async def huge(self) -> str:
            return "x" * (17 * 1024 * 1024)

        async def die(self) -> None:
            os._exit(7)
"""


@asynccontextmanager
async def forked(file):
    """A driver process without a module: parent, played core, process id."""
    core = PlayedCore()
    async with ForkParent() as parent:
        pid = await parent.fork(str(file), core)
        try:
            yield parent, core, pid
        finally:
            await core.close()


async def gone(pid: int) -> None:
    """Wait until a process is no more."""
    async with asyncio.timeout(LIMIT):
        while True:
            try:
                os.kill(pid, 0)
            except ProcessLookupError:
                return
            await asyncio.sleep(0.01)


UNUSABLE = {
    "def broken(:\n    pass\n": "tried.py:1: SyntaxError: ",
    "x = 1\nimport no_such_thing\n": "tried.py:2: ModuleNotFoundError: No module named 'no_such",
    "x = 1\n\nraise ValueError('no luck today')\n": "tried.py:3: ValueError: no luck today",
    "import sys\nsys.exit(0)\n": "tried.py:2: DriverError: the driver tried to exit",
    "raise KeyboardInterrupt\n": "tried.py:1: KeyboardInterrupt",
    "x = 1\n": "tried.py: no class in it derives from placeos.driver.Driver",
    "from placeos.driver import Logic\nclass A(Logic): ...\nclass B(Logic): ...\n": (
        "tried.py:3: a file holds one driver, this one several: A (line 2), B (line 3)"
    ),
    "from placeos.driver import Logic\nclass A(Logic):\n    transport = Logic()\n": (
        "tried.py:2: transport must be such as TCP(…), or None for logic"
    ),
    "from placeos.driver import Logic\nfrom placeos.driver.interfaces import Powerable\n"
    "class A(Logic, Powerable): ...\n": (
        "tried.py:3: A.power: A is Powerable but does not define power: power(state: bool)"
    ),
    "from placeos.driver import Logic\nclass A(Logic):\n    async def f(self, x): ...\n": (
        "tried.py:3: argument 'x' of 'f' has no type"
    ),
    "from placeos.driver import Logic\nclass A(Logic):\n    async def f(self, x: Nope): ...\n": (
        "tried.py:3: NameError: name 'Nope' is not defined"
    ),
    "from placeos.driver import Logic\nclass A(Logic):\n    async def send(self): ...\n": (
        "tried.py:2: send is what the SDK offers a driver; call yours differently"
    ),
    "from placeos.driver import Logic, every\nclass A(Logic):\n    @every('poll')\n"
    "    async def f(self): ...\n": "tried.py:3: @every('poll'), but Settings has no such setting",
    "from placeos.driver import Logic, every\nclass A(Logic):\n    @every(1)\n"
    "    async def f(self, x: int): ...\n": "tried.py:3: @every calls f without: missing",
    "from placeos.driver import Logic, on\nclass A(Logic):\n    @on('a')\n"
    "    async def f(self, x: int, y: int): ...\n": "tried.py:3: f is called with the new value",
}


@pytest.mark.parametrize("text", UNUSABLE, ids=lambda text: UNUSABLE[text][:40])
async def test_unusable_file(write_driver, text):
    async with forked(write_driver(text)) as (parent, core, pid):
        assert await parent.exited(pid) == 3
        assert core.faults
        assert core.faults[0].startswith(UNUSABLE[text]), core.faults
        assert core.defaults is None


async def test_file_that_is_missing(tmp_path):
    async with forked(tmp_path / "missing.py") as (parent, core, pid):
        assert await parent.exited(pid) == 3
        assert "missing.py" in core.faults[0]


async def test_file_that_ends_the_process(write_driver):
    async with forked(write_driver("import os\nos._exit(5)\n")) as (parent, core, pid):
        assert await parent.exited(pid) == 5
        assert core.faults == []


async def test_several_processes_of_one_parent(write_driver):
    file = write_driver(CALLS)
    async with ForkParent() as parent:
        cores = [PlayedCore() for _ in range(5)]
        pids = [await parent.fork(str(file), core) for core in cores]
        await asyncio.gather(*(core.ready() for core in cores))
        assert len(set(pids)) == 5
        os.kill(pids[0], signal.SIGKILL)
        assert await parent.exited(pids[0]) == -signal.SIGKILL
        cores[1].terminate()
        assert await parent.exited(pids[1]) == 0
        await cores[2].close()  # core went away
        assert await parent.exited(pids[2]) == 0
        for core in cores:
            await core.close()


async def test_no_process_outlives_core(write_driver):
    """The parent ends its children when its socket closes, and the kernel does if it cannot."""
    file = write_driver(CALLS)
    async with ForkParent() as parent:
        core = PlayedCore()
        pid = await parent.fork(str(file), core)
        await core.ready()
    await gone(pid)
    await core.close()
    async with ForkParent() as parent:
        core = PlayedCore()
        pid = await parent.fork(str(file), core)
        await core.ready()
        os.kill(parent.pid, signal.SIGKILL)
        await gone(pid)
        await core.close()


async def test_signals_for_the_whole_group_leave_the_end_to_core(write_driver):
    async with forked(write_driver(CALLS)) as (parent, core, pid):
        await core.ready()
        for target in (parent.pid, pid):
            for number in (signal.SIGINT, signal.SIGTERM):
                os.kill(target, number)
        await core.ask(Header(Command.PING), b"1", LIMIT)
        core.terminate()
        assert await parent.exited(pid) == 0


async def test_calls(write_driver):
    async with drive(write_driver(CALLS)) as calls:
        assert await calls.exec("add", 1) == 2
        assert await calls.exec("add", a=1, b=5) == 6
        assert await calls.exec("plain") == "plain"
        assert await calls.exec("who") is None
        assert await calls.exec("who", user="user-1") == "user-1"


async def test_whoever_has_the_answer_has_the_state(write_driver):
    async with drive(write_driver(CALLS)) as calls:
        for _ in range(20):
            assert await calls.exec("count") == 100
            assert calls.state["counted"] == 100


@pytest.mark.parametrize(
    ("function", "clearance", "allowed"),
    [
        ("mend", Clearance.USER, False),
        ("mend", Clearance.SUPPORT, True),
        ("erase", Clearance.SUPPORT, False),
        ("erase", Clearance.ADMINISTRATOR, True),
        ("plain", Clearance.USER, True),
    ],
)
async def test_clearance(write_driver, function, clearance, allowed):
    async with drive(write_driver(CALLS)) as calls:
        call = calls.exec(function, clearance=clearance)
        if allowed:
            await call
        else:
            with pytest.raises(CallError, match="attempted to access privileged") as caught:
                await call
            assert caught.value.failure == Failure.ACCESS_DENIED
            assert caught.value.code == 401


@pytest.mark.parametrize(
    ("function", "failure", "code", "kind", "message"),
    [
        ("nope", Failure.FUNCTION_NOT_FOUND, 400, "", "could not find function nope"),
        ("started", Failure.FUNCTION_NOT_FOUND, 400, "", "could not find function started"),
        ("add", Failure.BAD_ARGUMENTS, 400, "", "missing argument 'a'"),
        ("refuse", Failure.RAISED, 409, "DriverError", "not on a Sunday"),
        ("fail", Failure.RAISED, 500, "ValueError", "no luck"),
        ("leave", Failure.RAISED, 500, "DriverError", "tried to exit"),
        ("huge", Failure.RAISED, 500, "", "too large"),
        ("short", Failure.TIMED_OUT, 408, "", "'short' did not end within 0.1 s"),
    ],
)
async def test_failures(write_driver, function, failure, code, kind, message):
    async with drive(write_driver(CALLS)) as calls:
        with pytest.raises(CallError) as caught:
            await calls.exec(function)
        error = caught.value
        assert (error.failure, error.code, error.kind) == (failure, code, kind)
        assert message in error.message
        if kind == "ValueError":
            assert error.backtrace[-1].endswith("in fail")
        assert await calls.exec("plain") == "plain"


async def test_result_that_is_no_json(write_driver):
    async with drive(write_driver(CALLS)) as calls:
        assert await calls.exec("odd") is None


async def test_module_that_is_not_there(write_driver):
    async with drive(write_driver(CALLS)) as calls:
        header = Header(Command.EXECUTE, module="mod-other", function="plain")
        with pytest.raises(CallError, match="could not find module"):
            await calls.core.ask(header, b"[]", LIMIT)


async def test_caller_that_is_gone(write_driver):
    async with drive(write_driver(CALLS)) as calls:
        call = calls.exec("hang")
        await calls.status("entered", 1)
        call.cancel()
        await calls.status("cancelled", True)


async def test_deadline_of_the_caller(write_driver):
    async with drive(write_driver(CALLS)) as calls:
        for seconds in (0.2, 1, 4):  # a busy machine may not even enter it in so short a time
            with pytest.raises(CallError) as caught:
                await calls.exec("hang", timeout=seconds)
            assert caught.value.failure == Failure.TIMED_OUT
            if calls.state["entered"]:
                break
        await calls.status("cancelled", True)


async def test_stop_cancels_what_runs(write_driver):
    async with drive(write_driver(CALLS)) as calls:
        call = calls.exec("hang")
        await calls.status("entered", 1)
        began = time.monotonic()
        await calls.stop()
        assert time.monotonic() - began < 3  # it would hang for a minute
        with pytest.raises(CallError) as caught:
            await call
        assert caught.value.failure == Failure.MAY_HAVE_RUN
        assert calls.state["cancelled"] is True
        await calls.stop()  # again: nothing to do
        with pytest.raises(CallError, match="could not find module"):
            await calls.exec("plain")


async def test_process_that_dies_in_a_call(write_driver):
    file = write_driver(CALLS)
    async with ForkParent() as parent:
        core = PlayedCore()
        pid = await parent.fork(str(file), core)
        await core.ready()
        start = b'{"id":"mod-1","name":"Calls","role":99}'
        await core.ask(Header(Command.START), start, LIMIT)
        with pytest.raises(CallError) as caught:
            await core.ask(Header(Command.EXECUTE, module="mod-1", function="die"), b"[]", LIMIT)
        assert caught.value.failure == Failure.MAY_HAVE_RUN
        assert await parent.exited(pid) == 7
        await core.close()


async def test_malformed_requests(write_driver):
    async with drive(write_driver(CALLS)) as calls:
        for command, payload in (
            (Command.START, b"{"),
            (Command.START, b"[]"),
            (Command.UPDATE, b'{"id": 5}'),
            (Command.LOAD, b""),
            (Command.JOBS, b""),
        ):
            with pytest.raises(CallError) as caught:
                await calls.core.ask(Header(command), payload, LIMIT)
            assert caught.value.failure == Failure.BAD_REQUEST
        assert await calls.exec("plain") == "plain"


async def test_blocked_loop_shows_its_stack(write_driver, capfd, tmp_path):
    blocking = """
        import pathlib, time
        from placeos.driver import Logic

        class Blocking(Logic):
            async def block(self, folder: str) -> str:
                self._sleep(pathlib.Path(folder))
                return "done"

            def _sleep(self, folder) -> None:
                (folder / "blocked").touch()
                while not (folder / "free").exists():
                    time.sleep(0.01)
    """
    async with forked(write_driver(blocking)) as (_, core, pid):
        await core.ready()
        start = b'{"id":"mod-1","name":"Blocking","role":99}'
        await core.ask(Header(Command.START), start, LIMIT)
        header = Header(Command.EXECUTE, module="mod-1", function="block")
        arguments = msgspec.json.encode([str(tmp_path)])
        call = asyncio.create_task(core.ask(header, arguments, 30))
        said = ""
        try:
            async with asyncio.timeout(20):
                while not (tmp_path / "blocked").exists():
                    await asyncio.sleep(0.01)
                os.kill(pid, signal.SIGUSR1)
                while "in _sleep" not in said:
                    await asyncio.sleep(0.01)
                    said += capfd.readouterr().err
        finally:
            (tmp_path / "free").touch()
        assert await call == "done"
