"""What a confined process can and cannot do, tried in a real one."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from placeos.driver.confinement import confine as confining
from placeos.driver.confinement import seccomp

TRY = """
import asyncio, ctypes, fcntl, json, multiprocessing, os, resource, signal, socket, subprocess, sys
import ssl, tempfile, threading, time
from placeos.driver.confinement.confine import Confine, confine

asked, path, outside, victim = json.loads(sys.argv[1])
parent = os.getpid()
listener = socket.socket()
listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
listener.bind(("127.0.0.1", 0))
listener.listen()
service = listener.getsockname()
child = os.fork()
if child:
    sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
began = time.process_time()
level = confine(Confine(**asked), path, parent)
found = {"level": level, "seconds": time.process_time() - began}

def attempt(name, function, *arguments):
    try:
        found[name] = ["done", str(function(*arguments))]
    except Exception as error:
        found[name] = [type(error).__name__, str(error)]

def threads():
    one = threading.Thread(target=lambda: None)
    one.start()
    one.join()

async def in_thread():
    await asyncio.to_thread(lambda: None)
    await asyncio.get_running_loop().getaddrinfo("localhost", 80)

def forked():
    child = os.fork()
    if child == 0:
        os._exit(0)
    os.waitpid(child, 0)

def raw_fork():
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.syscall(56 if os.uname().machine == "x86_64" else 220, 17, 0, 0, 0, 0) == 0:
        os._exit(0)
    return ctypes.get_errno()

attempt("fork", forked)
attempt("raw fork", raw_fork)
attempt("program", subprocess.run, ["true"])
attempt("multiprocessing", multiprocessing.Process(target=print).start)
attempt("thread", threads)
attempt("asyncio thread", lambda: asyncio.run(in_thread()))
attempt("shadow", lambda: open("/etc/shadow").read())
attempt("secret", lambda: open(outside + "/secret").read())
attempt("write", lambda: open(outside + "/new", "w"))
attempt("list", os.listdir, outside)
attempt("remove", os.unlink, outside + "/secret")
attempt("chmod", os.chmod, outside + "/secret", 0o777)
attempt("environ", lambda: open(f"/proc/{parent}/environ").read())
attempt("memory", lambda: open(f"/proc/{parent}/mem", "rb"))
attempt("signal", os.kill, parent, 0)
attempt("signal all", os.kill, -1, 0)
attempt("signal itself", os.kill, os.getpid(), 0)
attempt("limits of others", resource.prlimit, parent, resource.RLIMIT_NOFILE, (10, 10))
attempt("priority of others", os.setpriority, os.PRIO_USER, 0, 19)
attempt("ptrace", lambda: ctypes.CDLL(None).ptrace(16, victim, 0, 0))
attempt("local socket", socket.socket, socket.AF_UNIX)
def share_a_port():
    thief = socket.socket()
    thief.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    thief.bind(service)
    thief.listen()

def reuse_an_address():
    own = socket.socket()
    own.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    own.bind(("127.0.0.1", 0))

def signal_for_a_file():
    fcntl.fcntl(os.pipe()[0], fcntl.F_SETOWN, parent)

def datagrams():
    socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)[0].sendto(b"x", outside + "/socket")

attempt("port of others", share_a_port)
attempt("own port", reuse_an_address)
attempt("signal for a file", signal_for_a_file)
attempt("socket file", datagrams)
attempt("socket pair", socket.socketpair)
attempt("lock", lambda: fcntl.flock(tempfile.TemporaryFile(), fcntl.LOCK_UN))
attempt("memory in a file", os.memfd_create, "x")
attempt("socket", socket.socket)
attempt("own driver", lambda: open(path).read())
attempt("own folder", lambda: tempfile.NamedTemporaryFile().name)
attempt("certificates", lambda: ssl.create_default_context().cert_store_stats()["x509"])
attempt("hosts", lambda: open("/etc/hosts").read())
attempt("new library", lambda: __import__("xml.dom.minidom"))
attempt("much memory", lambda: len(bytearray(3 << 30)))
attempt("file", lambda: os.ftruncate(tempfile.TemporaryFile().fileno(), 2 << 30))
sys.stdout.write(json.dumps(found))
sys.stdout.flush()
os._exit(0)
"""
DENIED = {"PermissionError"}


class Tried:
    """What a confined process told; walls that are not here are skipped, with the reason."""

    def __init__(self, found: dict) -> None:
        self.level = found["level"]
        self.seconds = found["seconds"]
        self._found = found

    def outcome(self, name: str) -> str:
        return self._found[name][0]

    def text(self, name: str) -> str:
        return self._found[name][1]

    def needs(self, wall: str) -> None:
        if self.level[wall].startswith("no:"):
            pytest.skip(f"{wall}: {self.level[wall]}")


def tried(folder: Path, **asked: object) -> Tried:
    own, outside = folder / "own", folder / "outside"
    driver = folder / "drivers" / "driver.py"
    for one in (own, outside, driver.parent):
        one.mkdir()
    driver.write_text("# a driver")
    (outside / "secret").write_text("secret")
    given = [{"folder": str(own), "memory": 256, **asked}, str(driver), str(outside), os.getpid()]
    done = subprocess.run(
        [sys.executable, "-P", "-c", textwrap.dedent(TRY), json.dumps(given)],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return Tried(json.loads(done.stdout))


@pytest.fixture(scope="module")
def found(tmp_path_factory) -> Tried:
    return tried(tmp_path_factory.mktemp("confined"))


@pytest.mark.parametrize("name", ["fork", "program", "multiprocessing"])
def test_no_other_process(found, name):
    found.needs("system calls")
    assert found.outcome(name) in DENIED
    assert found.level["programs"] == "denied"


def test_no_other_process_by_the_bare_system_call(found):
    found.needs("system calls")
    assert found.text("raw fork") == "1"  # EPERM


@pytest.mark.parametrize(
    "name", ["secret", "shadow", "write", "list", "remove", "environ", "memory"]
)
def test_no_files_of_others(found, name):
    found.needs("landlock")
    assert found.outcome(name) in DENIED


@pytest.mark.parametrize(
    "name", ["chmod", "signal", "signal all", "limits of others", "priority of others"]
)
def test_nothing_is_done_to_others(found, name):
    found.needs("system calls")
    assert found.outcome(name) in DENIED


def test_nobody_is_traced(found):
    found.needs("system calls")
    assert found.text("ptrace") == "-1"


def test_no_lock_is_let_go(found):
    """Each process holds core's lock of its data folder."""
    found.needs("system calls")
    assert "not implemented" in found.text("lock")


def test_no_memory_beside_its_own(found):
    found.needs("system calls")
    assert "not implemented" in found.text("memory in a file")


def test_no_local_service_by_its_file(found):
    found.needs("system calls")
    assert found.outcome("local socket") == "OSError"


@pytest.mark.parametrize(
    "name",
    ["thread", "asyncio thread", "socket", "own driver", "own folder", "certificates", "hosts",
     "new library", "signal itself"],
)  # fmt: skip
def test_what_drivers_need_works(found, name):
    assert found.outcome(name) == "done", found.text(name)


def test_no_part_of_what_a_service_is_sent(found):
    """A second listener at its port would get every other connection, with its passwords."""
    found.needs("system calls")
    assert "Protocol not available" in found.text("port of others")
    assert found.outcome("own port") == "done", found.text("own port")


def test_no_way_round_by_sockets_or_files(found):
    found.needs("system calls")
    assert "not supported" in found.text("socket file")
    assert found.outcome("socket pair") == "done"
    assert found.outcome("signal for a file") in DENIED


def test_temporary_files_are_in_its_own_folder(found):
    assert "/own/" in found.text("own folder")


def test_memory_and_files_are_bounded(found):
    assert found.outcome("much memory") == "MemoryError"
    assert found.outcome("file") == "OSError"


def test_it_costs_little(found):
    assert found.seconds < 0.05  # a few milliseconds on a quiet machine


def test_programs_can_be_allowed(tmp_path):
    found = tried(tmp_path, programs=True)
    assert found.outcome("fork") == "done"
    assert found.outcome("program") == "done", found.text("program")
    assert found.level["programs"].startswith("allowed")
    if not found.level["landlock"].startswith("no:"):
        assert found.outcome("secret") in DENIED


def test_hidden_folders_stay_hidden_within_readable_ones(tmp_path, monkeypatch):
    hidden, beside = tmp_path / "a" / "data", tmp_path / "a" / "library"
    for folder in (hidden, beside):
        folder.mkdir(parents=True)
    own = hidden / "environment"
    own.mkdir()
    left = confining._without([str(tmp_path), str(own), str(hidden)], [str(hidden)])
    assert sorted(left) == sorted([str(beside), str(own)])


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_an_own_user_only_where_it_can_read_what_is_needed(tmp_path):
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    (closed / "library").mkdir()
    own = tmp_path / "own"
    own.mkdir()
    for folder in [*tmp_path.parents, tmp_path]:
        if folder.stat().st_mode & 0o001 == 0:
            assert confining._unreadable([str(folder / "x")], 61_200) is None  # there is none
    assert confining._unreadable([str(closed / "library")], 61_200) == str(closed)
    assert confining._unreadable(["/usr", "/etc/hosts"], 61_200) is None
    assert confining._unreadable([str(closed / "library")], 0) is None


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
@pytest.mark.parametrize("programs", [False, True])
def test_filters_of_all_processors(machine, programs):
    """Every path through the filter ends with a return; jumps stay within."""
    code = seccomp.assemble(machine, 4711, programs=programs, chmod=False)
    assert len(code) < 4096
    for place, (operation, true, false, _) in enumerate(code):
        if operation & 0x07 == 0x05:
            assert place + 1 + max(true, false) < len(code)
    assert _decide(code, machine, _number(machine, "read")) == seccomp._ALLOW
    execve = _decide(code, machine, seccomp._PROGRAMS["execve"][_column(machine)])
    assert (execve == seccomp._ALLOW) is programs
    kill = seccomp._OWN["kill"][_column(machine)]
    assert _decide(code, machine, kill, 4711) == seccomp._ALLOW
    assert (_decide(code, machine, kill, 1) == seccomp._ALLOW) is programs
    clone = _number(machine, "clone")
    assert _decide(code, machine, clone, 0x3D0F00) == seccomp._ALLOW  # a thread
    assert (_decide(code, machine, clone, 0x11) == seccomp._ALLOW) is programs
    for options, result in _with_arguments(machine).items():
        assert (_decide(code, machine, *options) == seccomp._ALLOW) is result, options
    other = "aarch64" if machine == "x86_64" else "x86_64"
    assert _decide(code, other, 0) == seccomp._KILL


def _with_arguments(machine: str) -> dict[tuple[int, ...], bool]:
    """Calls with their arguments, and whether they are allowed."""
    pair, option, control = ((53, 54, 72), (199, 208, 25))[_column(machine)]
    return {
        (pair, 1, socket.SOCK_STREAM): True,
        (pair, 1, socket.SOCK_STREAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK): True,
        (pair, 1, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC): False,
        (option, 3, socket.SOL_SOCKET, socket.SO_REUSEADDR): True,
        (option, 3, socket.SOL_SOCKET, socket.SO_REUSEPORT): False,
        (option, 3, socket.IPPROTO_TCP, 15): True,
        (control, 3, 4): True,
        (control, 3, 8): False,
        (control, 3, 15): False,
    }


def _column(machine: str) -> int:
    return seccomp._ARCHITECTURES[machine][1]


def _number(machine: str, name: str) -> int:
    return {"read": (0, 63), "clone": (56, 220)}[name][_column(machine)]


def _decide(code: list, machine: str, number: int, *arguments: int) -> int:
    """Run the filter as the kernel would."""
    data = {0: number, 4: seccomp._ARCHITECTURES[machine][0]}
    data |= {16 + 8 * place: value for place, value in enumerate(arguments)}
    held, place = 0, 0
    while True:
        operation, true, false, operand = code[place]
        place += 1
        if operation == seccomp._RETURN:
            return operand
        if operation == seccomp._LOAD:
            held = data.get(operand, 0)
            continue
        holds = {
            seccomp._IF_EQUAL: held == operand,
            seccomp._IF_AT_LEAST: held >= operand,
            seccomp._IF_SET: bool(held & operand),
        }[operation]
        place += true if holds else false


def test_sockets_to_the_network_only():
    code = seccomp.assemble("x86_64", 1, programs=False, chmod=False)
    for family in (socket.AF_INET, socket.AF_INET6):
        assert _decide(code, "x86_64", 41, family) == seccomp._ALLOW
    for family in (socket.AF_UNIX, 17, 38, 40):
        assert _decide(code, "x86_64", 41, family) != seccomp._ALLOW
