"""Long work in core that can be watched and cancelled: builds of environments, pulls."""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections import deque
from collections.abc import Awaitable, Callable
from enum import StrEnum
from typing import Final, TypeVar

import msgspec

from placeos.wire.frame import Header

log = logging.getLogger("placeos.core")

AT_ONCE: Final = 2  # jobs of one kind that work side by side; others are pending
KEPT: Final = 50  # finished jobs that can still be looked at
MAX_LINES: Final = 100  # of one job; the oldest go first
MAX_LINE: Final = 1_000  # characters

T = TypeVar("T")


class JobCancelled(Exception):
    """The job was cancelled by somebody who watched it."""


class State(StrEnum):
    """How far a job is."""

    PENDING = "pending"
    RUNNING = "running"
    DONE = "done"
    ERROR = "error"
    CANCELLED = "cancelled"


class Job:
    """One piece of work. Who does it says how far it is by `say`."""

    def __init__(self, kind: str, subject: str, title: str) -> None:
        self.id = secrets.token_hex(8)
        self.kind = kind
        self.subject = subject
        """The driver's file (kind `build`) or the repository (kind `pull`)."""
        self.title = title
        self.branch = ""
        self.commit = ""
        self.state = State.PENDING
        self.started = time.time()
        """Unix seconds at which it was asked for."""
        self.finished: float | None = None
        self.lines: deque[str] = deque(maxlen=MAX_LINES)

    def say(self, line: str) -> None:
        """A line of progress for who watches. Must hold no secret."""
        line = line.rstrip()
        if line:
            self.lines.append(line[:MAX_LINE])


class JobInfo(msgspec.Struct):
    """A job as JOBS tells of it. Times are unix seconds; `lines` are the last ones it said."""

    id: str
    kind: str
    subject: str
    title: str
    branch: str
    commit: str
    state: str
    started: float
    finished: float | None
    lines: list[str]


class Jobs:
    """All jobs of this core. A job belongs to who awaits `run`: it ends with its caller."""

    def __init__(self) -> None:
        self._active: dict[str, tuple[Job, asyncio.Task[object]]] = {}
        self._finished: deque[Job] = deque(maxlen=KEPT)
        self._slots: dict[str, asyncio.Semaphore] = {}

    async def run(
        self, kind: str, subject: str, title: str, work: Callable[[Job], Awaitable[T]]
    ) -> T:
        """Do `work` as a job and give its result. Raises what the work raises, and
        JobCancelled when somebody cancelled the job."""
        job = Job(kind, subject, title)
        task = asyncio.get_running_loop().create_task(self._work(job, work), name=f"job: {title}")
        self._active[job.id] = (job, task)
        log.info("job begins", extra={"job": job.id, "kind": kind, "subject": subject})
        try:
            result = await task
            job.state = State.DONE
        except asyncio.CancelledError:
            job.state = State.CANCELLED
            caller = asyncio.current_task()
            if caller is not None and caller.cancelling():  # it awaits the task: that has ended
                raise
            raise JobCancelled(f"{title}: cancelled") from None
        except Exception as error:
            job.state = State.ERROR
            job.say(str(error) or type(error).__name__)
            raise
        finally:
            self._over(job)
        return result

    async def _work(self, job: Job, work: Callable[[Job], Awaitable[T]]) -> T:
        slots = self._slots.setdefault(job.kind, asyncio.Semaphore(AT_ONCE))
        async with slots:
            job.state = State.RUNNING
            return await work(job)

    def _over(self, job: Job) -> None:
        job.finished = time.time()
        del self._active[job.id]
        self._finished.append(job)
        extra = {"job": job.id, "subject": job.subject, "state": job.state.value}
        log.info("job ended", extra=extra)

    def cancel(self, id: str) -> bool:
        """End a job. False: there is no such job, or it is over."""
        found = self._active.get(id)
        return found is not None and found[1].cancel()

    def listed(self) -> list[Job]:
        """All jobs, the newest first."""
        jobs = [*self._finished, *(job for job, _ in self._active.values())]
        return sorted(jobs, key=lambda job: job.started, reverse=True)

    # -- callers --------------------------------------------------------------------------------

    async def answer_list(self, _: Header, __: bytes = b"") -> bytes:
        """JOBS: all of them as a JSON list of `JobInfo`."""
        return msgspec.json.encode([_info(job) for job in self.listed()])

    async def answer_cancel(self, header: Header, _: bytes = b"") -> bytes:
        """CANCEL_JOB: whether the job that the header names (as function) was still going on."""
        return msgspec.json.encode(self.cancel(header.function))


def _info(job: Job) -> JobInfo:
    return JobInfo(
        id=job.id,
        kind=job.kind,
        subject=job.subject,
        title=job.title,
        branch=job.branch,
        commit=job.commit,
        state=job.state.value,
        started=job.started,
        finished=job.finished,
        lines=list(job.lines),
    )
