"""The switch: calls that wait for a module, and those of drivers to modules of another core."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator

import msgspec
import pytest

from placeos.cluster.routing import Router
from placeos.core import calls
from placeos.core.calls import Origin, Switch
from placeos.core.listener import DebugLog, Listener
from placeos.wire.errors import CallError, Failure
from placeos.wire.frame import Command, Header
from placeos.wire.link import Link


async def pair(switch: Switch, remote: Router | None = None) -> tuple[Link, Link]:
    """A link to the switch, as a driver process or another service has one: both its ends."""
    loop = asyncio.get_running_loop()
    here, there = socket.socketpair()

    def serve(link: Link, header: Header, payload: bytes) -> None:
        if remote is not None:
            switch.execute_elsewhere(origin, header, payload, remote)
        else:
            switch.execute(origin, header, payload)

    near = Link(serve, server=True, on_cancel=lambda sequence: origin.cancel(sequence))
    origin = Origin(near)
    far = Link(lambda *_: None)
    await loop.create_connection(lambda: near, sock=here)
    await loop.create_connection(lambda: far, sock=there)
    await far.ready
    await near.ready
    return near, far


@pytest.fixture
async def module() -> AsyncIterator[Link]:
    """The switch's end of the link to a process whose module answers its own arguments."""
    loop = asyncio.get_running_loop()
    here, there = socket.socketpair()
    near = Link(lambda *_: None, server=True)
    far = Link(lambda link, header, payload: link.reply(header.sequence, payload))
    await loop.create_connection(lambda: near, sock=here)
    await loop.create_connection(lambda: far, sock=there)
    await near.ready
    yield near
    near.close()
    far.close()


def ask(**more: int) -> Header:
    return Header(Command.EXECUTE, module="mod-1", function="f", **more)


async def test_a_call_waits_for_its_module_beside_its_time(module: Link) -> None:
    switch = Switch(lambda _: None)
    near, far = await pair(switch)
    call = asyncio.create_task(far.request(ask(), b"[1]", timeout=0.3))
    await asyncio.sleep(0.6)
    assert not call.done()
    switch.started("mod-1", module)
    answer, body = await call
    assert body == b"[1]"
    assert 550 <= answer.waited < 5000
    near.close()
    far.close()


async def test_what_it_waited_elsewhere_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calls, "PATIENCE", 1.0)
    switch = Switch(lambda _: None)
    sweep = asyncio.create_task(switch.run())
    near, far = await pair(switch)
    loop = asyncio.get_running_loop()
    began = loop.time()
    with pytest.raises(CallError) as caught:
        await far.request(ask(waited=900), b"[]", timeout=5)
    assert caught.value.failure == Failure.NOT_RUN
    assert loop.time() - began < 0.9
    sweep.cancel()
    near.close()
    far.close()


async def test_a_call_whose_caller_is_gone_is_not_run(module: Link) -> None:
    switch = Switch(lambda _: None)
    near, far = await pair(switch)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.2):
            await far.request(ask(), b"[]", timeout=0.05)  # its time stands still
    for _ in range(100):
        if all(call.done for waiting in switch._waiting.values() for call in waiting):
            break
        await asyncio.sleep(0.01)
    assert all(call.done for waiting in switch._waiting.values() for call in waiting)
    sent: list[Header] = []
    monitor = module.call
    module.call = lambda header, *more: sent.append(header) or monitor(header, *more)  # type: ignore
    switch.started("mod-1", module)
    assert sent == []
    near.close()
    far.close()


async def test_a_driver_calls_a_module_of_another_core(engines, module: Link) -> None:
    """Two switches, a router between them: answered, waited for, and cancelled over there."""
    from placeos.cluster.etcd import Etcd, Put
    from placeos.cluster.membership import Membership
    from placeos.cluster.registry import PREFIX, Registration, Registry
    from placeos.cluster.view import VIEW_KEY, Member, View

    secret = b"the secret of these cores"
    away = Switch(lambda _: None)
    listener = Listener(
        ("127.0.0.1", 0),
        secret=secret,
        identity="core-2",
        switch=away,
        debug=DebugLog(away),
        asks={},
    )
    async with Etcd(engines.etcd_endpoints) as etcd, listener:
        for item in (await etcd.list(PREFIX)).items:
            await etcd.delete(item.key)
        registry = Registry(etcd)
        membership = Membership(
            etcd,
            service="core",
            identity="core-2",
            registration=Registration("a", f"127.0.0.1:{listener.port}"),
            ttl=3,
        )
        router = Router(
            engines.etcd_endpoints,
            secret=secret,
            service="core",
            identity="core-1",
            registry=registry,
        )
        view = View("epoch", 1, (Member("core-2", "a"),), completed=True)
        await etcd.txn([], [Put(VIEW_KEY, msgspec.json.encode(view))])
        jobs = (membership.run(), registry.run(), router.run())
        tasks = [asyncio.create_task(job) for job in jobs]
        near, far = await pair(Switch(lambda _: None), router)
        try:
            waiting = asyncio.create_task(far.request(ask(), b"[7]", timeout=0.3))
            async with asyncio.timeout(10):
                while not away._waiting:
                    await asyncio.sleep(0.01)
            await asyncio.sleep(0.4)
            away.started("mod-1", module)
            answer, body = await waiting
            assert body == b"[7]"
            assert answer.waited >= 390
            away.stopped("mod-1")
            gone = asyncio.create_task(far.request(ask(), b"[8]", timeout=5))
            async with asyncio.timeout(5):
                while not away._waiting:
                    await asyncio.sleep(0.01)
            [call] = away._waiting["mod-1"]
            gone.cancel()
            async with asyncio.timeout(5):
                while not call.done:
                    await asyncio.sleep(0.01)
        finally:
            near.close()
            far.close()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
