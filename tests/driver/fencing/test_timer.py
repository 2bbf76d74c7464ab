"""The kernel's timer kills the process that set it: running, stuck, stopped."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from placeos.driver.fencing.timer import KILL_AFTER

BEGIN = """
import os, signal, sys, threading, time
from placeos.driver.fencing.page import NEVER, now
from placeos.driver.fencing.timer import KillTimer
timer = KillTimer()
def soon(seconds):
    return now() + int(seconds * 1e9)
"""


@contextmanager
def run(script: str) -> Iterator[subprocess.Popen[bytes]]:
    """A process that prints a line when it is where it shall be; it does not outlive the test."""
    process = subprocess.Popen([sys.executable, "-c", BEGIN + script], stdout=subprocess.PIPE)
    assert process.stdout is not None
    try:
        assert process.stdout.readline() == b"ready\n"
        yield process
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


STUCK = """
timer.arm(soon(0.2))
print("ready", flush=True)
while True: pass
"""

ASLEEP = """
timer.arm(soon(0.2))
print("ready", flush=True)
time.sleep(60)
"""


@pytest.mark.parametrize("script", [STUCK, ASLEEP], ids=["stuck", "asleep"])
@pytest.mark.parametrize("stopped", [False, True], ids=["running", "stopped"])
def test_kills_when_the_time_has_come(script, stopped):
    with run(script) as process:
        began = time.monotonic()
        if stopped:
            process.send_signal(signal.SIGSTOP)
        assert process.wait(10) == -signal.SIGKILL
        assert time.monotonic() - began < 0.2 + KILL_AFTER + 0.5


def test_not_before_that():
    with run(ASLEEP) as process, pytest.raises(subprocess.TimeoutExpired):
        process.wait(KILL_AFTER)


def test_a_time_that_is_past_kills_at_once():
    with run("print('ready', flush=True)\ntimer.arm(soon(-10))\ntime.sleep(60)") as process:
        assert process.wait(10) == -signal.SIGKILL


MOVED = """
timer.arm(soon(0))
def move():
    for _ in range(200):
        timer.arm(soon(0))
        time.sleep(0.01)
    timer.{last}
thread = threading.Thread(target=move)
thread.start()
print("ready", flush=True)
thread.join()
time.sleep(1)
print("alive", flush=True)
"""


@pytest.mark.parametrize("last", ["arm(NEVER)", "disarm()"])
def test_can_be_moved_on_from_another_thread_and_taken_away(last):
    with run(MOVED.format(last=last)) as process:
        assert process.wait(20) == 0


def test_a_thread_that_ends_takes_no_timer_along():
    script = """
thread = threading.Thread(target=lambda: timer.arm(soon(0.2)))
thread.start(); thread.join()
print("ready", flush=True)
time.sleep(60)
"""
    with run(script) as process:
        assert process.wait(10) == -signal.SIGKILL


def test_a_forked_child_is_not_killed_by_it():
    script = """
timer.arm(soon(0))
child = os.fork()
if child == 0:
    time.sleep(1.5)
    os._exit(7)
timer.disarm()
print("ready", flush=True)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    with run(script) as process:
        assert process.wait(10) == 7
