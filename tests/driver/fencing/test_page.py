"""The page of deadlines: what others can do with it, and that it is read in one piece."""

from __future__ import annotations

import ctypes
import mmap
import os
import subprocess
import sys

import pytest

from placeos.driver.fencing.page import NEVER, SIZE, Page, WritablePage


@pytest.fixture
def page():
    made = WritablePage()
    yield made
    made.close()


def test_others_read_what_core_writes(page):
    other = Page(page.descriptor)
    assert (other.lease, other.extended) == (0, 0)
    page.write(5, NEVER)
    assert (other.lease, other.extended) == (5, NEVER)
    other.close()


def test_nobody_else_can_write(page):
    other = Page(page.descriptor)
    with pytest.raises(TypeError):
        other.deadlines[0] = 7
    again = os.open(f"/proc/self/fd/{page.descriptor}", os.O_RDWR)
    for descriptor in (page.descriptor, again):
        with pytest.raises(PermissionError):
            mmap.mmap(descriptor, SIZE, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE)
        with pytest.raises(PermissionError):
            os.write(descriptor, b"\xff" * 16)
        for size in (0, 2 * SIZE):
            with pytest.raises(PermissionError):
                os.ftruncate(descriptor, size)
    os.close(again)
    assert not writable(page.descriptor)
    other.close()


def writable(descriptor: int) -> bool:
    """Whether a read-only mapping of it can be made writable."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype = ctypes.c_void_p
    place = libc.mmap(
        None, ctypes.c_size_t(SIZE), mmap.PROT_READ, mmap.MAP_SHARED, descriptor, ctypes.c_long(0)
    )
    made = libc.mprotect(
        ctypes.c_void_p(place), ctypes.c_size_t(SIZE), mmap.PROT_READ | mmap.PROT_WRITE
    )
    libc.munmap(ctypes.c_void_p(place), ctypes.c_size_t(SIZE))
    return bool(made == 0)


READ = """
import sys
from placeos.driver.fencing.page import Page
deadlines = Page(int(sys.argv[1])).deadlines
allowed = {int(value) for value in sys.argv[2:]}
print("reading", flush=True)
for _ in range(1_000_000):
    found = deadlines[1]
    if found not in allowed:
        sys.exit(f"torn: {found:x}")
"""


def test_reads_are_never_torn(page):
    one, other = 0x0000_0000_FFFF_FFFF, 0x7FFF_FFFF_0000_0000
    page.write(0, one)
    reader = subprocess.Popen(
        [sys.executable, "-c", READ, str(page.descriptor), str(one), str(other)],
        pass_fds=[page.descriptor],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert reader.stdout is not None
    assert reader.stdout.readline() == b"reading\n"
    while reader.poll() is None:
        for _ in range(1_000):
            page.write(0, other)
            page.write(0, one)
    assert reader.communicate()[1] == b""
    assert reader.returncode == 0
