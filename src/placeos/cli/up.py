"""`placeos up`."""

from __future__ import annotations

import asyncio
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from placeos.cli.output import ASKED_WRONGLY, CliError

if TYPE_CHECKING:
    from placeos.local.view import View

_HOST = re.compile(r"(?!-)[A-Za-z0-9_-]{1,63}(\.(?!-)[A-Za-z0-9_-]{1,63})*")


def up(
    data: Annotated[
        Path,
        typer.Option(envvar="PLACEOS_DATA", help="Folder for all that is kept."),
    ] = Path(".placeos"),
    port: Annotated[
        int | None,
        typer.Option(
            envvar="PLACEOS_PORT",
            help="Port of the front door. [default: 8080, or the next that is free]",
            min=1,
            max=65_535,
        ),
    ] = None,
    cores: Annotated[
        int,
        typer.Option(envvar="PLACEOS_CORES", help="How many cores run modules.", min=1, max=32),
    ] = 1,
    demo: Annotated[
        bool,
        typer.Option(
            "--demo/--no-demo",
            envvar="PLACEOS_DEMO",
            help="Five rooms with simulated devices.",
        ),
    ] = True,
    host: Annotated[
        list[str] | None,
        typer.Option(
            "--host",
            envvar="PLACEOS_HOST",
            help="Name under which other machines reach it, with TLS. Repeatable.",
            metavar="NAME",
        ),
    ] = None,
    ready_file: Annotated[
        Path | None,
        typer.Option(
            envvar="PLACEOS_READY_FILE",
            help="When ready, write address, login and pids there as JSON.",
            metavar="FILE",
        ),
    ] = None,
) -> None:
    """Run a whole platform on this machine, in the foreground. Ctrl-C stops it."""
    try:
        from placeos.local.up import Options, expected_errors, run
    except ImportError as error:
        raise CliError(
            f"this installation cannot run a platform ({error.name or error} is missing)",
            hint="Install it with: pip install 'placeos[local]'",
            exit_code=ASKED_WRONGLY,
        ) from error
    options = Options(
        data=data, port=port, cores=cores, demo=demo, hosts=_names(host), ready_file=ready_file
    )
    view = _view()
    try:
        asyncio.run(run(options, view))
    except expected_errors() as error:
        raise CliError(str(error)) from error
    except KeyboardInterrupt:
        sys.exit(130)


def _names(hosts: list[str] | None) -> tuple[str, ...]:
    """Host names or addresses, each once. Raises CliError."""
    for host in hosts or ():
        if not _HOST.fullmatch(host):
            raise CliError(
                f"--host: {host!r} is no name of a machine",
                hint="It looks like control.example.com, without http:// and port",
                exit_code=ASKED_WRONGLY,
            )
    return tuple(dict.fromkeys(host.lower() for host in hosts or ()))


def _view() -> View:
    from rich.console import Console

    from placeos.local.view import LiveView, PlainView

    console = Console(highlight=False)
    if console.is_terminal and not console.is_dumb_terminal:
        return LiveView(console)
    return PlainView(lambda line: print(line, flush=True))
