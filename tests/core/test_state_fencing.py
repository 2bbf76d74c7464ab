"""Whoever lost a module to a later view writes nothing of it any more, however late."""

from __future__ import annotations

import asyncio
import itertools
import logging
import signal
import sys
from pathlib import Path

import pytest
from msgspec import Raw

from placeos.core import claims, state_writer
from placeos.core.lookups import LookupWriter
from placeos.core.state_store import StateStore
from placeos.core.state_writer import StateWriter
from placeos.state import keys

MODULE = "mod-1"


@pytest.fixture
async def core(redis):
    """Makes state writers as those of several cores, which run until the test ends."""
    tasks = []

    def make(incarnation: str, number: int, *, running: bool = True) -> StateWriter:
        writer = StateWriter(redis, incarnation)
        writer.view_number = number
        if running:
            tasks.append(asyncio.create_task(writer.run()))
        return writer

    yield make
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def change(writer: StateWriter, **values: bytes) -> int:
    return writer.change(MODULE, [(key, Raw(value)) for key, value in values.items()])


async def stored(redis) -> dict[bytes, bytes]:
    return await redis.hgetall(keys.status(MODULE))


async def holds(redis, **values: bytes) -> bool:
    return await stored(redis) == {key.encode(): value for key, value in values.items()}


async def late_batch_is_refused(core, redis) -> bool:
    """An owner is replaced while its last batch is still on its way."""
    old, new = core("old", 1, running=False), core("new", 2)
    await old.inherit(MODULE)
    change(old, power=b"true")
    await old.flush(5)
    change(old, power=b'"late"', other=b"1")  # decided, not yet sent
    assert await new.inherit(MODULE) == {"power": b"true"}
    pubsub = redis.pubsub()
    await pubsub.psubscribe("status/*")
    await pubsub.get_message(timeout=5)
    await old.flush(5)
    heard = await pubsub.get_message(timeout=0.3)
    await pubsub.aclose()
    return heard is None and await holds(redis, power=b"true")


async def test_a_late_batch_changes_and_publishes_nothing(core, redis):
    assert await late_batch_is_refused(core, redis)


async def test_without_the_number_the_late_batch_would_count(core, redis, monkeypatch):
    """What the test above checks can fail: it does when batches carry no number."""
    numbers = itertools.count(1 << 50)  # each higher than all before: nothing is refused
    monkeypatch.setattr(claims, "carried_number", lambda _: next(numbers))
    assert not await late_batch_is_refused(core, redis)


async def test_an_owner_frozen_in_the_middle_of_a_batch(core, engines, redis, until):
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, str(Path(__file__).parent / "paused_owner.py"), engines.redis_url),
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        stat = Path(f"/proc/{process.pid}/stat")
        await until(lambda: stat.read_text().rpartition(")")[2].split()[0] == "T")
        new = core("new", 2)
        assert await new.inherit(MODULE) == {"power": b'"early"'}
        change(new, power=b'"new"')
        assert await new.drained([MODULE], 5)
        process.send_signal(signal.SIGCONT)
        async with asyncio.timeout(20):
            assert await process.stdout.readline() == b"forgotten\n"
        assert await holds(redis, power=b'"new"')
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def test_who_was_refused_forgets_the_module_and_says_so_once(core, redis, caplog, until):
    fenced: list[list[str]] = []
    old, new = core("old", 1), core("new", 2)
    old.on_fenced = fenced.append
    await old.inherit(MODULE)
    await new.inherit(MODULE)
    with caplog.at_level(logging.WARNING, "placeos.core"):
        change(old, power=b"1")
        await until(lambda: fenced)
        for number in range(20):
            assert change(old, power=str(number).encode()) == 0
        assert await old.drained([MODULE], 5)
    assert fenced == [[MODULE]]
    assert [one.message for one in caplog.records] == ["state is another's"]
    assert not old.owns(MODULE)
    assert await stored(redis) == {}
    # A later view gives it back: what was forgotten is read again.
    change(new, power=b'"new"')
    assert await new.drained([MODULE], 5)
    old.view_number = 3
    assert await old.inherit(MODULE) == {"power": b'"new"'}
    change(old, power=b'"again"')
    await until(lambda: holds(redis, power=b'"again"'))


async def test_a_later_view_alone_does_not_raise_the_number(core, redis, until):
    """The old owner reads the view that replaces it and goes on to write its last words."""
    old, new = core("old", 1), core("new", 2)
    await old.inherit(MODULE)
    old.view_number = 2
    change(old, power=b'"last"')
    assert await old.drained([MODULE], 5)
    assert await new.inherit(MODULE) == {"power": b'"last"'}
    change(old, power=b'"too late"')
    assert await old.drained([MODULE], 5)
    assert await holds(redis, power=b'"last"')


async def test_interface_and_removal_are_fenced_too(core, redis):
    old, new = core("old", 1), core("new", 2)
    await old.inherit(MODULE)
    change(new, power=b"1")
    new.interface(MODULE, b'{"new":1}')
    assert await new.drained([MODULE], 5)
    old.interface(MODULE, b'{"old":1}')
    old.remove(MODULE)
    assert await old.drained([MODULE], 5)
    assert await redis.get(keys.interface(MODULE)) == b'{"new":1}'
    assert await holds(redis, power=b"1")
    new.remove(MODULE)
    assert await new.drained([MODULE], 5)
    assert not await redis.exists(keys.interface(MODULE), keys.status(MODULE), keys.owner(MODULE))


async def test_memory_that_another_owner_made_old_is_read_again(core, redis):
    """Away and back: between the two views in which we owned it another did."""
    one, two = core("one", 1), core("two", 2)
    await one.inherit(MODULE)
    change(one, power=b'"one"', gone=b"1")
    assert await one.drained([MODULE], 5)
    await two.inherit(MODULE)
    change(two, power=b'"two"', gone=b"null")
    assert await two.drained([MODULE], 5)
    one.view_number = 3
    assert await one.inherit(MODULE) == {"power": b'"two"'}
    one.rewrite()
    assert await one.drained([MODULE], 5)
    assert await holds(redis, power=b'"two"')


async def test_of_two_with_one_number_the_last_to_claim_it_writes(core, redis, until, monkeypatch):
    """etcd lost its last view, and another was given the same number."""
    monkeypatch.setattr(state_writer, "AUDIT", 0.2)
    fenced: list[list[str]] = []
    first, second = core("one", 1), core("two", 1)
    first.on_fenced = fenced.append
    await first.inherit(MODULE)
    await first.inherit("mod-2")
    await second.inherit(MODULE)
    await second.inherit("mod-2")
    change(first, power=b'"one"')
    assert await first.drained([MODULE], 5)
    change(second, power=b'"two"')
    assert await second.drained([MODULE], 5)
    assert await holds(redis, power=b'"two"')
    await until(lambda: fenced == [[MODULE], ["mod-2"]])  # the latter by the audit


async def test_memory_that_nobody_made_old_stays(core, redis):
    """The next view leaves the module here: what was not written yet is not lost."""
    one = core("one", 1, running=False)
    await one.inherit(MODULE)
    change(one, power=b"1")
    one.view_number = 2
    assert await one.inherit(MODULE) == {"power": b"1"}
    await one.flush(5)
    assert await holds(redis, power=b"1")


async def test_drained_waits_for_redis_and_gives_up_in_time(core, redis, monkeypatch):
    writer = core("one", 1)
    await writer.inherit(MODULE)
    assert await writer.drained([MODULE], 5)
    held, going_on = asyncio.Event(), asyncio.Event()
    write = StateStore.write

    async def slow(self, *arguments):
        held.set()
        await going_on.wait()
        return await write(self, *arguments)

    monkeypatch.setattr(StateStore, "write", slow)
    change(writer, power=b"1")
    await held.wait()
    assert not await writer.drained([MODULE], 0.2)
    assert await writer.drained(["mod-other"], 0.2)
    waiting = asyncio.create_task(writer.drained([MODULE], 10))
    await asyncio.sleep(0)
    assert not waiting.done()
    going_on.set()
    assert await waiting
    assert await holds(redis, power=b"1")


# -- Redis that lost data ------------------------------------------------------------------------


async def test_an_older_redis_is_noticed_by_the_next_batch(core, redis, until):
    """Failed over to a replica that lacked the last writes: no connection error tells."""
    again: list[bool] = []
    writer = core("one", 1)
    writer.on_rewrite = lambda: again.append(True)
    await writer.inherit("mod-2")
    writer.change("mod-2", [("a", Raw(b"1"))])
    await writer.inherit(MODULE)
    change(writer, power=b"1")
    assert await writer.drained([MODULE, "mod-2"], 5)
    await redis.flushdb()
    change(writer, other=b"2")
    await until(lambda: holds(redis, power=b"1", other=b"2"))
    await until(lambda: redis.exists(keys.status("mod-2")))  # which has not changed since
    assert again == [True]


async def test_an_audit_finds_what_no_change_would_tell(core, redis, until, monkeypatch):
    monkeypatch.setattr(state_writer, "AUDIT", 0.2)
    fenced: list[list[str]] = []
    writer, other = core("one", 1), core("two", 2)
    writer.on_fenced = fenced.append
    await writer.inherit(MODULE)
    change(writer, connected=b"true")
    assert await writer.drained([MODULE], 5)
    # Housekeeping took this core for dead, and says so in the record.
    await redis.hset(keys.status(MODULE), "connected", "false")
    await redis.set(keys.owner(MODULE), "1 - -")
    await until(lambda: holds(redis, connected=b"true"))
    assert fenced == []
    await other.inherit(MODULE)
    await until(lambda: fenced)


# -- versions of drivers -------------------------------------------------------------------------


async def test_keys_of_an_older_version_go_when_the_newer_did_not_set_them(
    core, redis, until, monkeypatch
):
    monkeypatch.setattr(state_writer, "SETTLE", 0.3)
    writer = core("one", 1)
    await writer.inherit(MODULE, "drv@1")
    change(writer, same=b"1", other=b"1", unset=b"1")
    assert await writer.drained([MODULE], 5)
    assert not writer.outdated(MODULE)
    newer = core("two", 2)
    inherited = await newer.inherit(MODULE, "drv@2")
    assert set(inherited) == {"same", "other", "unset"}
    assert newer.outdated(MODULE)
    change(newer, same=b"1", other=b"2")
    await asyncio.sleep(0.5)  # its device has not answered: nothing is known yet
    assert await holds(redis, same=b"1", other=b"2", unset=b"1")
    change(newer, connected=b"true")
    await until(lambda: holds(redis, same=b"1", other=b"2", connected=b"true"))
    assert not newer.outdated(MODULE)
    assert await newer.drained([MODULE], 5)
    assert (await redis.get(keys.owner(MODULE))).split()[1] == b"drv@2"


async def test_a_restart_in_the_same_version_drops_nothing(core, redis, monkeypatch):
    monkeypatch.setattr(state_writer, "SETTLE", 0.1)
    first, second = core("one", 1), core("two", 2)
    await first.inherit(MODULE, "drv@1")
    change(first, kept=b"1", connected=b"true")
    assert await first.drained([MODULE], 5)
    await second.inherit(MODULE, "drv@1")
    await asyncio.sleep(0.4)
    assert await second.drained([MODULE], 5)
    assert await holds(redis, kept=b"1", connected=b"true")


async def test_a_value_set_anew_to_the_same_is_not_published(core, redis):
    first, second = core("one", 1), core("two", 2)
    await first.inherit(MODULE, "drv@1")
    change(first, same=b"1")
    assert await first.drained([MODULE], 5)
    await second.inherit(MODULE, "drv@2")
    pubsub = redis.pubsub()
    await pubsub.subscribe(keys.status_channel(MODULE, "same"))
    await pubsub.get_message(timeout=5)
    change(second, same=b"1")  # the driver only confirms it
    change(second, same=b"2")
    assert await second.drained([MODULE], 5)
    assert (await pubsub.get_message(timeout=5))["data"] == b"2"
    await pubsub.aclose()


# -- lookup tables -------------------------------------------------------------------------------


@pytest.fixture
async def lookups(redis):
    """Makes lookup writers of several cores; `tables` is what they would write."""
    tasks = []

    def make(number: int, tables: dict[str, dict[str, str]]) -> LookupWriter:
        writer = LookupWriter(
            redis, table=tables.get, owns=lambda _: True, view_number=lambda: number
        )
        tasks.append(asyncio.create_task(writer.run()))
        return writer

    yield make
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def test_a_table_is_written_by_the_owner_of_the_latest_view(lookups, redis, caplog, until):
    old_tables = {"sys-1": {"Display/1": "mod-1"}}
    old = lookups(1, old_tables)
    old.touch(["sys-1"])
    await until(lambda: redis.exists(keys.system("sys-1")))
    pubsub = redis.pubsub()
    await pubsub.subscribe(keys.LOOKUP_CHANGE)
    await pubsub.get_message(timeout=5)
    new = lookups(2, {"sys-1": {"Display/1": "mod-1"}})
    new.touch(["sys-1"])
    await until(lambda: owner_is(redis, "sys-1", b"2"))
    assert await pubsub.get_message(timeout=0.3) is None  # the same table: nothing to announce
    old_tables["sys-1"] = {"Display/1": "mod-late"}
    with caplog.at_level(logging.WARNING, "placeos.core"):
        old.touch(["sys-1"])
        await until(lambda: "lookup is another's" in caplog.text)
    assert await redis.hgetall(keys.system("sys-1")) == {b"Display/1": b"mod-1"}
    assert await pubsub.get_message(timeout=0.3) is None
    await pubsub.aclose()


async def owner_is(redis, record: str, text: bytes) -> bool:
    return await redis.get(keys.owner(record)) == text


async def test_a_deleted_system_leaves_nothing_and_is_announced(lookups, redis, until):
    tables = {"sys-1": {f"Display/{n}": f"mod-{n}" for n in range(5_000)}}
    writer = lookups(1, tables)
    writer.touch(["sys-1"])

    async def whole() -> bool:
        return await redis.hlen(keys.system("sys-1")) == 5_000

    await until(whole)
    pubsub = redis.pubsub()
    await pubsub.subscribe(keys.LOOKUP_CHANGE)
    await pubsub.get_message(timeout=5)
    del tables["sys-1"]
    writer.touch(["sys-1"])
    assert (await pubsub.get_message(timeout=5))["data"] == b"sys-1"
    assert not await redis.exists(keys.system("sys-1"), keys.owner("sys-1"))
    await pubsub.aclose()
