"""Past its deadline a core does not exist: neither it, nor its fork parents, nor any driver
process, nor a program that a driver started; frozen or not."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest

from placeos.core.process.fence import KILL_AFTER, NEVER, Fence
from placeos.driver.fencing.page import Page, now

LIMIT = 8.0  # seconds
SLACK = 0.5  # seconds in which the kernel has killed a chain of processes
DRIVER = """
import asyncio, subprocess
from pathlib import Path
from placeos.driver import Logic

class Tried(Logic):
    pass

{start}
Path("loaded").write_text("yes")
"""
START = """
mark = Path.cwd().name
command = f"sh -c 'sleep 1000; : inner {mark}' & : outer {mark}; wait"
subprocess.Popen(["/bin/sh", "-c", command])
"""
SCRIPT = Path(__file__).parent / "fenced_core.py"


def alive(pid: int) -> bool:
    """Whether it still runs; one that is dead and not yet reaped does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


def running(mark: str) -> list[int]:
    """Shells whose command names this."""
    found = []
    for place in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            command = place.read_bytes()
        except OSError:  # it has ended
            continue
        if mark.encode() in command and b"sh\0-c" in command:
            found.append(int(place.parent.name))
    return found


def rests(pid: int) -> int:
    """How often it has gone to sleep: once more after it has done what it was woken for."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("\nvoluntary_ctxt_switches:")[2].split()[0])


def until(condition: Callable[[], object], what: str) -> None:
    """Wait for it."""
    end = time.monotonic() + LIMIT
    while not condition():
        assert time.monotonic() < end, what
        time.sleep(0.01)


class Chain:
    """A core, its fork parent, a driver process and perhaps a program."""

    def __init__(self, folder: Path, *how: str, programs: bool = False) -> None:
        driver = folder / "tried.py"
        driver.write_text(DRIVER.format(start=START if programs else ""))
        driver.chmod(0o644)
        arguments = [folder / "work", driver, "programs" if programs else "-", *how]
        self.process = subprocess.Popen(
            [sys.executable, SCRIPT, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout is not None
        told = msgspec.json.decode(self.process.stdout.readline())
        self.core, self.parent, self.child = self.process.pid, told["parent"], told["child"]
        self.pids = [self.core, self.parent, self.child]
        until(lambda: list(folder.glob("work/*/loaded")), "the driver was not loaded")
        if programs:
            mark = next(folder.glob("work/*/loaded")).parent.name
            until(lambda: len(running(mark)) == 2, "the programs do not run")
            self.pids += running(mark)
        assert all(map(alive, self.pids))

    def user(self) -> int:
        """That of the driver process."""
        status = Path(f"/proc/{self.child}/status").read_text()
        return int(status.partition("Uid:")[2].split()[0])

    def extend(self, seconds: float) -> None:
        """Move the deadline on, from a thread of core."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{seconds}\n")
        self.process.stdin.flush()
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == "extended\n"

    def send(self, number: int, *pids: int) -> None:
        for pid in pids:
            os.kill(pid, number)

    def is_gone(self) -> None:
        """Wait until none of it runs."""
        until(lambda: not any(map(alive, self.pids)), f"alive: {[*filter(alive, self.pids)]}")

    def close(self) -> None:
        for pid in self.pids:
            if alive(pid):
                os.kill(pid, signal.SIGKILL)
        self.process.kill()
        self.process.communicate()


@pytest.fixture
def folder() -> Iterator[Path]:
    """One that every user may enter, as that of drivers is."""
    made = Path(tempfile.mkdtemp(prefix="fence-"))
    made.chmod(0o755)
    yield made
    shutil.rmtree(made, ignore_errors=True)


@pytest.fixture
def chain(folder):
    """Makes one; none of it outlives the test."""
    made: list[Chain] = []

    def make(*how: str, programs: bool = False) -> Chain:
        made.append(Chain(folder, *how, programs=programs))
        return made[-1]

    yield make
    for one in made:
        one.close()


FROZEN = {
    "nobody": [],
    "core": ["core"],
    "parent": ["parent"],
    "child": ["child"],
    "all": ["core", "parent", "child"],
}


@pytest.mark.parametrize("frozen", FROZEN.values(), ids=FROZEN)
def test_all_of_it_ends_with_the_deadline(chain, frozen):
    it = chain()
    it.extend(0.7)
    began = time.monotonic()
    it.send(signal.SIGSTOP, *(getattr(it, name) for name in frozen))
    it.is_gone()
    assert time.monotonic() - began < 0.7 + KILL_AFTER + SLACK


@pytest.mark.parametrize("killed", ["core", "parent"])
@pytest.mark.parametrize("frozen", FROZEN.values(), ids=FROZEN)
def test_who_ends_takes_along_what_it_started(chain, killed, frozen):
    it = chain()
    it.send(signal.SIGSTOP, *(getattr(it, name) for name in frozen))
    it.send(signal.SIGKILL, getattr(it, killed))
    if killed == "parent":
        until(lambda: not alive(it.child), "the driver process outlives its parent")
        assert alive(it.core)
    else:
        it.is_gone()


BEFORE = "confining.die_with_parent = lambda parent: None"
"""Breaks the rule: then the death signal is only set before the change of user."""


def foreign_python() -> str:
    """A Python of our version that every user may read; "" if there is none."""
    for place in ("/usr/bin", "/usr/local/bin"):
        found = shutil.which(f"python{sys.version_info.major}.{sys.version_info.minor}", path=place)
        if found:
            return found
    return ""


@pytest.mark.skipif(os.geteuid() != 0, reason="a user of its own is given by root only")
@pytest.mark.skipif(not foreign_python(), reason="no Python that another user may read")
@pytest.mark.parametrize("broken", ["", BEFORE], ids=["kept", "broken"])
def test_a_driver_process_of_another_user_dies_with_its_parent(chain, broken):
    """The death signal is lost at a change of user, and is set again after it."""
    path = [entry for entry in sys.path if entry and Path(entry).name != "lib-dynload"]
    ours = [entry for entry in path if not entry.startswith(sys.base_prefix)]
    first = f"import sys; sys.path[:0] = {ours}\n"
    first += "import placeos.driver.parent\n"  # which has its own name for what is broken here
    first += f"from placeos.driver.confinement import confine as confining\n{broken}"
    it = chain(foreign_python(), first)
    if it.user() == 0:
        pytest.skip("the parts of this installation cannot be read by another user")
    it.send(signal.SIGSTOP, it.core, it.child)  # core would clear away what is left
    it.send(signal.SIGKILL, it.parent)
    if broken:
        time.sleep(SLACK)
        assert alive(it.child)
    else:
        until(lambda: not alive(it.child), "the driver process outlives its parent")


@pytest.mark.skipif(os.geteuid() != 0, reason="pid namespaces are for root")
@pytest.mark.parametrize("killed", ["core", "parent", "child"])
def test_programs_end_with_their_driver_however_deep(chain, killed):
    it = chain(programs=True)
    it.send(signal.SIGSTOP, *it.pids)
    it.send(signal.SIGKILL, getattr(it, killed))
    until(lambda: not any(map(alive, it.pids[2:])), "they outlive it")


@pytest.mark.skipif(os.geteuid() != 0, reason="pid namespaces are for root")
def test_programs_end_with_the_deadline(chain):
    it = chain(programs=True)
    it.extend(0.9)
    it.send(signal.SIGSTOP, *it.pids)
    it.is_gone()


NO_TIMER = "from placeos.driver.fencing import timer; timer.KillTimer.arm = lambda *_: None"


def test_without_its_timer_a_stopped_parent_would_live_on(chain):
    """What the next test would see if that rule were broken."""
    it = chain(sys.executable, NO_TIMER)
    it.extend(0.2)
    it.send(signal.SIGSTOP, it.parent)
    it.extend(1000)
    time.sleep(0.2 + KILL_AFTER + SLACK)
    assert alive(it.parent)
    assert alive(it.child)


def test_a_parent_is_killed_by_its_own_timer(chain):
    """Core goes on; what its parent and the driver processes had is lost with the deadline."""
    it = chain()
    before = rests(it.parent)
    it.extend(0.7)
    until(lambda: rests(it.parent) > before, "the parent was not woken")
    it.send(signal.SIGSTOP, it.parent)
    it.extend(1000)
    until(lambda: not alive(it.parent), "a stopped parent lives")
    until(lambda: not alive(it.child), "the driver process outlives its parent")
    assert alive(it.core)


def test_deadlines_that_move_on_keep_all_of_it_alive(chain):
    it = chain()
    end = time.monotonic() + 2.5
    while time.monotonic() < end:
        it.extend(0.5)
        time.sleep(0.1)
    assert all(map(alive, it.pids))
    it.is_gone()


def test_a_core_whose_place_nobody_takes_has_no_deadline(chain):
    it = chain()
    it.extend(NEVER / 1e9 - 10 * 365 * 86_400)
    time.sleep(KILL_AFTER + SLACK)
    assert all(map(alive, it.pids))


# -- in this process, which lives as long as the deadline is far away ------------------------------


@pytest.fixture
def fence():
    made = Fence()
    yield made
    made.close()


def test_nothing_is_allowed_before_the_first_extend(fence):
    page = Page(fence.descriptor)
    assert (page.lease, page.extended) == (0, 0)
    soon = now() + 60_000_000_000
    fence.extend(soon, soon + 1)
    assert (page.lease, page.extended) == (soon, soon + 1)
    page.close()


def test_what_was_granted_is_not_taken_back(fence):
    soon = now() + 60_000_000_000
    fence.extend(soon, soon + 10)
    fence.extend(soon - 5, soon + 5)
    assert (fence.lease, fence.extended) == (soon, soon + 10)
    fence.extend(soon + 5, soon + 5)
    assert (fence.lease, fence.extended) == (soon + 5, soon + 10)


def test_an_extension_before_the_lease_is_refused(fence):
    with pytest.raises(ValueError, match="before that of the lease"):
        fence.extend(NEVER, NEVER - 1)
    assert fence.extended == 0


def test_a_parent_that_reads_nothing_holds_up_nobody(fence):
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        fence.watch(ours)
        soon = now() + 60_000_000_000
        for more in range(2_000):
            fence.extend(soon, soon + more)
        assert fence.extended == soon + 1_999
        assert msgspec.json.decode(theirs.recv(100)) == {"look": True}
        fence.forget(ours)


def test_after_the_end_nothing_is_allowed(fence):
    page = Page(fence.descriptor)
    fence.extend(NEVER, NEVER)
    fence.close()
    fence.extend(NEVER, NEVER)
    assert (page.lease, page.extended) == (0, 0)
    page.close()
