"""Become another program, tied to the life of the process that started it.

Run as a script, before any of our packages: `python -I -S launch.py OPTIONS PROGRAM ARGUMENT…`,
where OPTIONS is a JSON object:

* `parent`: pid of the starter; when that is not (any more) our parent, end at once
* `death_signal`: what the kernel sends to the program when the starter dies
* `run_as`: `{uid, gid, capabilities, namespace}`, or null to stay who we are
* `check`: instead of starting a program, `[[path, mode], …]` to test under that identity
  (exit status 0: all accessible)

Everything is set between fork and exec in this small process, so the starter needs no code of
its own there. The order matters: the kernel forgets the death signal on any change of identity.
"""

import ctypes
import json
import os
import sys

PR_SET_PDEATHSIG = 1
PR_SET_SECUREBITS = 28
PR_CAP_AMBIENT = 47
PR_CAP_AMBIENT_RAISE = 2
SECBIT_NO_SETUID_FIXUP = 1 << 2
CLONE_NEWUSER = 0x10000000
LINUX_CAPABILITY_VERSION_3 = 0x20080522
CANNOT_START = 126


class CapabilityHeader(ctypes.Structure):
    """`struct __user_cap_header_struct` of linux/capability.h."""

    _fields_ = (("version", ctypes.c_uint32), ("pid", ctypes.c_int))


class CapabilityData(ctypes.Structure):
    """`struct __user_cap_data_struct` of linux/capability.h."""

    _fields_ = (
        ("effective", ctypes.c_uint32),
        ("permitted", ctypes.c_uint32),
        ("inheritable", ctypes.c_uint32),
    )


def _call(function, *arguments) -> None:  # type: ignore[no-untyped-def]
    if function(*arguments) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def _drop(libc: ctypes.CDLL, uid: int, gid: int, capabilities: list[int]) -> None:
    """Become user `uid`, keeping only these capabilities (none: an ordinary user).

    Kept ones are made ambient, so they reach the program, and count for `access(2)` too.
    """
    if capabilities:
        _call(libc.prctl, PR_SET_SECUREBITS, SECBIT_NO_SETUID_FIXUP, 0, 0, 0)
    os.setgroups([gid])
    os.setresgid(gid, gid, gid)
    os.setresuid(uid, uid, uid)
    if not capabilities:
        return
    mask = sum(1 << number for number in capabilities)
    header = CapabilityHeader(LINUX_CAPABILITY_VERSION_3, 0)
    data = (CapabilityData * 2)(CapabilityData(mask, mask, mask), CapabilityData(0, 0, 0))
    _call(libc.capset, ctypes.byref(header), ctypes.byref(data))
    for number in capabilities:
        _call(libc.prctl, PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, number, 0, 0)


def _rename(libc: ctypes.CDLL, uid: int, gid: int) -> None:
    """Stay the same user for the kernel, but be called `uid`, in a user namespace."""
    real_uid, real_gid = os.geteuid(), os.getegid()
    _call(libc.unshare, CLONE_NEWUSER)
    for name, text in (
        ("setgroups", "deny"),
        ("uid_map", f"{uid} {real_uid} 1"),
        ("gid_map", f"{gid} {real_gid} 1"),
    ):
        with open(f"/proc/self/{name}", "w") as file:  # noqa: PTH123
            file.write(text)


def _accessible(checks: list[tuple[str, int]]) -> bool:
    return all(os.access(path, mode) for path, mode in checks)


def main() -> None:
    """Set up, then exec; or check and exit."""
    options = json.loads(sys.argv[1])
    libc = ctypes.CDLL(None, use_errno=True)
    run_as = options["run_as"]
    try:
        if run_as and run_as["namespace"]:
            _rename(libc, run_as["uid"], run_as["gid"])
        elif run_as:
            _drop(libc, run_as["uid"], run_as["gid"], run_as["capabilities"])
        if options.get("check") is not None:
            sys.exit(0 if _accessible(options["check"]) else 1)
        if sys.platform == "linux":
            _call(libc.prctl, PR_SET_PDEATHSIG, options["death_signal"], 0, 0, 0)
        if os.getppid() != options["parent"]:
            sys.exit(CANNOT_START)
        os.execv(sys.argv[2], sys.argv[2:])  # noqa: S606
    except OSError as error:
        print(f"cannot start {' '.join(sys.argv[2:3])}: {error}", file=sys.stderr)
        sys.exit(CANNOT_START)


if __name__ == "__main__":
    main()
