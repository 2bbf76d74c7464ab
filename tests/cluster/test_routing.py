"""Calls reach the owner, through moves, losses and late starts, and each is answered once."""

from __future__ import annotations

import asyncio

import pytest

from placeos.cluster.routing import Router
from placeos.wire.errors import CallError, Failure
from placeos.wire.frame import Command, Header
from placeos.wire.messages import LogLine


@pytest.fixture
async def router(engines, etcd, secret):
    found = Router(engines.etcd_endpoints, secret=secret, service="api", identity="api-1")
    task = asyncio.create_task(found.run())
    yield found
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


def ask(module: str = "mod-1") -> Header:
    return Header(Command.EXECUTE, module=module, function="f")


async def test_a_call_waits_for_the_first_core(router, core):
    call = asyncio.create_task(router.request(ask(), b"[]", timeout=10))
    await asyncio.sleep(0.2)
    assert not call.done()
    await core("core-1")
    _, body = await call
    assert body == b'"core-1"'
    assert [node.identity for node in router.nodes()] == ["core-1"]


async def test_calls_go_to_the_owner(router, core, until):
    await core("core-1")
    await core("core-2")
    await until(lambda: router._registry.view and len(router._registry.view.members) == 2)
    answers = set()
    for number in range(20):
        module = f"mod-{number}"
        _, body = await router.request(ask(module), b"[]", timeout=5)
        assert body.decode().strip('"') == router.owner(module)
        answers.add(body)
    assert len(answers) == 2


async def test_moved_is_looked_up_again(router, core):
    one = await core("core-1")
    one.moved = 3
    _, body = await router.request(ask(), b"[]", timeout=5)
    assert body == b'"core-1"'
    assert len([header for header in one.seen if header.command == Command.EXECUTE]) == 4


async def test_a_lost_call_may_have_run_and_later_ones_find_the_new_process(router, core, until):
    one = await core("core-1")
    await router.request(ask(), b"[]", timeout=5)
    one.hold = []
    lost = asyncio.create_task(router.request(ask(), b"[]", timeout=5))
    await until(lambda: one.hold)
    await one.stop(leave=False)
    with pytest.raises(CallError) as caught:
        await lost
    assert caught.value.failure == Failure.MAY_HAVE_RUN
    waiting = asyncio.create_task(router.request(ask(), b"[]", timeout=8))
    await core("core-1", predecessor=one.incarnation)
    assert (await waiting)[1] == b'"core-1"'


async def test_a_cancelled_call_is_told_and_never_answered(router, core, until):
    one = await core("core-1")
    await router.request(ask(), b"[]", timeout=5)
    one.hold = []
    answers = []
    cancel = router.call(ask(), b"[]", lambda header, body: answers.append(header))
    await until(lambda: one.hold)
    cancel()
    cancel()
    await until(lambda: one.cancelled)
    link, sequence = one.hold[0]
    link.reply(sequence)
    await router.request(Header(Command.PING, module="mod-1"), b"", timeout=5)
    assert answers == []


async def test_patience_ends(router, monkeypatch):
    monkeypatch.setattr("placeos.cluster.routing.PATIENCE", 0.3)
    with pytest.raises(CallError) as caught:
        await router.request(ask(), b"[]", timeout=5)
    assert caught.value.failure == Failure.NOT_RUN
    assert "no core is running" in caught.value.message


async def test_a_core_with_another_secret_is_refused(engines, etcd, core):
    await core("core-1")
    router = Router(engines.etcd_endpoints, secret=b"wrong", service="api", identity="api-1")
    task = asyncio.create_task(router.run())
    with pytest.raises(CallError):
        await router.request(ask(), b"[]", timeout=1)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_watchers_of_one_log_share_one_debug_and_survive_a_restart(router, core, until):
    one = await core("core-1")
    first: list[bytes] = []
    second: list[bytes] = []
    stop_first = router.debug("mod-1", first.append)
    stop_second = router.debug("mod-1", second.append)
    await until(lambda: any(header.command == Command.DEBUG for header in one.seen))
    await one.stop(leave=False)
    two = await core("core-1", predecessor=one.incarnation)
    await until(lambda: any(header.command == Command.DEBUG for header in two.seen))
    line = b'{"level":1,"message":"hello"}'
    next(iter(two.links)).send(Header(Command.LOG, module="mod-1"), line)
    await until(lambda: first == second == [line])
    assert LogLine(1, "hello")
    stop_first()
    stop_second()
    await until(lambda: any(header.command == Command.IGNORE for header in two.seen))
    assert len([header for header in two.seen if header.command == Command.DEBUG]) == 1


async def test_asking_one_core(router, core, until):
    await core("core-1")
    await core("core-2")
    await router.request(ask(), b"[]", timeout=5)
    await until(lambda: len([p for p in router._peers.values() if p.link]) == 2)
    for identity in ("core-1", "core-2"):
        _, body = await router.ask(identity, Header(Command.STATS), timeout=5)
        assert body.decode() == f'"{identity}"'
    with pytest.raises(CallError):
        await router.ask("core-9", Header(Command.STATS), timeout=5)
