"""Jobs: watched, cancelled from outside or with their caller, a few at once."""

from __future__ import annotations

import asyncio

import msgspec
import pytest

from placeos.core.jobs import AT_ONCE, KEPT, MAX_LINES, Job, JobCancelled, Jobs, State
from placeos.wire.frame import Command, Header


async def test_a_job_gives_its_result_and_tells_what_it_does():
    jobs = Jobs()

    async def work(job: Job) -> int:
        assert job.state is State.RUNNING
        job.say("first\n")
        job.say("   ")
        job.commit = "abc"
        return 7

    assert await jobs.run("pull", "drivers", "Pull drivers", work) == 7
    (found,) = msgspec.json.decode(await jobs.answer_list(Header(Command.JOBS)))
    assert found["state"] == "done"
    assert found["lines"] == ["first"]
    assert (found["kind"], found["subject"], found["commit"]) == ("pull", "drivers", "abc")
    assert found["finished"] >= found["started"]


async def test_a_failure_reaches_the_caller_and_is_the_last_line():
    jobs = Jobs()

    async def work(job: Job) -> None:
        raise ValueError("no such package")

    with pytest.raises(ValueError, match="no such package"):
        await jobs.run("build", "a.py", "Build", work)
    (job,) = jobs.listed()
    assert job.state is State.ERROR
    assert job.lines[-1] == "no such package"


async def test_cancelled_from_outside():
    jobs = Jobs()
    cleaned = asyncio.Event()

    async def work(job: Job) -> None:
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            cleaned.set()

    running = asyncio.create_task(jobs.run("build", "a.py", "Build a.py", work))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    (job,) = jobs.listed()
    answer = await jobs.answer_cancel(Header(Command.CANCEL_JOB, function=job.id))
    assert answer == b"true"
    with pytest.raises(JobCancelled, match=r"Build a\.py"):
        await running
    assert cleaned.is_set()
    assert job.state is State.CANCELLED
    assert not jobs.cancel(job.id), "it is over"
    assert not jobs.cancel("nobody")


async def test_ends_with_its_caller():
    jobs = Jobs()
    ended = asyncio.Event()

    async def work(job: Job) -> None:
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            await asyncio.sleep(0)
            ended.set()

    running = asyncio.create_task(jobs.run("build", "a.py", "Build", work))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert ended.is_set()
    assert jobs.listed()[0].state is State.CANCELLED


async def test_a_few_at_once_the_others_are_pending():
    jobs = Jobs()
    go = asyncio.Event()

    async def work(job: Job) -> None:
        await go.wait()

    running = [asyncio.create_task(jobs.run("build", f"{n}", "B", work)) for n in range(5)]
    other = asyncio.create_task(jobs.run("pull", "r", "P", work))
    for _ in range(3):
        await asyncio.sleep(0)
    states = [job.state for job in jobs.listed() if job.kind == "build"]
    assert states.count(State.RUNNING) == AT_ONCE
    assert states.count(State.PENDING) == 5 - AT_ONCE
    assert next(job for job in jobs.listed() if job.kind == "pull").state is State.RUNNING
    pending = next(job for job in jobs.listed() if job.state is State.PENDING)
    assert jobs.cancel(pending.id), "one that waits can be cancelled as well"
    go.set()
    results = await asyncio.gather(*running, other, return_exceptions=True)
    assert [type(one) for one in results if one is not None] == [JobCancelled]


async def test_what_is_kept_is_bounded():
    jobs = Jobs()

    async def work(job: Job) -> None:
        for number in range(MAX_LINES + 10):
            job.say(f"{number} " + "x" * 10_000)

    for _ in range(KEPT + 5):
        await jobs.run("build", "a.py", "Build", work)
    assert len(jobs.listed()) == KEPT
    assert len(jobs.listed()[0].lines) == MAX_LINES
    assert len(await jobs.answer_list(Header(Command.JOBS))) < 16 * 1024 * 1024
