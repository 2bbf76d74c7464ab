"""What a driver process gives up before it loads its driver: all that drivers have no need of.

Each wall is put up where the kernel offers it; what could not be reached is said and never
breaks a driver. By ctypes alone, in about a millisecond, in a process of one thread.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import sys
import tempfile
import threading
from collections.abc import Iterable
from typing import Final

import msgspec

from placeos.driver.confinement import landlock, seccomp
from placeos.driver.confinement.kernel import call, libc

FILES: Final = 65_536  # open files: ten thousand modules, several sockets each
FILE_SIZE: Final = 1 << 30  # bytes of one file
STACK: Final = 2  # MiB of each thread but the first
HEADROOM: Final = 1024  # MiB of address space beyond the limit of memory: 512 stacks of threads
SACRIFICE: Final = 500  # of 1,000: a driver is ended before the platform when memory runs out

SYSTEM_FOLDERS: Final = ("/usr", "/lib", "/lib64", "/bin", "/sbin", "/nix/store")
SYSTEM_FILES: Final = (
    "/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom",
    # names of hosts, users and services
    "/etc/resolv.conf", "/run/systemd/resolve", "/etc/hosts", "/etc/host.conf",
    "/etc/nsswitch.conf", "/etc/gai.conf", "/etc/services", "/etc/protocols", "/etc/passwd",
    "/etc/group", "/etc/mime.types",
    # libraries and certificates; not the keys that lie beside them
    "/etc/ld.so.cache", "/etc/ssl/certs", "/etc/ssl/cert.pem", "/etc/ssl/openssl.cnf",
    "/etc/pki/tls/certs", "/etc/pki/tls/cert.pem", "/etc/pki/tls/openssl.cnf",
    "/etc/pki/ca-trust/extracted", "/etc/ca-certificates", "/etc/crypto-policies",
    # time and machine
    "/etc/localtime", "/etc/timezone", "/etc/zoneinfo", "/etc/os-release",
    "/proc/self", "/proc/cpuinfo", "/proc/meminfo", "/proc/stat", "/proc/uptime",
    "/proc/loadavg", "/proc/version", "/sys/devices/system/cpu",
)  # fmt: skip

_PR_SET_PDEATHSIG: Final = 1
_PR_CAPBSET_DROP: Final = 24
_PR_SET_NO_NEW_PRIVS: Final = 38
_PR_CAP_AMBIENT: Final = 47
_PR_CAP_AMBIENT_CLEAR_ALL: Final = 4
_CAPABILITY_VERSION: Final = 0x20080522
_READ_SEARCH: Final = 1 << 2  # CAP_DAC_READ_SEARCH
_SIGKILL: Final = 9
_KILL: Final = 1 << 5  # CAP_KILL


class Confine(msgspec.Struct, omit_defaults=True):
    """How a driver process is to be confined."""

    folder: str
    """Its own folder: the only place where it may write."""
    hidden: list[str] = []
    """Folders that it may not read, wherever they lie."""
    groups: list[str] = []
    """Files of control groups to enter by."""
    memory: int = 0  # MiB; 0: no limit
    programs: bool = False  # whether it may start programs
    uid: int = 0  # of a user of its own; 0: none


def confine(asked: Confine, path: str, parent: int) -> dict[str, str]:
    """Confine this process, which will load the driver file at `path`; the level it reached.

    `parent` is the process whose end shall end this one.
    """
    level: dict[str, str] = {}
    needed = _needed(path)
    with contextlib.suppress(OSError):
        os.setsid()  # signals to groups of processes neither come nor go
    _enter(asked.groups, level)
    _settle(asked.folder)
    _limit(asked.memory)
    user = _user(asked, needed, level)
    _privileges(user, needed, level)
    die_with_parent(parent)  # again: another user is another start
    if call(libc.prctl, _PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) is not None:
        level["privileges"] += "; may gain new ones"
    level["landlock"] = landlock.restrict(
        read=_without([*SYSTEM_FOLDERS, *SYSTEM_FILES, *needed], asked.hidden),
        write=[asked.folder, "/dev/null"],
        execute=asked.programs,
    )
    filtered = seccomp.restrict(programs=asked.programs, chmod=user is not None)
    level["system calls"] = filtered
    if asked.programs:
        level["programs"] = "allowed by PLACEOS_DRIVER_PROGRAMS"
    elif filtered.startswith("no:"):
        level["programs"] = "not denied"
    else:
        level["programs"] = "denied"
    return level


def die_with_parent(parent: int) -> None:
    """Have the kernel kill this process when its parent ends. Exits if that has happened."""
    prctl(_PR_SET_PDEATHSIG, _SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


def prctl(option: int, argument: object) -> None:
    """Raises OSError."""
    error = call(libc.prctl, option, argument, 0, 0, 0)
    if error is not None:
        raise error


# -- what it needs --------------------------------------------------------------------------------


def _needed(path: str) -> list[str]:
    """Files and folders without which a driver cannot run."""
    found = [sys.prefix, sys.base_prefix, sys.exec_prefix, sys.base_exec_prefix]
    found += [entry for entry in sys.path if entry]
    found += filter(None, map(os.environ.get, ("SSL_CERT_FILE", "VIRTUAL_ENV")))
    found.append(os.path.dirname(path))
    return [entry for entry in dict.fromkeys(found) if entry != "/"]


def _without(paths: Iterable[str], hidden: Iterable[str]) -> list[str]:
    """`paths`, but instead of one that holds a hidden folder its parts beside that folder.

    What lies within a hidden folder and is named by itself stays.
    """
    secret = [os.path.realpath(folder) for folder in hidden]
    found = []
    waiting = list(paths)
    while waiting:
        path = waiting.pop()
        real = os.path.realpath(path)
        if any(_holds(real, folder) for folder in secret):
            with contextlib.suppress(OSError):
                waiting += [entry.path for entry in os.scandir(real) if not entry.is_symlink()]
        elif real not in secret:
            found.append(path)
    return found


def _holds(folder: str, other: str) -> bool:
    return other.startswith(folder.rstrip("/") + "/")


def _unreadable(paths: Iterable[str], uid: int, own: str = "") -> str | None:
    """Which of these a user without privileges and groups cannot read, by owner and mode.

    The folder `own` will belong to that user: only the way there must be open.
    """
    passed: set[str] = {own}
    for path in [*paths, os.path.dirname(own)]:
        if not os.path.exists(path):
            continue
        place = os.path.realpath(path)
        need = 1 if path == os.path.dirname(own) else 4 if os.path.isfile(place) else 5
        while place not in passed:
            passed.add(place)
            facts = os.stat(place)
            shift = 6 if facts.st_uid == uid else 3 if uid == 0 and facts.st_gid == 0 else 0
            if (facts.st_mode >> shift) & need != need:
                return place
            need = 1
            place = os.path.dirname(place)
    return None


# -- walls ----------------------------------------------------------------------------------------


def _enter(groups: Iterable[str], level: dict[str, str]) -> None:
    """Core says which limits its groups keep; only a failure is told here."""
    for file in groups:
        try:
            with open(file, "wb", buffering=0) as procs:
                procs.write(b"0")
        except OSError as error:
            level["control groups"] = f"no: {error.strerror}"
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w") as score:
        score.write(str(SACRIFICE))


def _settle(folder: str) -> None:
    """Its own folder is where it is, its home and the place of its temporary files."""
    os.umask(0o077)
    os.chdir(folder)
    os.environ["HOME"] = os.environ["TMPDIR"] = folder
    tempfile.tempdir = None


def _limit(memory: int) -> None:
    limits = [
        (resource.RLIMIT_NOFILE, FILES),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_FSIZE, FILE_SIZE),
    ]
    if memory:
        threading.stack_size(STACK << 20)
        limits.append((resource.RLIMIT_DATA, (memory + HEADROOM) << 20))
    for kind, most in limits:
        _, hard = resource.getrlimit(kind)
        value = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(kind, (value, value))


def _user(asked: Confine, needed: list[str], level: dict[str, str]) -> int | None:
    """Become a user of its own, if this is root and that user could read what is needed."""
    if os.geteuid() != 0:
        level["user"] = "no: core does not run as root"
        return None
    if not _may_kill():  # nor may its parent, whose end then would not end it
        level["user"] = "no: it could not be ended by its parent, which lacks CAP_KILL"
        return None
    if not asked.uid:
        level["user"] = "no: none was given"
        return None
    samples = [str(module.__file__) for module in (msgspec, contextlib)]
    obstacle = _unreadable([*needed, *samples], asked.uid, asked.folder)
    if obstacle is not None:
        level["user"] = f"no: {obstacle} cannot be read by others"
        return None
    try:
        os.chown(asked.folder, asked.uid, asked.uid)
        os.setgroups([])
        os.setresgid(asked.uid, asked.uid, asked.uid)
        os.setresuid(asked.uid, asked.uid, asked.uid)
    except OSError as error:
        level["user"] = f"no: {error.strerror}"
        return None
    level["user"] = f"{asked.uid}, of its own"
    return asked.uid


def _may_kill() -> bool:
    """Whether this process, and so its parent, may end those of another user."""
    with open("/proc/self/status") as status:
        effective = next(line for line in status if line.startswith("CapEff:"))
    return bool(int(effective.split()[1], 16) & _KILL)


def _privileges(user: int | None, needed: list[str], level: dict[str, str]) -> None:
    """Give up all capabilities of the superuser."""
    kept = 0
    level["privileges"] = "none"
    if user is None and os.geteuid() == 0:
        obstacle = _unreadable(needed, 0)
        if obstacle is not None:  # somebody else's folder
            kept = _READ_SEARCH
            level["privileges"] = f"reading others' files, for {obstacle}"
    for capability in range(64):
        if call(libc.prctl, _PR_CAPBSET_DROP, capability, 0, 0, 0) is not None:
            break  # the last one, or not permitted and therefore without any
    call(libc.prctl, _PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0)
    header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION, 0)
    sets = (ctypes.c_uint32 * 6)(kept, kept, 0, 0, 0, 0)  # effective, permitted, inheritable
    error = call(libc.capset, header, sets)
    if error is not None:
        level["privileges"] = f"no: not given up: {error.strerror}"
