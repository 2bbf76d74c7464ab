"""Long work in cores: environments being built, repositories being pulled."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import Any, Literal

import msgspec

from placeos.api import errors
from placeos.api.call import Call, Reply, reply
from placeos.api.routes import Parameter, Role, Route
from placeos.wire.errors import CallError
from placeos.wire.frame import Command, Header

ASK_TIMEOUT = 3.0  # seconds; a core that is slower is left out
State = Literal["pending", "running", "cancelled", "error", "done"]
STATES = ("pending", "running", "cancelled", "error", "done")


class TaskStatus(msgspec.Struct):
    """A job of a core. `message` is what it said last, `lines` all of it that is kept."""

    state: State
    id: str
    message: str
    driver: str
    repo: str
    branch: str
    commit: str
    timestamp: datetime
    kind: str
    title: str
    node: str
    finished: datetime | None
    lines: list[str]


class CancelStatus(msgspec.Struct):
    """What became of a cancellation."""

    status: str
    message: str


def routes() -> list[Route]:
    """All routes of jobs."""
    common: dict[str, Any] = {"tag": "BuildMonitor", "scopes": ("build_monitor",)}
    return [
        Route(method="GET", path="/build/monitor", handler=monitor, role=Role.USER,
              query=(Parameter("state", str, " | ".join(STATES)),),
              returns=list[TaskStatus], summary="Builds and pulls of all cores", **common),
        Route(method="DELETE", path="/build/cancel/{job}", handler=cancel, role=Role.ADMIN,
              returns=CancelStatus, summary="End a job", **common),
    ]  # fmt: skip


async def monitor(call: Call) -> Reply:
    """The jobs of every core that answers, the newest first."""
    state = call.text("state")
    if state is not None and state not in STATES:
        raise errors.bad_parameter("state", " | ".join(STATES))
    answers = await _ask_all(call, Header(Command.JOBS, user=call.claims.sub))
    jobs = [_status(node, job) for node, answer in answers for job in answer]
    jobs.sort(key=lambda job: job.timestamp, reverse=True)
    return reply([job for job in jobs if state in (None, job.state)])


async def cancel(call: Call) -> Reply:
    """End a job, whichever core does it."""
    job = call.path("job")
    header = Header(Command.CANCEL_JOB, function=job, user=call.claims.sub)
    answers = await _ask_all(call, header)
    if not any(answer is True for _, answer in answers):
        raise errors.not_found(f"no job {job!r} is pending or running")
    return reply(CancelStatus("cancelled", f"job {job} is being ended"))


async def _ask_all(call: Call, header: Header) -> list[tuple[str, Any]]:
    """What each core that answers says, by its name."""
    nodes = [node.identity for node in call.services.router.nodes()]
    answers = await asyncio.gather(*(_ask(call, node, header) for node in nodes))
    return [(node, answer) for node, answer in zip(nodes, answers, strict=True) if answer]


async def _ask(call: Call, node: str, header: Header) -> Any:
    header = msgspec.structs.replace(header)
    try:
        _, payload = await call.services.router.ask(node, header, b"", timeout=ASK_TIMEOUT)
        return msgspec.json.decode(payload)
    except (CallError, msgspec.MsgspecError):
        return None


def _status(node: str, job: dict[str, Any]) -> TaskStatus:
    lines = job["lines"]
    return TaskStatus(
        state=job["state"],
        id=job["id"],
        message=lines[-1] if lines else "",
        driver=job["subject"] if job["kind"] == "build" else "",
        repo=job["subject"] if job["kind"] == "pull" else "",
        branch=job["branch"],
        commit=job["commit"],
        timestamp=datetime.fromtimestamp(job["started"], UTC),
        kind=job["kind"],
        title=job["title"],
        node=node,
        finished=datetime.fromtimestamp(job["finished"], UTC) if job["finished"] else None,
        lines=lines,
    )
