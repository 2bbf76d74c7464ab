"""Modules that move stop together, once the calls of all of them have ended."""

from __future__ import annotations

import asyncio

from placeos.core.together import Together

LONG = 5.0  # seconds


async def test_one_waits_for_the_calls_of_the_others() -> None:
    together = Together()
    together.deciding()
    together.expect("a")
    together.ended("a")
    waiting = asyncio.create_task(together.wait(LONG))
    await asyncio.sleep(0)
    together.expect("b")
    together.decided()
    await asyncio.sleep(0)
    assert not waiting.done()
    together.ended("b")
    await waiting


async def test_more_may_come_until_it_is_decided() -> None:
    together = Together()
    together.deciding()
    together.expect("a")
    together.ended("a")
    waiting = asyncio.create_task(together.wait(LONG))
    await asyncio.sleep(0)
    assert not waiting.done()
    together.decided()
    await waiting


async def test_calls_without_an_end_are_not_waited_for_for_ever() -> None:
    together = Together()
    together.expect("a")
    together.decided()
    await together.wait(0.01)
