"""What is too much, and what of a process can be known."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from placeos.config import ConfigError
from placeos.core.process import limits, meter
from placeos.core.process.limits import THREADS, Limits
from placeos.core.process.meter import QUIET_FOR, Excess, Reading, verdict


def told(values: list[float], limit: float = 1.0, after: float = 10.0) -> list[tuple[int, bool]]:
    """When (in seconds) what was told, for one value a second."""
    excess = Excess(limit, after)
    return [(now, excess.told) for now, value in enumerate(values) if excess.observe(value, now)]


def test_told_after_a_stretch_and_well_after_another():
    assert told([0, *[2] * 15, *[0] * 15]) == [(11, True), (26, False)]


def test_a_short_burst_is_nothing():
    assert told([2] * 9 + [0] + [2] * 9) == []


def test_a_short_calm_does_not_end_it():
    assert told([2] * 12 + ([0] * 5 + [2]) * 5) == [(10, True)]


@given(st.lists(st.floats(0, 2), max_size=200))
def test_begins_and_ends_take_turns(values):
    changes = told(values)
    assert [state for _, state in changes] == [n % 2 == 0 for n in range(len(changes))]
    for (before, _), (after, state) in pairwise(changes):
        assert after - before >= (10 if state else QUIET_FOR)


def test_verdicts():
    within = Reading(cpu=1e9, memory=512 << 20, threads=THREADS - 1)
    assert verdict(within, Limits()) == ""
    more = Reading(cpu=0, memory=530 << 20, threads=1)
    assert verdict(more, Limits()) == "used 530 MiB of memory, more than its limit of 512 MiB"
    assert verdict(more, Limits(memory=0)) == ""
    assert "threads" in verdict(Reading(cpu=0, memory=0, threads=THREADS), Limits())


def test_a_busy_process_is_known_on_a_busy_machine():
    assert meter.wanted(0.45, 0.55, slowed=False) >= meter.BUSY
    assert meter.wanted(0.1, 0.9, slowed=False) < meter.BUSY  # others keep it from little work
    assert meter.wanted(0.1, 0.9, slowed=True) >= meter.BUSY
    assert meter.wanted(0.1, 0.0, slowed=True) < meter.BUSY


def test_a_process_is_read_with_what_it_started():
    code = "import subprocess; p = subprocess.Popen(['sleep', '60']); print(); p.wait()"
    with subprocess.Popen(
        [sys.executable, "-uc", code], stdout=subprocess.PIPE, process_group=0
    ) as process:
        try:
            process.stdout.readline()
            alone = meter.read_all([process.pid], family=False)[process.pid]
            both = meter.read_all([process.pid, 2**22], family=True)
        finally:
            os.killpg(process.pid, 9)
    assert alone.threads == 1
    assert alone.memory > 1 << 20
    assert list(both) == [process.pid]
    if Path(f"/proc/self/task/{threading.get_native_id()}/children").exists():
        assert both[process.pid].threads == 2


def test_cpu_is_that_of_all_threads():
    before = meter.read_all([os.getpid()], family=False)[os.getpid()]
    until = time.process_time() + 0.3
    while time.process_time() < until:
        pass
    after = meter.read_all([os.getpid()], family=False)[os.getpid()]
    assert after.cpu - before.cpu >= 0.2


def test_limits_from_the_environment():
    assert limits.load({}) == Limits(memory=512, cpu=0, programs=False)
    given = {"PLACEOS_DRIVER_MEMORY": "0", "PLACEOS_DRIVER_CPU": "150"}
    assert limits.load({**given, "PLACEOS_DRIVER_PROGRAMS": "allow"}) == Limits(0, 150, True)


@pytest.mark.parametrize(
    ("name", "text"),
    [("MEMORY", "12"), ("MEMORY", "lots"), ("CPU", "-1"), ("CPU", "٣"), ("PROGRAMS", "yes")],
)
def test_wrong_limits_name_their_variable(name, text):
    with pytest.raises(ConfigError, match=f"PLACEOS_DRIVER_{name}"):
        limits.load({f"PLACEOS_DRIVER_{name}": text})
