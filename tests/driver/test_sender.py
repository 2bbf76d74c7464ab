"""The queue at work on an event loop, in which hours take no time."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from placeos.driver.command import Command, Gate
from placeos.driver.errors import NoReply, Offline, Superseded, Withdrawn
from placeos.driver.sender import Sender

log = logging.getLogger("tested")


class Wire:
    """What a sender wrote, and when; and what it told."""

    def __init__(self, loop: asyncio.AbstractEventLoop, **options: Any) -> None:
        self.loop = loop
        self.written: list[tuple[float, Any]] = []
        self.told: list[str] = []
        self.answer: Callable[[Any], None] = lambda data: None
        self.sender = Sender(
            self._write,
            lambda: self.told.append("silence"),
            log,
            on_wanted=lambda: self.told.append("wanted"),
            on_idle=lambda: self.told.append("idle"),
            **options,
        )

    def _write(self, data: Any) -> None:
        self.written.append((self.loop.time() - 1000, data))
        self.answer(data)

    def send(self, data: Any, **options: Any) -> asyncio.Task[Any]:
        return self.loop.create_task(self.sender.send(Command(data, **options)))


@pytest.fixture
def run(fake_time) -> Callable[..., None]:
    """Runs a scene with a wire."""

    def run_scene(scene: Callable[[Wire], Coroutine[Any, Any, None]], **options: Any) -> None:
        async def main() -> None:
            wire = Wire(fake_time, **options)
            await asyncio.wait_for(scene(wire), 10_000)

        fake_time.run_until_complete(main())

    return run_scene


def test_a_silent_device(run):
    async def scene(wire: Wire) -> None:
        wire.sender.set_gate(Gate.OPEN)
        with pytest.raises(NoReply, match=r"within 2 s \(3 attempts\)"):
            await wire.send(b"a", timeout=2, retries=2, delay=0.5)
        assert wire.written == [(0, b"a"), (2.5, b"a"), (5, b"a")]
        assert wire.told == ["silence", "idle"]

    run(scene)


def test_a_device_that_says_something_else_is_not_silent(run):
    async def scene(wire: Wire) -> None:
        wire.sender.set_gate(Gate.OPEN)
        sent = wire.send(b"a", timeout=2, retries=0, match=lambda data: data == b"A")
        await asyncio.sleep(1)
        assert not wire.sender.offer(b"B")
        with pytest.raises(NoReply):
            await sent
        assert wire.told == ["idle"]

    run(scene)


def test_replies_of_several_in_flight(run):
    async def scene(wire: Wire) -> None:
        wire.sender.set_gate(Gate.OPEN)
        one = wire.send(b"1", match=lambda data: data.startswith(b"1"))
        two = wire.send(b"2", match=lambda data: data.startswith(b"2"))
        three = wire.send(b"3")
        await asyncio.sleep(1)
        assert [data for _, data in wire.written] == [b"1", b"2"]
        assert wire.sender.offer(b"2 two")
        assert wire.sender.offer(b"1 one")
        assert await asyncio.gather(one, two) == [b"1 one", b"2 two"]
        assert wire.sender.offer(b"three")
        assert await three == b"three"
        assert not wire.sender.busy

    run(scene, in_flight=2)


def test_a_match_that_fails_accepts_nothing(run):
    async def scene(wire: Wire) -> None:
        wire.sender.set_gate(Gate.OPEN)
        sent = wire.send(b"a", match=lambda data: data[5] == 0, retries=0)
        await asyncio.sleep(0)
        assert not wire.sender.offer(b"x")
        with pytest.raises(NoReply):
            await sent

    run(scene)


def test_on_demand(run):
    async def scene(wire: Wire) -> None:
        sent = wire.send(b"a", timeout=5)
        await asyncio.sleep(3)
        assert wire.told == ["wanted"]
        wire.sender.set_gate(Gate.OPEN)
        wire.sender.offer(b"A")
        assert await sent == b"A"
        assert wire.told == ["wanted", "idle"]
        wire.sender.set_gate(Gate.CLOSED)
        lost = [wire.send(b"b", timeout=5), wire.send(b"c", name="c")]
        await asyncio.sleep(1)
        wire.sender.clear(error=Offline("refused"))
        for task in lost:
            with pytest.raises(Offline, match="refused"):
                await task

    run(scene, on_demand=True)


def test_a_command_nobody_waits_for_any_more_is_not_sent(run):
    async def scene(wire: Wire) -> None:
        wire.sender.set_gate(Gate.OPEN)
        wire.send(b"a", timeout=1, retries=0)
        cancelled = wire.send(b"b")
        await asyncio.sleep(0.5)
        cancelled.cancel()
        await asyncio.sleep(100)
        assert wire.written == [(0, b"a")]

    run(scene)


def test_carried_out_by_somebody_else(run):
    """As HTTP does: requests and responses are objects, failures are told."""

    async def scene(wire: Wire) -> None:
        wire.sender.set_gate(Gate.OPEN)
        under_way: list[Command] = []
        tasks = [
            wire.loop.create_task(
                wire.sender.send(Command({"path": n}, retries=1, via=under_way.append))
            )
            for n in range(3)
        ]
        await asyncio.sleep(1)
        wire.sender.reply(under_way[0], {"status": 200})
        assert await tasks[0] == {"status": 200}
        wire.sender.fail(under_way[1], ConnectionError("reset"), again=True)
        wire.sender.fail(under_way[-1], ConnectionError("reset again"), again=True)
        with pytest.raises(ConnectionError, match="reset again"):
            await tasks[1]
        assert [command.data["path"] for command in under_way] == [0, 1, 1, 2]
        wire.sender.fail(under_way[-1], ValueError("no"))
        wire.sender.reply(under_way[-1], {"status": 200})  # it is over
        with pytest.raises(ValueError, match="no"):
            await tasks[2]

    run(scene)


def test_a_write_that_fails_ends_its_command_alone(run):
    async def scene(wire: Wire) -> None:
        def answer(data: bytes) -> None:
            if data == b"bad":
                raise Offline("gone")
            wire.loop.call_later(1, wire.sender.offer, data)

        wire.answer = answer
        wire.sender.set_gate(Gate.OPEN)
        tasks = [wire.send(b"bad"), wire.send(b"good"), wire.send(b"bad", wait=False)]
        results = await asyncio.gather(*tasks, return_exceptions=True)
        assert [type(result) for result in results] == [Offline, bytes, Offline]

    run(scene)


def test_replies_at_once_do_not_confuse_it(run):
    async def scene(wire: Wire) -> None:
        wire.answer = lambda data: wire.sender.offer(data.upper()) and None
        wire.sender.set_gate(Gate.OPEN)
        tasks = [wire.send(data) for data in (b"a", b"b", b"c")]
        assert await asyncio.gather(*tasks) == [b"A", b"B", b"C"]

    run(scene)


def test_more_time(run):
    async def scene(wire: Wire) -> None:
        wire.sender.set_gate(Gate.OPEN)
        sent = wire.send(b"a", timeout=2, retries=0)
        for _ in range(5):
            await asyncio.sleep(1.5)
            wire.sender.extend()
        wire.sender.offer(b"at last")
        assert await sent == b"at last"
        assert wire.written == [(0, b"a")]

    run(scene)


def test_an_until_that_fails_is_told_to_who_sent_it(run):
    async def scene(wire: Wire) -> None:
        wire.sender.set_gate(Gate.OPEN)
        sent = wire.send(b"a", until=lambda data: 1 / 0)
        await asyncio.sleep(0)
        assert wire.sender.offer(b"x")
        with pytest.raises(ZeroDivisionError):
            await sent
        assert not wire.sender.busy

    run(scene)


def test_errors_say_what_happened(run):
    async def scene(wire: Wire) -> None:
        wire.sender.set_gate(Gate.OPEN)
        first = wire.send(b"a", name="power")
        old = wire.send(b"b", name="volume")
        new = wire.send(b"c", name="volume")
        await asyncio.sleep(1)
        with pytest.raises(Superseded, match="a newer 'volume' command"):
            await old
        wire.sender.clear(current=True)
        for task, name in ((first, "power"), (new, "volume")):
            with pytest.raises(Withdrawn, match=name):
                await task

    run(scene)


def test_a_reply_that_clears_the_queue(run):
    async def scene(wire: Wire) -> None:
        wire.sender.set_gate(Gate.OPEN)
        off = wire.send(b"off", clears=True)
        waiting = wire.send(b"volume")
        await asyncio.sleep(1)
        wire.sender.offer(b"ok")
        assert await off == b"ok"
        with pytest.raises(Withdrawn):
            await waiting

    run(scene)


def test_a_thousand_commands_that_cannot_be_written(run):
    """One fails after the other, as when the device takes nothing any more."""

    async def scene(wire: Wire) -> None:
        def refuse(data: Any) -> None:
            if data != b"first":
                raise Offline("it takes nothing")

        wire.answer = refuse
        wire.sender.set_gate(Gate.OPEN)
        first = wire.send(b"first")
        others = [wire.send(b"x") for _ in range(1000)]
        await asyncio.sleep(1)
        assert wire.sender.offer(b"ok")
        assert await first == b"ok"
        ends = await asyncio.gather(*others, return_exceptions=True)
        assert {type(end) for end in ends} == {Offline}
        assert not wire.sender.busy
        assert wire.told == ["idle"]

    run(scene)


def test_match_that_fails_keeps_no_reply_from_others(run):
    """As one does that looks at the second byte of a message without any."""

    async def scene(wire: Wire) -> None:
        wire.sender.set_gate(Gate.OPEN)
        picky = wire.send(b"a", retries=0, timeout=5, match=lambda data: data[1] == 1)
        other = wire.send(b"b", match=lambda data: data == b"B")
        await asyncio.sleep(1)
        assert wire.sender.offer(b"B")
        assert await other == b"B"
        assert not wire.sender.offer(b"")
        assert wire.sender.offer(b"\0\1")
        assert await picky == b"\0\1"

    run(scene, in_flight=2)
