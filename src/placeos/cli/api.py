"""`placeos api`: the service, and its description."""

from __future__ import annotations

import typer

from placeos.cli.service import run

app = typer.Typer(invoke_without_command=True, help="Run the API, or print its description.")


@app.callback()
def api(context: typer.Context) -> None:
    """Run the API: REST and control websocket. Configured by PLACEOS_* variables."""
    if context.invoked_subcommand is None:
        run("api")


@app.command()
def openapi() -> None:
    """Print the OpenAPI document; needs no server."""
    from placeos.api.openapi import document
    from placeos.cli.output import print_json

    print_json(document())
