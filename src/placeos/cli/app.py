"""All commands in one place. What a command needs is imported when it runs: help stays fast."""

from __future__ import annotations

from typing import Annotated

import typer

import placeos
from placeos.cli import (
    api,
    cluster,
    demo,
    driver,
    jobs,
    processes,
    repositories,
    resources,
    rooms,
    service,
    session_commands,
    up,
)

app = typer.Typer(
    name="placeos",
    help="The platform that runs the technology of buildings.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(placeos.__version__)
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version."),
    ] = False,
) -> None:
    """The platform that runs the technology of buildings."""


app.command(rich_help_panel="On this machine")(up.up)
app.add_typer(demo.app, name="demo", rich_help_panel="On this machine")

app.add_typer(driver.app, name="driver", rich_help_panel="Drivers")

app.command(rich_help_panel="Client")(session_commands.login)
app.command(rich_help_panel="Client")(session_commands.logout)
app.command(rich_help_panel="Client")(rooms.systems)
app.command(name="exec", rich_help_panel="Client", context_settings=rooms.FREE_ARGUMENTS)(
    rooms.execute
)
app.command(rich_help_panel="Client")(rooms.watch)
app.command(rich_help_panel="Client")(resources.status)
app.command(rich_help_panel="Client")(resources.modules)
app.command(rich_help_panel="Client")(resources.drivers)
app.add_typer(cluster.app, name="cluster", rich_help_panel="Client")
app.add_typer(processes.app, name="processes", rich_help_panel="Client")
app.command(rich_help_panel="Client")(repositories.repositories)
app.command(rich_help_panel="Client")(repositories.pull)
app.add_typer(jobs.app, name="jobs", rich_help_panel="Client")

app.command(rich_help_panel="Services")(service.core)
app.command(rich_help_panel="Services")(service.auth)
app.add_typer(api.app, name="api", rich_help_panel="Services")
