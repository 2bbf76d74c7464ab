"""Calls during a hand-over, over lines that stick, by hints: run once, in time, or not at all."""

from __future__ import annotations

import asyncio
import signal
import socket
import sys

import msgspec
import pytest

from placeos.cluster import hint as hints
from placeos.cluster.etcd import Put
from placeos.cluster.hint import Hint
from placeos.cluster.peers import Peer
from placeos.cluster.registry import NodeInfo
from placeos.cluster.routing import Router
from placeos.cluster.view import VIEW_KEY, Member, View
from placeos.wire.errors import CallError, Failure
from placeos.wire.frame import Command, Header


def ask(module: str = "mod-1", remaining: int = 0) -> Header:
    return Header(Command.EXECUTE, module=module, function="f", remaining=remaining)


def executed(core) -> list[Header]:
    return [header for header in core.seen if header.command == Command.EXECUTE]


@pytest.fixture
async def routers(engines, secret):
    tasks = []

    def start(**more) -> Router:
        router = Router(
            more.pop("endpoints", engines.etcd_endpoints),
            secret=secret,
            service="api",
            identity="api-1",
            **more,
        )
        tasks.append(asyncio.create_task(router.run()))
        return router

    yield start
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


@pytest.fixture
async def router(routers) -> Router:
    return routers()


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


# -- the time of a caller -------------------------------------------------------------------------


async def test_the_wait_for_an_owner_is_told_and_does_not_count(router, core):
    call = asyncio.create_task(router.request(ask(), b"[]", timeout=0.3))
    await asyncio.sleep(0.6)
    assert not call.done()
    one = await core("core-1")
    answer, _ = await call
    assert 600 <= answer.waited < 8000
    assert 200 < executed(one)[0].remaining <= 300
    assert executed(one)[0].waited == answer.waited


async def test_a_call_that_did_not_wait_says_nothing_of_it(router, core):
    await core("core-1")
    await router.request(ask(), b"[]", timeout=5)
    answer, _ = await router.request(ask(), b"[]", timeout=5)
    assert answer.waited == 0


async def test_a_core_that_waits_for_the_module_stops_the_callers_clock(router, core, until):
    one = await core("core-1")
    await router.request(ask(), b"[]", timeout=5)
    one.hold = []
    call = asyncio.create_task(router.request(ask(), b"[]", timeout=0.3))
    await until(lambda: one.hold)
    link, sequence = one.hold[0]
    link.wait(sequence, 8.0)
    await asyncio.sleep(0.6)
    link.answer(Header(Command.REPLY, sequence, code=200, waited=550), b"1")
    answer, body = await call
    assert (body, answer.waited) == (b"1", 550)
    with pytest.raises(CallError) as caught:  # and without a word of it, the clock runs
        await router.request(ask(), b"[]", timeout=0.3)
    assert caught.value.failure == Failure.TIMED_OUT


async def test_nobody_can_stop_the_clock_for_longer_than_patience(router, core, until, monkeypatch):
    monkeypatch.setattr("placeos.wire.waiting.PATIENCE", 0.4)
    one = await core("core-1")
    await router.request(ask(), b"[]", timeout=5)
    one.hold = []
    loop = asyncio.get_running_loop()
    began = loop.time()
    call = asyncio.create_task(router.request(ask(), b"[]", timeout=0.3))
    await until(lambda: one.hold)
    link, sequence = one.hold[0]
    for _ in range(5):
        link.wait(sequence, 1000.0)
    with pytest.raises(CallError):
        await call
    assert 0.6 < loop.time() - began < 3


async def test_a_waiting_call_that_is_cancelled_is_never_sent(router, core, until):
    answers = []
    cancel = router.call(ask(), b"[]", lambda header, _: answers.append(header))
    cancel()
    one = await core("core-1")
    await router.request(ask("mod-2"), b"[]", timeout=5)
    assert [header.module for header in executed(one)] == ["mod-2"]
    assert answers == []


async def test_the_number_of_waiting_calls_is_bounded(router, monkeypatch):
    monkeypatch.setattr("placeos.cluster.routing.MAX_WAITING", 3)
    answers = []
    for _ in range(5):
        router.call(ask(), b"[]", lambda header, _: answers.append(header.error))
    assert answers == [Failure.BUSY] * 2


# -- moved ----------------------------------------------------------------------------------------


async def test_a_core_that_keeps_saying_moved_is_asked_less_and_less(router, core, monkeypatch):
    monkeypatch.setattr("placeos.cluster.routing.PATIENCE", 2.0)
    one = await core("core-1")
    await router.request(ask("other"), b"[]", timeout=5)
    one.moved = 1000
    with pytest.raises(CallError) as caught:
        await router.request(ask(), b"[]", timeout=5)
    assert caught.value.failure == Failure.NOT_RUN
    assert "core-1 does not own the module" in caught.value.message
    assert 3 <= 1000 - one.moved <= 12


async def test_a_pause_ends_although_its_timer_comes_early(router, core, monkeypatch):
    """As those of uvloop do, by a part of a millisecond."""
    loop = asyncio.get_running_loop()
    call_at = loop.call_at
    monkeypatch.setattr(
        loop, "call_at", lambda when, *rest, **more: call_at(when - 0.001, *rest, **more)
    )
    one = await core("core-1")
    await router.request(ask("other"), b"[]", timeout=5)
    one.moved = 3
    await router.request(ask(), b"[]", timeout=5)
    assert len([header for header in executed(one) if header.module == "mod-1"]) == 4


async def test_a_moved_by_a_newer_view_waits_for_that_view(router, core, etcd, until):
    one = await core("core-1")
    await router.request(ask(), b"[]", timeout=5)
    view = router._registry.view
    one.moved, one.view = 1000, view.number + 1
    call = asyncio.create_task(router.request(ask(), b"[]", timeout=5))
    await until(lambda: len(executed(one)) == 2)
    await asyncio.sleep(0.5)
    assert len(executed(one)) == 2  # it does not ask again before it knows more
    one.moved = 0
    newer = msgspec.structs.replace(view, number=view.number + 1, exceptions=(("x", "core-1"),))
    await etcd.txn([], [_put(newer)])
    assert (await call)[1] == b'"core-1"'


async def test_a_moved_of_an_older_view_neither_loops_nor_shakes_what_is_known(
    router, core, etcd, until
):
    one, two = await core("core-1"), await core("core-2")
    await until(lambda: router._registry.view and len(router._registry.view.members) == 2)
    module = next(f"mod-{n}" for n in range(100) if router.owner(f"mod-{n}") == "core-1")
    await etcd.txn([], [_put(msgspec.structs.replace(router._registry.view, number=5))])
    await until(lambda: router._registry.view.number == 5)
    await router.request(ask(module), b"[]", timeout=5)
    known = router._owners[module]
    one.moved, one.view = 2, 4
    _, body = await router.request(ask(module), b"[]", timeout=5)
    assert body == b'"core-1"'
    assert router._owners[module] is known
    assert len(executed(one)) == 4
    assert executed(two) == []


async def test_a_moved_goes_to_the_new_owner_at_once(router, core, etcd, until):
    """The call was on its way to the old owner when the new view came."""
    one, two = await core("core-1"), await core("core-2")
    await until(lambda: router._registry.view and len(router._registry.view.members) == 2)
    module = next(f"mod-{n}" for n in range(100) if router.owner(f"mod-{n}") == "core-1")
    await router.request(ask(module), b"[]", timeout=5)
    one.hold = []
    call = asyncio.create_task(router.request(ask(module), b"[]", timeout=5))
    await until(lambda: one.hold)
    view = router._registry.view
    newer = msgspec.structs.replace(view, number=view.number + 1, exceptions=((module, "core-2"),))
    await etcd.txn([], [_put(newer)])
    await until(lambda: router.owner(module) == "core-2")
    link, sequence = one.hold[0]
    link.fail(sequence, CallError(Failure.MOVED, "not mine", view=newer.number))
    answer, body = await call
    assert body == b'"core-2"'
    assert answer.waited < 1000
    assert len(executed(two)) == 1


def _put(view: View) -> Put:
    return Put(VIEW_KEY, msgspec.json.encode(view))


# -- lines that stick -----------------------------------------------------------------------------


async def test_a_call_that_sat_in_a_cut_line_past_its_time_is_not_run(router, core, line, until):
    async with line(free_port()) as cut:
        one = await core("core-1", line=cut)
        await router.request(ask(), b"[]", timeout=5)
        cut.open.clear()
        late = asyncio.create_task(router.request(ask(), b"[1]", timeout=0.5))
        early = asyncio.create_task(router.request(ask("mod-2"), b"[2]", timeout=5))
        with pytest.raises(CallError) as caught:
            await late
        assert caught.value.failure == Failure.TIMED_OUT
        await until(lambda: cut.held)
        await asyncio.sleep(0.3)
        cut.open.set()
        await early
        assert [header.module for header in executed(one)] == ["mod-1", "mod-2"]
        left = executed(one)[1].remaining
        assert 3000 < left < 4500  # of 5 s, what the line took is gone


async def test_a_half_open_link_ends_and_its_calls_are_told(router, core, line, until, monkeypatch):
    monkeypatch.setattr("placeos.cluster.peers.PROBE", 0.2)
    monkeypatch.setattr("placeos.cluster.peers.SILENCE", 0.4)
    async with line(free_port()) as cut:
        one = await core("core-1", line=cut)
        await router.request(ask(), b"[]", timeout=5)
        one.hold = []
        cut.open.clear()
        calls = [asyncio.create_task(router.request(ask(), b"[]", timeout=30)) for _ in range(5)]
        for call in calls:
            with pytest.raises(CallError) as caught:
                await asyncio.wait_for(call, 5)
            assert caught.value.failure == Failure.MAY_HAVE_RUN
        one.hold = None
        cut.open.set()
        await router.request(ask(), b"[]", timeout=10)


FROZEN = """
import asyncio, sys
from placeos.wire.link import Hello, Link

async def main():
    def make():
        return Link(
            lambda link, header, payload: link.reply(header.sequence, b"1"),
            hello=Hello(service="core", identity="core-1"),
            secret=sys.argv[1].encode(),
            server=True,
        )
    server = await asyncio.get_running_loop().create_server(make, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()

asyncio.run(main())
"""


async def test_a_frozen_core_is_noticed_and_its_calls_are_told(secret, until, monkeypatch):
    """SIGSTOP: the kernel goes on to acknowledge every byte; only the pings tell."""
    monkeypatch.setattr("placeos.cluster.peers.PROBE", 0.2)
    monkeypatch.setattr("placeos.cluster.peers.SILENCE", 0.5)
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", FROZEN, secret.decode(), stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    address = f"127.0.0.1:{(await process.stdout.readline()).decode().strip()}"
    peer = Peer(
        NodeInfo("core", "core-1", "a", address),
        secret=secret,
        service="api",
        identity="api-1",
        on_change=lambda: None,
        on_frame=lambda *_: None,
    )
    task = asyncio.create_task(peer.run())
    try:
        await until(lambda: peer.link)
        link = peer.link
        await link.request(ask(), timeout=5)
        process.send_signal(signal.SIGSTOP)
        with pytest.raises(CallError) as caught:
            await asyncio.wait_for(link.request(ask(), timeout=30), 10)
        assert caught.value.failure == Failure.MAY_HAVE_RUN
        process.send_signal(signal.SIGCONT)
        await until(lambda: peer.link)
        await peer.link.request(ask(), timeout=5)
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        process.kill()
        await process.wait()


# -- hints ----------------------------------------------------------------------------------------


async def test_a_caller_that_starts_without_etcd_goes_by_the_hint(routers, router, core, until):
    await core("core-1")
    await router.request(ask(), b"[]", timeout=5)
    registry = router._registry
    kept = hints.encode(registry.view, registry.nodes("core").values())

    async def read() -> bytes:
        return kept

    lonely = routers(endpoints=[f"http://127.0.0.1:{free_port()}"], view_hint=read)
    _, body = await lonely.request(ask(), b"[]", timeout=5)
    assert body == b'"core-1"'
    assert [node.identity for node in lonely.nodes()] == ["core-1"]


async def test_a_hint_that_fails_or_lies_is_survived_and_etcd_wins(routers, core, monkeypatch):
    monkeypatch.setattr("placeos.cluster.outlook.HINT_AFTER", 0.05)
    reads = 0

    async def read() -> bytes | None:
        nonlocal reads
        reads += 1
        if reads == 1:
            raise ConnectionError("no Redis")
        return b"{" if reads == 2 else None

    await core("core-1")
    lonely = routers(endpoints=[f"http://127.0.0.1:{free_port()}"], view_hint=read)
    monkeypatch.setattr("placeos.cluster.routing.PATIENCE", 0.5)
    with pytest.raises(CallError):
        await lonely.request(ask(), b"[]", timeout=1)
    assert reads > 2
    monkeypatch.undo()
    well = routers(view_hint=read)
    assert (await well.request(ask(), b"[]", timeout=5))[1] == b'"core-1"'


def test_hints_are_read_as_they_were_written():
    view = View("epoch", 7, members=(Member("core-1", "a"),), exceptions=(("mod-1", "core-1"),))
    nodes = [
        NodeInfo("core", identity, "a", "127.0.0.1:1", zone="z") for identity in ("core-1", "gone")
    ]
    assert hints.decode(hints.encode(view, nodes)) == Hint(view, (nodes[0],))
    assert hints.decode(b"\xff") is None
    assert hints.decode(b'{"view":1}') is None
