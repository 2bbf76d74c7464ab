"""One leader per duty; one that was paused can write nothing, wherever it was paused."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import pytest

from placeos.cluster.etcd import Etcd, Put
from placeos.cluster.leader import Election, Leader, election_key
from placeos.cluster.registry import Registry
from placeos.core.leadership import Leadership, NotLeading
from placeos.local.engines import running_engines
from placeos.state import keys, scripts
from placeos.state.client import connect

COUNTING = scripts.Script(scripts._LEADER + "return {false, redis.call('INCR', 'counted')}")


@pytest.fixture
async def redis(engines):
    client = connect(engines.redis_url)
    await client.flushdb()
    yield client
    await client.aclose()


class Candidate:
    """A campaigning node with a lease that nobody renews but us."""

    def __init__(self, etcd: Etcd, identity: str) -> None:
        self.etcd = etcd
        self.lease = 0
        self.election = Election(etcd, "test", identity, lambda: self.lease)
        self.task: asyncio.Task[None] | None = None

    async def start(self, ttl: int = 60) -> Candidate:
        self.lease = await self.etcd.grant(ttl)
        self.task = asyncio.create_task(self.election.run())
        return self

    async def stop(self) -> None:
        if self.task is not None:
            self.task.cancel()
            await asyncio.gather(self.task, return_exceptions=True)


@pytest.fixture
async def candidate(etcd):
    made: list[Candidate] = []

    async def start(identity: str, **more) -> Candidate:
        made.append(Candidate(etcd, identity))
        return await made[-1].start(**more)

    yield start
    for one in made:
        await one.stop()


async def test_one_of_several_leads_and_another_follows_it(candidate, etcd, until):
    several = [await candidate(f"core-{number}") for number in range(3)]
    await until(lambda: any(one.election.leading for one in several))
    [first] = [one for one in several if one.election.leading]
    key = await etcd.get(election_key("test"))
    assert first.election.revision == key.create_revision
    assert msgspec.json.decode(key.value, type=Leader).leader == first.election.identity
    await etcd.revoke(first.lease)
    await until(lambda: any(one.election.leading for one in several if one is not first))
    [second] = [one for one in several if one is not first and one.election.leading]
    await until(lambda: not first.election.leading)
    assert second.election.revision > key.create_revision


async def test_without_a_lease_nobody_campaigns(candidate, etcd, until):
    one = Candidate(etcd, "core-1")
    task = asyncio.create_task(one.election.run())
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(1.5):
            await one.election.elected()
    one.lease = await etcd.grant(60)
    async with asyncio.timeout(10):
        await one.election.elected()
    lease, one.lease = one.lease, 0  # the registration is lost, though the key still stands
    await until(lambda: not one.election.leading)
    one.lease = lease
    await until(lambda: one.election.leading)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_a_deleted_key_ends_the_leadership_and_its_writes(candidate, etcd, until):
    one = await candidate("core-1")
    await until(lambda: one.election.leading)
    before = one.election.revision
    assert await one.election.txn([Put("placeos/test/w", b"1")])
    await etcd.delete(election_key("test"))
    # At once, before it has noticed: the comparison decides, not what it believes.
    assert not await one.election.txn([Put("placeos/test/w", b"2")])
    await until(lambda: one.election.revision > before)
    assert await one.election.txn([Put("placeos/test/w", b"3")])
    assert (await etcd.get("placeos/test/w")).value == b"3"


async def test_election_keys_are_nothing_to_the_registry(candidate, etcd, until):
    one = await candidate("core-1")
    await until(lambda: one.election.leading)
    registry = Registry(etcd)
    task = asyncio.create_task(registry.run())
    await until(registry.loaded.is_set)
    await etcd.delete(election_key("test"))
    revision = one.election.revision
    await until(lambda: one.election.revision > revision)
    await etcd.txn([], [Put("placeos/core/core-9", b'{"incarnation":"i","address":"h:1"}')])
    await until(lambda: registry.nodes("core"))
    assert not registry.nodes("leader")
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_while_etcd_is_away_nobody_leads(tmp_path, until):
    async with (
        running_engines(tmp_path, postgres=False, redis=False, durable=False) as engines,
        Etcd(engines.etcd_endpoints) as etcd,
    ):
        one = await Candidate(etcd, "core-1").start()
        await until(lambda: one.election.leading)
        pid = engines.pids["etcd"]
        os.kill(pid, signal.SIGSTOP)
        try:
            await until(lambda: not one.election.leading)
            assert not await one.election.txn([Put("placeos/test/w", b"1")])
        finally:
            os.kill(pid, signal.SIGCONT)
        await until(lambda: one.election.leading)
        await one.stop()


# -- what a leader writes to Redis ---------------------------------------------------------------


async def test_a_later_leader_shuts_the_earlier_out_before_it_writes(candidate, redis, until):
    first, second = await candidate("core-1"), await candidate("core-2")
    await until(lambda: first.election.leading or second.election.leading)
    if second.election.leading:
        first, second = second, first
    old = Leadership(redis, first.election)
    await old.take()
    assert await old.write(COUNTING) == 1
    believed = first.election._revision
    await first.etcd.revoke(first.lease)
    await until(lambda: second.election.leading)
    new = Leadership(redis, second.election)
    await new.take()
    await first.stop()
    first.election._revision, first.election._until = believed, float("inf")  # it believes still
    with pytest.raises(NotLeading):
        await old.write(COUNTING)
    with pytest.raises(NotLeading):
        await old.take()
    assert await new.write(COUNTING) == 2


async def test_a_number_of_another_history_of_etcd_is_succeeded(candidate, redis, until):
    """etcd lost its data and counts from the beginning: Redis must not refuse for ever."""
    await redis.set(keys.leader("test"), f"{1 << 50} core-9")
    one = await candidate("core-1")
    await until(lambda: one.election.leading)
    leadership = Leadership(redis, one.election)
    with pytest.raises(NotLeading):
        await leadership.write(COUNTING)
    await leadership.take()
    assert await leadership.write(COUNTING) == 1


@asynccontextmanager
async def frozen_leader(engines):
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, str(Path(__file__).parent / "paused_leader.py")),
        *(",".join(engines.etcd_endpoints), engines.redis_url),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(30):
            assert await process.stdout.readline() == b"leading\n"
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


def is_stopped(pid: int) -> bool:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"


@pytest.mark.parametrize("engine", ["etcd", "redis"])
async def test_a_leader_frozen_in_the_middle_of_a_write(
    engine, engines, candidate, etcd, redis, until
):
    async with frozen_leader(engines) as process:
        process.stdin.write(f"{engine}\n".encode())
        await until(lambda: is_stopped(process.pid))
        other = await candidate("core-2")
        await until(lambda: other.election.leading, 20)
        await Leadership(redis, other.election).take()
        assert await other.election.txn([Put("placeos/test/written", b"core-2")])
        os.kill(process.pid, signal.SIGCONT)
        async with asyncio.timeout(20):
            outcome, belief = [await process.stdout.readline() for _ in range(2)]
        assert belief == b"knows\n"
        if engine == "etcd":
            assert outcome == b"False\n"
        else:
            assert outcome.startswith(b"refused: ")
        assert (await etcd.get("placeos/test/written")).value == b"core-2"
        assert await redis.get("written") is None
