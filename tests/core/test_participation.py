"""Real cores that share modules: they come, go, are killed and frozen."""

from __future__ import annotations

import asyncio
import os
import signal
import time

import psutil
import pytest
from redis.asyncio import Redis

from placeos.cluster.etcd import Etcd
from placeos.cluster.reading import read
from placeos.cluster.registry import PREFIX
from placeos.cluster.view import View, owner
from placeos.state import keys

MODULES = 12
TTL = 5.0
OUTAGE = TTL + 4  # seconds after a kill in which the others have all modules


async def view_in(etcd: Etcd) -> View | None:
    return read(await etcd.list(PREFIX)).seen.view


async def shared(etcd: Etcd, *identities: str) -> View | None:
    """The view, once it is completed and gives modules to exactly these cores."""
    view = await view_in(etcd)
    if view is not None and view.completed and view.eligible == identities:
        return view
    return None


@pytest.fixture
async def cores(core_process, core_environment, redis, etcd, tmp_path):
    """Starts cores on one database, by identity; kills those that are left."""
    made = []

    def start(identity: str, folder: str = ""):
        data = tmp_path / (folder or identity)
        log = tmp_path / f"{folder or identity}.log"
        made.append(core_process(core_environment(identity, data), log))
        made[-1].start()
        return made[-1]

    yield start
    for one in made:
        one.kill()


@pytest.fixture
async def modules(building):
    return [await building.new_module() for _ in range(MODULES)]


@pytest.fixture
def runs_on(call):
    """Which process of the system runs a module: that of its driver."""

    async def ask(module) -> int:
        return await call(module, "pid", timeout=15.0)

    return ask


def family(core) -> set[int]:
    """Core and all below it."""
    process = psutil.Process(core.pid)
    return {core.pid, *(one.pid for one in process.children(recursive=True))}


async def all_on(runs_on, modules, *cores) -> dict[int, int]:
    """How many run in the family of each of these cores; all must."""
    found = dict.fromkeys((one.pid for one in cores), 0)
    for module in modules:
        pid = await runs_on(module)
        [core] = [one for one in cores if pid in family(one)]
        found[core.pid] += 1
    assert sum(found.values()) == len(modules)
    return found


async def kept(redis: Redis, modules) -> dict[str, dict[bytes, bytes]]:
    return {one.id: await redis.hgetall(keys.status(one.id)) for one in modules}


async def two(cores, etcd, until):
    first, second = cores("core-1"), cores("core-2")
    await until(lambda: shared(etcd, "core-1", "core-2"), 90)
    return first, second


async def test_two_share_and_one_that_stops_hands_over_with_all_state(
    cores, modules, etcd, redis, call, runs_on, until
):
    first, second = await two(cores, etcd, until)
    for number, module in enumerate(modules):
        await call(module, "set", "kept", number, timeout=15.0)
    assert all((await all_on(runs_on, modules, first, second)).values())
    await until(lambda: settled(redis, modules))
    before = await kept(redis, modules)
    assert await asyncio.to_thread(second.stop, 30.0) == 0
    view = await shared(etcd, "core-1")
    assert view is not None
    assert [past.identity for past in view.base] == ["core-1"]
    await all_on(runs_on, modules, first)
    await until(lambda: settled(redis, modules))
    assert await kept(redis, modules) == before
    third = cores("core-3")
    await until(lambda: shared(etcd, "core-1", "core-3"), 60)
    assert all((await all_on(runs_on, modules, first, third)).values())


async def settled(redis: Redis, modules) -> bool:
    found = await kept(redis, modules)
    return all(b"kept" in one and b"connected" in one for one in found.values())


@pytest.mark.long
async def test_a_killed_core_is_replaced_in_time(cores, modules, etcd, runs_on, until):
    first, second = await two(cores, etcd, until)
    await all_on(runs_on, modules, first, second)
    began = time.monotonic()
    second.kill()
    await until(lambda: shared(etcd, "core-1"), 30)
    await all_on(runs_on, modules, first)
    assert time.monotonic() - began < OUTAGE


@pytest.mark.long
async def test_a_killed_core_is_spared_for_a_while_when_it_is_back(
    cores, modules, etcd, runs_on, until
):
    first, second = await two(cores, etcd, until)
    second.kill()
    began = time.monotonic()
    second.start()
    await until(lambda: "held back after an unclean end" in second.log(), 60)
    await until(lambda: shared(etcd, "core-1"), 30)
    await all_on(runs_on, modules, first)
    await until(lambda: shared(etcd, "core-1", "core-2"), 60)
    assert time.monotonic() - began > 10
    assert all((await all_on(runs_on, modules, first, second)).values())


async def test_the_same_identity_on_another_folder_waits_while_the_first_lives(
    cores, modules, etcd, runs_on, until
):
    first = cores("core-1")
    await until(lambda: shared(etcd, "core-1"), 60)
    double = cores("core-1", "double")
    await until(lambda: "identity is taken" in double.log(), 60)
    await all_on(runs_on, modules, first)
    assert not processes_of_drivers(double)
    assert await asyncio.to_thread(first.stop, 30.0) == 0
    await until(lambda: shared(etcd, "core-1"), 60)
    await all_on(runs_on, modules, double)
    assert double.log().count('"identity is taken"') <= 1


def processes_of_drivers(core) -> list[int]:
    """Driver processes below a core's fork parents."""
    return [
        child.pid
        for parent in psutil.Process(core.pid).children()
        for child in parent.children(recursive=True)
    ]


def alive(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() not in (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD)
    except psutil.NoSuchProcess:
        return False


@pytest.mark.long
async def test_a_frozen_core_is_killed_before_another_runs_its_modules(
    cores, modules, etcd, runs_on, until
):
    first, second = await two(cores, etcd, until)
    pids = {module.id: await runs_on(module) for module in modules}
    frozen = family(second)
    view = await view_in(etcd)
    moving = [one for one in modules if owner(view, one.id) == "core-2"]
    assert moving
    assert {pids[one.id] for one in moving} <= frozen
    began = time.monotonic()
    os.kill(second.pid, signal.SIGSTOP)
    ended = 0.0
    taken = 0.0
    while not taken:
        if not ended and not any(map(alive, frozen)):
            ended = time.monotonic()
        view = await view_in(etcd)
        if view.eligible == ("core-1",):
            taken = time.monotonic()
            assert ended or not any(map(alive, frozen))
        await asyncio.sleep(0.01)
        assert time.monotonic() - began < 3 * TTL
    os.kill(second.pid, signal.SIGCONT)
    assert second.process.wait(5) == -signal.SIGKILL
    await until(lambda: shared(etcd, "core-1"), 30)
    await all_on(runs_on, modules, first)
    assert time.monotonic() - began < OUTAGE


async def test_a_restart_at_once_leaves_the_others_alone(cores, modules, etcd, runs_on, until):
    """A successor with proof takes its predecessor's place long before the lease ends."""
    first, second = await two(cores, etcd, until)
    mine = [one for one in modules if owner(await view_in(etcd), one.id) == "core-1"]
    before = [await runs_on(one) for one in mine]
    second.kill()
    began = time.monotonic()
    second.start()
    await until(lambda: shared(etcd, "core-1"), 30)
    assert time.monotonic() - began < TTL
    await all_on(runs_on, modules, first)
    assert [await runs_on(one) for one in mine] == before
