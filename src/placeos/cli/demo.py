"""`placeos demo`: play with the simulated devices of the demo building."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Annotated

import typer

from placeos.cli.output import ASKED_WRONGLY, CliError

app = typer.Typer(no_args_is_help=True, help="Play with the simulated devices.")


@app.callback()
def _demo() -> None:
    """Play with the simulated devices of a running `placeos up`."""


@app.command()
def unplug(
    room: Annotated[str, typer.Argument(help='For instance "Room 1.01".')],
    seconds: Annotated[
        float, typer.Option("--for", help="Seconds until it is plugged in again.", min=0.1)
    ] = 20,
    data: Annotated[
        Path, typer.Option(envvar="PLACEOS_DATA", help="Data folder of the running platform.")
    ] = Path(".placeos"),
) -> None:
    """Pull the plug of a room's projector for a while."""
    from placeos.local.demo.plug import unplug as pull

    try:
        typer.echo(asyncio.run(pull(data, room, seconds)))
    except FileNotFoundError as error:
        raise CliError(
            f"no demo building runs on {data}",
            hint="Start one with: placeos up   (or name its folder with --data)",
            exit_code=ASKED_WRONGLY,
        ) from error
    except LookupError as error:
        raise CliError(str(error).strip("'"), exit_code=ASKED_WRONGLY) from error
