"""A call on its way, and all the ways in which somebody may wait for it or not."""

from __future__ import annotations

import asyncio
import gc
import logging

import pytest

from placeos.driver.errors import RemoteError
from placeos.driver.remote import Asker, Place, RemoteCall, RemoteModule, split_name
from placeos.wire.messages import SystemRecord, SystemView

LIMIT = 20.0


class Platform:
    """Core as it answers here: `power` at once, `fail` never well, `hang` never."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.cancelled = 0

    async def execute(self, place, function, payload, seconds=None):
        self.asked.append(f"{place} {function} {payload.decode()} {seconds}")
        if function == "fail":
            raise RemoteError("no luck", code=409, kind="Luck")
        try:
            await asyncio.sleep(3600 if function == "hang" else 0)
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        return b"true"

    async def read(self, place, key, seconds=None):
        if key == "fail":
            raise RemoteError("core is busy", code=503, failure="busy")
        if key == "nowhere":  # as core answers where there is no such module
            raise RemoteError("could not find module", code=404, failure="module_not_found")
        return b"null"

    async def system(self, system_id, seconds=None):
        return SystemView(SystemRecord(id=system_id, name="Room"), [])


@pytest.fixture
async def remote(caplog):
    """A proxy, its platform and the tasks it started."""
    tasks: list[asyncio.Task[object]] = []

    def spawn(job, name, *, report=True):
        assert not report  # a failure may well be awaited
        tasks.append(asyncio.get_running_loop().create_task(job, name=name))
        return tasks[-1]

    platform = Platform()
    asker = Asker(platform, spawn, logging.getLogger("tested"), None)
    yield RemoteModule(asker, Place("sys-1", "Display", 2)), platform, tasks, caplog
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def make(remote, function):
    module, _platform, tasks, _caplog = remote
    return module.call(function), tasks[-1]


async def ended(task):
    async with asyncio.timeout(LIMIT):
        await asyncio.wait([task])


async def test_where_it_goes(remote):
    module, platform, _, _ = remote
    assert await module.power(True, 3) is True
    assert await module.within(2).power(state=True, from_="a") is True
    assert platform.asked == [
        "sys-1/Display/2 power [true,3] None",
        'sys-1/Display/2 power {"state":true,"from":"a"} 2',
    ]


async def test_it_leaves_before_anybody_waits(remote):
    call, task = make(remote, "power")
    await ended(task)
    assert remote[1].asked
    assert await call is True
    assert await call is True  # the result stays


async def test_a_failure(remote):
    call, _ = make(remote, "fail")
    with pytest.raises(RemoteError, match=r"^Display_2\.fail: no luck$") as caught:
        await call
    assert (caught.value.code, caught.value.kind) == (409, "Luck")
    assert remote[3].text == ""


@pytest.mark.parametrize("early", [True, False], ids=["dropped before its end", "dropped after"])
async def test_a_failure_nobody_waits_for(remote, early):
    call, task = make(remote, "fail")
    if not early:
        await ended(task)
    del call
    gc.collect()
    await ended(task)
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    lines = [record.getMessage() for record in remote[3].records]
    assert lines == ["Display_2.fail: no luck (nothing waited for the result)"]


async def test_a_success_nobody_waits_for(remote):
    call, task = make(remote, "power")
    del call
    await ended(task)
    await asyncio.sleep(0)
    assert remote[3].text == ""


async def direct(call: RemoteCall[object]) -> object:
    return await call


WAYS = {
    "await": direct,
    "task": lambda call: asyncio.create_task(call),
    "gather": lambda call: asyncio.gather(call),
    "wait_for": lambda call: asyncio.wait_for(call, 3600),
    "shielded in vain": lambda call: asyncio.ensure_future(call),
}


@pytest.mark.parametrize("way", WAYS)
async def test_who_waits_and_is_cancelled_takes_the_call_along(remote, way):
    call, task = make(remote, "hang")
    waiter = asyncio.ensure_future(WAYS[way](call))
    while not remote[1].asked:
        await asyncio.sleep(0)
    await asyncio.sleep(0)
    waiter.cancel()
    await ended(task)
    assert task.cancelled()
    assert remote[1].cancelled == 1
    with pytest.raises(asyncio.CancelledError):
        await waiter


async def test_cancelled_before_it_was_waited_for(remote):
    call, task = make(remote, "hang")
    waiter = asyncio.create_task(call)
    waiter.cancel()  # before its first step
    await ended(task)
    assert task.cancelled()
    with pytest.raises(asyncio.CancelledError):
        await waiter


async def test_given_up(remote):
    call, task = make(remote, "hang")
    call.cancel()
    await ended(task)
    assert task.cancelled()


async def test_errors_of_the_caller_are_told_at_once(remote):
    module = remote[0]
    with pytest.raises(TypeError, match="power: give all arguments by position, or all by name"):
        module.power(True, layer=1)
    with pytest.raises(ValueError, match="expected a number of seconds above 0"):
        module.within(float("nan"))
    with pytest.raises(Exception, match="cannot be written as JSON"):
        module.power(object())
    assert remote[1].asked == []


@pytest.mark.parametrize(
    ("name", "place"),
    [
        ("Display_2", ("Display", 2)),
        ("Display", ("Display", 1)),
        ("My_Display", ("My_Display", 1)),
        ("My_Display_12", ("My_Display", 12)),
        ("_2", ("_2", 1)),
        ("Display_²", ("Display_²", 1)),
    ],
)
def test_names(name, place):
    assert split_name(name) == place


async def test_a_value_that_is_not_there(remote):
    module, *_ = remote
    assert await module.get("power") is None
    assert await module.get("power", False) is False
    assert await module.get("nowhere", False) is False
    with pytest.raises(RemoteError, match=r"Display_2\.fail: core is busy") as caught:
        await module.get("fail")
    assert (caught.value.code, caught.value.failure) == (503, "busy")
