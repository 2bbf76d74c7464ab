"""Which system calls a driver has no need of, refused by a seccomp filter.

A driver computes and talks to its device. It starts no process, looks into none, touches none
but itself, changes nothing of the machine, and speaks to no local service by its file.
Sources: linux/seccomp.h, linux/filter.h, the kernel's tables of system calls.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct
from typing import Final

from placeos.driver.confinement.kernel import libc, system_call

Instruction = tuple[int, int, int, int]  # code, jump if true, jump if false, operand

_ARCHITECTURES: Final = {"x86_64": (0xC000003E, 0), "aarch64": (0xC00000B7, 1)}
"""How the kernel calls them, and the column of the tables below."""
_X32: Final = 0x40000000  # x86_64: calls of another ABI have numbers from here on
_SECCOMP: Final = {"x86_64": 317, "aarch64": 277}

_LOAD: Final = 0x20  # the word at an offset
_IF_EQUAL: Final = 0x15
_IF_AT_LEAST: Final = 0x35
_IF_SET: Final = 0x45
_RETURN: Final = 0x06
_NUMBER: Final = 0  # offsets in seccomp_data
_ARCHITECTURE: Final = 4
_ARGUMENTS: Final = 16
_ALLOW: Final = 0x7FFF0000
_KILL: Final = 0x80000000
_ERRNO: Final = 0x00050000

_CLONE_THREAD: Final = 0x00010000
_PR_SET_PDEATHSIG: Final = 1
_SET_OWNER: Final = (8, 15)  # F_SETOWN, F_SETOWN_EX of fcntl: who gets a signal for a file
_SET_OWNER_IOCTL: Final = (0x8901, 0x8902)  # FIOSETOWN, SIOCSPGRP: the same
_SOCKET: Final = 1  # SOL_SOCKET
_REUSE_PORT: Final = 15  # SO_REUSEPORT: to take part of what a service of the same user is sent
_PAIRS: Final = tuple(
    kind | flags for kind in (1, 5) for flags in (0, 0x800, 0x80000, 0x80800)
)  # streams and packets; a pair of datagram sockets could send to any socket file
_FAMILIES: Final = (2, 10, 16)  # sockets: IPv4, IPv6, netlink (getaddrinfo lists interfaces)

_PROGRAMS: Final = {
    "fork": (57, None), "vfork": (58, None), "execve": (59, 221), "execveat": (322, 281),
}  # fmt: skip
_NEVER: Final = {
    # other processes
    "ptrace": (101, 117), "process_vm_readv": (310, 270), "process_vm_writev": (311, 271),
    "pidfd_getfd": (438, 438), "pidfd_send_signal": (424, 424), "kcmp": (312, 272),
    "process_madvise": (440, 440), "process_mrelease": (448, 448),
    "migrate_pages": (256, 238), "move_pages": (279, 239), "ioprio_set": (251, 30),
    # namespaces and mounts
    "unshare": (272, 97), "setns": (308, 268), "chroot": (161, 51), "pivot_root": (155, 41),
    "mount": (165, 40), "umount2": (166, 39), "open_tree": (428, 428), "move_mount": (429, 429),
    "fsopen": (430, 430), "fsconfig": (431, 431), "fsmount": (432, 432), "fspick": (433, 433),
    "mount_setattr": (442, 442), "open_by_handle_at": (304, 265),
    # the machine
    "swapon": (167, 224), "swapoff": (168, 225), "reboot": (169, 142), "acct": (163, 89),
    "syslog": (103, 116), "quotactl": (179, 60), "kexec_load": (246, 104),
    "kexec_file_load": (320, 294), "init_module": (175, 105), "finit_module": (313, 273),
    "delete_module": (176, 106),
    # doors into the kernel
    "bpf": (321, 280), "perf_event_open": (298, 241), "userfaultfd": (323, 282),
    "add_key": (248, 217), "request_key": (249, 218), "keyctl": (250, 219),
}  # fmt: skip
_CHMOD: Final = {
    "chmod": (90, None), "fchmod": (91, 52), "fchmodat": (268, 53), "fchmodat2": (452, 452),
}  # fmt: skip
"""Landlock does not watch over modes: as the same user a driver could close core's files."""
_ABSENT: Final = {
    "io_uring_setup": (425, 425),  # does what the filter does not see
    "clone3": (435, 435),  # its flags cannot be seen either; libc takes `clone` instead
    # memory that outlives its maker, or that no limit counts
    "memfd_create": (319, 279), "memfd_secret": (447, 447), "shmget": (29, 194),
    "semget": (64, 190), "msgget": (68, 186), "mq_open": (240, 180),
    "flock": (73, 32),  # each process holds core's lock, and could end it for all of them
}  # fmt: skip
_OWN: Final = {
    "kill": (62, 129), "tkill": (200, 130), "tgkill": (234, 131),
    "rt_sigqueueinfo": (129, 138), "rt_tgsigqueueinfo": (297, 240),
}  # fmt: skip
"""First argument: this process. Programs are other ones; those Landlock keeps apart."""
_OWN_OR_ZERO: Final = {
    "prlimit64": (302, 261), "sched_setparam": (142, 118), "sched_setscheduler": (144, 119),
    "sched_setattr": (314, 274), "sched_setaffinity": (203, 122),
}  # fmt: skip
"""First argument: this process, or 0 for it."""


def restrict(*, programs: bool, chmod: bool) -> str:
    """Refuse from now on; what was reached. `programs`: may be started; `chmod`: is allowed."""
    machine = os.uname().machine
    if machine not in _ARCHITECTURES or ctypes.sizeof(ctypes.c_void_p) != 8:
        return f"no: not known for {machine}"
    filters = assemble(machine, os.getpid(), programs=programs, chmod=chmod)
    packed = b"".join(struct.pack("HBBI", *one) for one in filters)
    code = ctypes.create_string_buffer(packed, len(packed))
    program = struct.pack("HxxxxxxP", len(filters), ctypes.addressof(code))
    for flags in (4, 0):  # 4: leave the processor's guesses as they are; not known by all
        try:
            system_call(_SECCOMP[machine], 1, flags, ctypes.c_char_p(program))
        except OSError as error:
            reason = error.strerror
        else:
            return "filtered by seccomp"
    if libc.prctl(22, 2, ctypes.c_char_p(program), 0, 0) == 0:  # kernels without that call
        return "filtered by seccomp"
    return f"no: {reason}"


def assemble(machine: str, pid: int, *, programs: bool, chmod: bool) -> list[Instruction]:
    """The filter as a program of the kernel's machine."""
    architecture, column = _ARCHITECTURES[machine]
    never = {**_NEVER, **({} if programs else _PROGRAMS), **({} if chmod else _CHMOD)}
    code: list[Instruction] = [
        (_LOAD, 0, 0, _ARCHITECTURE),
        (_IF_EQUAL, 1, 0, architecture),
        (_RETURN, 0, 0, _KILL),
        (_LOAD, 0, 0, _NUMBER),
    ]
    if machine == "x86_64":
        code += [(_IF_AT_LEAST, 0, 1, _X32), _refuse(errno.ENOSYS)]
    for table, number in ((never, errno.EPERM), (_ABSENT, errno.ENOSYS)):
        for numbers in table.values():
            code += _on(numbers[column], [_refuse(number)])
    if not programs:
        code += _on((56, 220)[column], _if_set(_CLONE_THREAD))
    for numbers in () if programs else _OWN.values():
        code += _on(numbers[column], _among(0, (pid,)))
    for numbers in _OWN_OR_ZERO.values():
        code += _on(numbers[column], _among(0, (0, pid)))
    one_process = [(_LOAD, 0, 0, _ARGUMENTS), (_IF_EQUAL, 1, 0, 0), _refuse(errno.EPERM)]
    code += _on((141, 140)[column], [*one_process, *_among(1, (0, pid))])  # setpriority
    code += _on((41, 198)[column], _among(0, _FAMILIES, errno.EAFNOSUPPORT))  # socket
    code += _on((53, 199)[column], _among(1, _PAIRS, errno.EAFNOSUPPORT))  # socketpair
    code += _on((157, 167)[column], _not(0, (_PR_SET_PDEATHSIG,)))  # prctl
    code += _on((72, 25)[column], _not(1, _SET_OWNER))  # fcntl
    code += _on((16, 29)[column], _not(1, _SET_OWNER_IOCTL))
    # setsockopt; libraries go on without it where a system does not know it
    port = _not(2, (_REUSE_PORT,), errno.ENOPROTOOPT)
    level = [(_LOAD, 0, 0, _ARGUMENTS + 8), (_IF_EQUAL, 1, 0, _SOCKET), (_RETURN, 0, 0, _ALLOW)]
    code += _on((54, 208)[column], [*level, *port])
    return [*code, (_RETURN, 0, 0, _ALLOW)]


def _refuse(number: int) -> Instruction:
    return (_RETURN, 0, 0, _ERRNO | number)


def _on(number: int | None, then: list[Instruction]) -> list[Instruction]:
    """For one system call, whose code ends with a return."""
    if number is None:
        return []
    return [(_IF_EQUAL, 0, len(then), number), *then]


def _among(argument: int, values: tuple[int, ...], number: int = errno.EPERM) -> list[Instruction]:
    """Allowed if an argument (its lower half) is one of these."""
    tests = [(_IF_EQUAL, len(values) - place, 0, value) for place, value in enumerate(values)]
    load = (_LOAD, 0, 0, _ARGUMENTS + 8 * argument)
    return [load, *tests, _refuse(number), (_RETURN, 0, 0, _ALLOW)]


def _if_set(bits: int) -> list[Instruction]:
    return [
        (_LOAD, 0, 0, _ARGUMENTS),
        (_IF_SET, 1, 0, bits),
        _refuse(errno.EPERM),
        (_RETURN, 0, 0, _ALLOW),
    ]


def _not(argument: int, values: tuple[int, ...], number: int = errno.EPERM) -> list[Instruction]:
    """Refused if an argument (its lower half) is one of these."""
    tests = [(_IF_EQUAL, len(values) - place, 0, value) for place, value in enumerate(values)]
    load = (_LOAD, 0, 0, _ARGUMENTS + 8 * argument)
    return [load, *tests, (_RETURN, 0, 0, _ALLOW), _refuse(number)]
