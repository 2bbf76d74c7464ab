"""Long work in cores: show it, follow it, end it."""

from __future__ import annotations

import contextlib
import time
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer

from placeos.cli.options import ApiKey, AsJson, Url, connect
from placeos.cli.output import ASKED_WRONGLY, CliError, harmless, print_json, print_table, segment

if TYPE_CHECKING:
    from placeos.cli.client import Client

_LOOK_AGAIN = 1.0  # seconds
_UNDER_WAY = ("pending", "running")

app = typer.Typer(
    invoke_without_command=True,
    help="Show builds of drivers' environments and pulls of repositories; cancel one.",
)


class Job(msgspec.Struct):
    """What is shown of a job."""

    id: str
    state: str = ""
    title: str = ""
    kind: str = ""
    node: str = ""
    message: str = ""
    timestamp: str = ""
    lines: list[str] = []


@app.callback()
def jobs(
    context: typer.Context,
    watch: Annotated[
        bool, typer.Option("--watch", help="Follow progress until Ctrl-C: one line for each step.")
    ] = False,
    as_json: AsJson = False,
    url: Url = None,
    api_key: ApiKey = None,
) -> None:
    """Show builds of drivers' environments and pulls of repositories; cancel one."""
    if context.invoked_subcommand is not None:
        return
    with connect(url, api_key) as client:
        if watch:
            with contextlib.suppress(KeyboardInterrupt):
                _follow(client, as_json)
            return
        if as_json:
            print_json(client.get("/build/monitor", list[dict[str, object]]))
            return
        found = _jobs(client)
    print_table(
        ("STARTED", "STATE", "WHAT", "CORE", "ID", "LAST"),
        (
            (job.timestamp[:19].replace("T", " "), job.state, job.title, job.node, job.id,
             job.message)
            for job in found
        ),
        empty="No core has built or pulled anything since it was started.",
    )  # fmt: skip


@app.command()
def cancel(
    job: Annotated[str, typer.Argument(metavar="ID", help="Id of the job, from the list.")],
    url: Url = None,
    api_key: ApiKey = None,
) -> None:
    """End a job that is pending or running."""
    with connect(url, api_key) as client:
        try:
            client.delete(f"/build/cancel/{segment(job)}")
        except CliError as error:
            if error.status != 404:
                raise
            under_way = [one for one in _jobs(client) if one.state in _UNDER_WAY]
            lines = [f"  {one.id}  {one.title}" for one in under_way]
            hint = "\n".join(["Under way are:", *lines]) if lines else "Nothing is under way."
            raise CliError(str(error), hint=hint, exit_code=ASKED_WRONGLY) from error
    typer.echo(f"{job} is being ended.")


def new_lines(before: list[str], after: list[str]) -> list[str]:
    """What was added to lines of which the oldest may have gone."""
    for gone in range(len(before) + 1):
        kept = len(before) - gone
        if after[:kept] == before[gone:]:
            return after[kept:]
    return after


def _jobs(client: Client) -> list[Job]:
    return client.get("/build/monitor", list[Job])


def _follow(client: Client, as_json: bool) -> None:
    """Print each line that a job says, and how it ends; what was over before is left out."""
    known = {job.id: job for job in _jobs(client) if job.state not in _UNDER_WAY}
    while True:
        found = _jobs(client)
        for job in reversed(found):
            before = known.get(job.id, Job(job.id))
            texts = new_lines(before.lines, job.lines)
            if job.state != before.state:
                texts.append(f"[{job.state}]")
            for text in texts:
                _print(job, text, as_json)
        known = {job.id: job for job in found}
        time.sleep(_LOOK_AGAIN)


def _print(job: Job, text: str, as_json: bool) -> None:
    if as_json:
        line = {"job": job.id, "node": job.node, "title": job.title, "line": text}
        typer.echo(msgspec.json.encode(line).decode())
    else:
        typer.echo(harmless(f"{job.node}  {job.title}: {text}"))
