"""Faults of an etcd with three members: of one, of all, and of what they hold."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import etcd_program
import rig as rigs
from etcd_cluster import EtcdCluster
from faults import MOVE, SETTLED, TTL, UNDISTURBED, all_connected, holds, leave
from rig import Rig
from rounds import Phase

AWAY = 30.0  # seconds for which all members are gone
TOLD = 5.0  # seconds of load after a fault


@dataclass
class Members:
    """A platform and its etcd."""

    rig: Rig
    etcd: EtcdCluster


@asynccontextmanager
async def running(folder: Path, *, modules: int, cores: int = 3) -> AsyncIterator[Members]:
    """A platform on three members of an etcd that survives being killed."""
    folder = folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    etcd = EtcdCluster(folder, etcd_program.find(folder.parent / "etcd"))
    if not etcd.program.may_be_killed:
        raise rigs.RigError(f"{etcd.program} may lose data when it is killed: no other was found")
    try:
        await etcd.start()
        async with rigs.running(folder, modules=modules, cores=cores, etcd=etcd.endpoints) as rig:
            yield Members(rig, etcd)
    finally:
        await etcd.stop()


def each_killed(at: Members, seconds: float = 2 * TTL) -> list[Phase]:
    """Each member in turn is killed, and started again."""

    def one(number: int) -> Phase:
        async def act(rig: Rig) -> None:
            member = at.etcd.members[number]
            member.kill()
            await asyncio.sleep(seconds)
            member.start()
            await at.etcd.ready(member)

        return Phase("one of three etcd members killed", UNDISTURBED, act, all_connected)

    return [one(number) for number in range(3)]


def each_frozen(at: Members, seconds: float = 3 * TTL) -> list[Phase]:
    """Each member in turn stands still for a while."""

    def one(number: int) -> Phase:
        async def act(rig: Rig) -> None:
            member = at.etcd.members[number]
            member.freeze()
            try:
                await asyncio.sleep(seconds)
            finally:
                member.thaw()

        return Phase("one of three etcd members frozen", UNDISTURBED, act, all_connected)

    return [one(number) for number in range(3)]


def all_away(at: Members, seconds: float = AWAY) -> list[Phase]:
    """All members are killed, and started again after a while."""

    async def act(rig: Rig) -> None:
        await at.etcd.stop()
        await asyncio.sleep(seconds)
        await at.etcd.start()

    what = f"all etcd members away for {seconds:g} s"
    return [Phase(what, UNDISTURBED, act, all_connected, rest=TOLD)]


def wiped(at: Members, new: str) -> list[Phase]:
    """etcd loses all its data under running cores while a fresh one joins; it leaves again."""

    async def act(rig: Rig) -> None:
        rig.core(new)
        await at.etcd.wipe()

    def over(rig: Rig) -> bool:
        return all_connected(rig) and holds(new)(rig)

    # What moves to the newcomer is a hand-over like any other.
    return [Phase("etcd wiped, a core joins", MOVE, act, over, SETTLED, rest=TOLD), leave(new)]


def restored(at: Members, folder: Path) -> list[Phase]:
    """etcd gets back data of some views ago."""

    async def act(rig: Rig) -> None:
        file = folder / "snapshot"
        file.unlink(missing_ok=True)
        await at.etcd.snapshot(file)
        rig.core("core-4")
        await rig.until(lambda: holds("core-4")(rig), SETTLED, "core-4 holds modules")
        await at.etcd.restore(file)

    what = "etcd restored from before a join"
    return [Phase(what, MOVE, act, all_connected, SETTLED, rest=3 * TTL), leave("core-4")]


def leader_moved(at: Members) -> list[Phase]:
    """The lead goes from one member to another, and on."""

    async def act(rig: Rig) -> None:
        for _ in range(3):
            await at.etcd.move_leader()
            await asyncio.sleep(1)

    return [Phase("etcd leader moved", UNDISTURBED, act, all_connected, rest=TOLD)]


MEMBER_FAULTS = (
    *("etcd-member-killed", "etcd-member-frozen", "etcd-all-away"),
    *("etcd-wiped", "etcd-restored", "etcd-leader-moved"),
)


def phases(at: Members, fault: str) -> list[Phase]:
    """Of one of MEMBER_FAULTS."""
    return {
        "etcd-member-killed": lambda: each_killed(at),
        "etcd-member-frozen": lambda: each_frozen(at),
        "etcd-all-away": lambda: all_away(at),
        "etcd-wiped": lambda: wiped(at, "core-4"),
        "etcd-restored": lambda: restored(at, at.rig.folder),
        "etcd-leader-moved": lambda: leader_moved(at),
    }[fault]()
