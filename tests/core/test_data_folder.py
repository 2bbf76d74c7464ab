"""What a core proves of its earlier lives, and for how long it is spared after bad ends."""

from __future__ import annotations

import asyncio
import fcntl
import os
import subprocess
import sys

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from placeos.core import data_folder
from placeos.core.data_folder import HEALTHY, HOLD, KEPT, DataFolder, Life, hold, proves

PRESENT = Life("now", "boot-1", "machine-1", 1000.0)


def earlier(boot: str, machine: str) -> Life:
    return Life("before", boot, machine, 1.0)


@pytest.mark.parametrize(
    ("boot", "machine", "proven"),
    [
        ("boot-1", "machine-1", True),  # the same kernel: every process had the lock
        ("boot-1", "", True),
        ("boot-0", "machine-1", True),  # an earlier boot of this machine
        ("boot-0", "machine-2", False),  # the folder was copied, or is on a network
        ("boot-0", "", False),
        ("", "", False),
        ("", "machine-1", False),
        ("", "machine-2", False),
    ],
)
def test_what_the_lock_proves(boot, machine, proven):
    assert proves(PRESENT, earlier(boot, machine)) is proven


@pytest.mark.parametrize("boot", ["boot-0", "boot-1", ""])
@pytest.mark.parametrize("machine", ["machine-1", ""])
def test_a_machine_that_cannot_be_told_proves_nothing_of_other_boots(boot, machine):
    unknown = Life("now", "", "", 1000.0)
    assert not proves(unknown, earlier(boot, machine))


# -- the folder -----------------------------------------------------------------------------------


async def live(folder, incarnation: str, *, clean: bool = False) -> tuple[str, ...]:
    """One life in a folder; whom it proves dead."""
    async with DataFolder(folder, incarnation) as made:
        if clean:
            made.ended()
        return made.dead


async def test_lives_are_kept_and_the_last_ones_proven(tmp_path):
    for number in range(KEPT + 4):
        dead = await live(tmp_path, f"i{number}")
        assert dead == tuple(f"i{one}" for one in range(max(0, number - KEPT), number))


async def test_of_another_machine_nothing_is_proven(tmp_path, monkeypatch):
    await live(tmp_path, "a")
    monkeypatch.setattr(data_folder, "_machine", lambda: "another")
    monkeypatch.setattr(data_folder, "_BOOT", tmp_path / "no-boot-id")
    assert await live(tmp_path, "b") == ()


async def test_after_another_boot_of_this_machine_all_is_proven(tmp_path, monkeypatch):
    monkeypatch.setattr(data_folder, "_machine", lambda: "this one")
    await live(tmp_path, "a")
    boot = tmp_path / "boot_id"
    boot.write_text("another\n")
    monkeypatch.setattr(data_folder, "_BOOT", boot)
    assert await live(tmp_path, "b") == ("a",)


@pytest.mark.parametrize("content", [b"", b"{", b'{"a":1}', b'[{"incarnation":1}]', b"\xff"])
async def test_a_broken_file_proves_nothing_and_is_written_anew(tmp_path, content, caplog):
    await live(tmp_path, "a")
    (tmp_path / "lives.json").write_bytes(content)
    assert await live(tmp_path, "b") == ()
    assert "earlier lives unreadable" in caplog.text
    assert await live(tmp_path, "c") == ("b",)


async def test_whoever_holds_the_descriptor_keeps_the_next_core_waiting(tmp_path):
    """A process that outlives its core: nothing is proven while it runs."""
    async with DataFolder(tmp_path, "a") as made:
        heir = subprocess.Popen(
            [sys.executable, "-c", "input()"],
            stdin=subprocess.PIPE,
            pass_fds=[made.descriptor],
        )
    try:
        starting = asyncio.create_task(live(tmp_path, "b"))
        done, _ = await asyncio.wait([starting], timeout=1.0)
        assert not done
    finally:
        heir.kill()
        heir.wait()
    assert await asyncio.wait_for(starting, 5) == ("a",)


async def test_a_driver_cannot_write_through_the_descriptor(tmp_path):
    async with DataFolder(tmp_path, "a") as made:
        assert fcntl.fcntl(made.descriptor, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY


# -- sparing --------------------------------------------------------------------------------------


def lives(*spans: tuple[float, bool]) -> tuple[list[Life], Life]:
    """Of these lengths in seconds, clean or not; and the present one."""
    found, at = [], 1000.0
    for number, (seconds, clean) in enumerate(spans):
        ended = at + seconds if clean else 0.0
        found.append(Life(f"i{number}", "b", "m", at, ended))
        at += seconds
    return found, Life("now", "b", "m", at)


def test_crash_after_crash_doubles_up_to_the_longest():
    crashes = [(5.0, False)] * 8
    found = [hold(*lives(*crashes[:number])) for number in range(8)]
    assert found == [0, 10, 20, 40, 80, 160, 300, 300]


@pytest.mark.parametrize(
    "reset", [(HEALTHY + 1, False), (1.0, True)], ids=["a long life", "a clean end"]
)
def test_it_begins_anew(reset):
    crash = (5.0, False)
    first = 0.0 if reset[1] else HOLD[0]
    assert hold(*lives(crash, crash, crash, reset)) == first
    again = HOLD[0] if reset[1] else 2 * HOLD[0]
    assert hold(*lives(crash, crash, crash, reset, crash)) == again


@given(st.lists(st.tuples(st.floats(0.1, 2 * HEALTHY), st.booleans()), max_size=KEPT))
def test_it_is_bounded_and_zero_only_after_a_clean_end(spans):
    seconds = hold(*lives(*spans))
    crashed = bool(spans) and not spans[-1][1]
    assert (seconds >= HOLD[0]) if crashed else (seconds == 0.0)
    assert seconds <= HOLD[1]


@given(st.lists(st.tuples(st.floats(0.1, 2 * HEALTHY), st.booleans()), max_size=KEPT))
def test_what_was_before_the_last_clean_end_does_not_matter(spans):
    assert hold(*lives((5.0, False), (5.0, True), *spans)) == hold(*lives(*spans))


def test_lives_are_read_as_they_were_written():
    life = Life("a", "b", "m", 1.5)
    assert msgspec.json.decode(msgspec.json.encode([life]), type=list[Life]) == [life]
