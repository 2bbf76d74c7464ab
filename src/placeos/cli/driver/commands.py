"""The commands of `placeos driver`."""

from __future__ import annotations

import itertools
import shlex
from pathlib import Path
from typing import Annotated

import typer

from placeos.cli.options import ApiKey, AsJson, Url, connect
from placeos.cli.output import ASKED_WRONGLY, CliError, print_json

app = typer.Typer(help="Write, run, test and check driver files.", no_args_is_help=True)

File = Annotated[Path, typer.Argument(help="The driver file.")]
Host = Annotated[str, typer.Option(help="Name or address of the device.")]
Port = Annotated[
    int | None, typer.Option(help="Its port. [default: the driver's]", min=1, max=65_535)
]
Uri = Annotated[str, typer.Option(help="Where a service is. [default: the driver's]")]
Role = Annotated[str, typer.Option(help="Which of the driver's transports: ssh, tcp, udp, http, …")]
Tls = Annotated[bool, typer.Option("--tls", help="Speak TLS to the device.")]
Makebreak = Annotated[
    bool | None,
    typer.Option(help="Connect for each command only. [default: as the driver says]"),
]
Set = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="NAME=VALUE",
        help="A setting, as JSON or text; a name alone is asked for unseen. Repeatable.",
    ),
]
SettingsFile = Annotated[
    Path | None, typer.Option(help="A YAML file with settings.", metavar="FILE")
]

PASSED_ON = {"allow_extra_args": True, "ignore_unknown_options": True}


@app.command()
def new(
    name: Annotated[str | None, typer.Argument(help="Such as 'Acme Lamp'.")] = None,
    transport: Annotated[
        str | None,
        typer.Option(help="tcp, udp, ssh, http, websocket, serial, service or logic."),
    ] = None,
    interface: Annotated[
        list[str] | None,
        typer.Option(help="A standard interface, such as Powerable. Repeatable."),
    ] = None,
    module_name: Annotated[
        str, typer.Option(help="The name of its modules in rooms, such as Display.")
    ] = "",
    port: Annotated[
        int | None, typer.Option(help="The usual port of the device.", min=1, max=65_535)
    ] = None,
    folder: Annotated[Path, typer.Option(help="Where to write the two files.")] = Path(),
    asks: Annotated[
        bool, typer.Option("--input/--no-input", help="Ask for what was not given.")
    ] = True,
) -> None:
    """Write a driver to begin with, and its test. Both work as they are."""
    from dataclasses import replace

    from placeos.cli.driver import new as scaffold

    if asks:
        wanted = scaffold.ask(name, transport, interface)
    elif name is None:
        raise CliError("a driver needs a name", exit_code=ASKED_WRONGLY)
    else:
        kind = scaffold.parse_kind(transport or "tcp")
        served = scaffold.find_interfaces(interface or ())
        wanted = scaffold.checked(scaffold.Wanted(name, kind, served, ""))
    driver, test = scaffold.write(replace(wanted, module_name=module_name, port=port), folder)
    typer.echo(f"Wrote {driver} and {test}.")
    typer.echo(f"Try: placeos driver test {driver}")


@app.command(name="test", context_settings=PASSED_ON)
def run_test(
    context: typer.Context,
    paths: Annotated[
        list[Path] | None,
        typer.Argument(metavar="[PATH]...", help="Driver files, tests or folders. [default: .]"),
    ] = None,
) -> None:
    """Run the tests of driver files. What follows the first option goes to pytest: `-k power`."""
    from placeos.cli.driver.test import NOTHING_RAN, run_tests

    words = [str(path) for path in paths or []] + context.args
    given = list(itertools.takewhile(lambda word: not word.startswith("-"), words))
    status = run_tests([Path(word) for word in given or "."], words[len(given) :])
    if status == NOTHING_RAN:
        raise CliError("no test ran")
    raise typer.Exit(status)


@app.command()
def check(
    files: Annotated[list[Path], typer.Argument(metavar="FILE...", help="Driver files.")],
    as_json: AsJson = False,
    types: Annotated[bool, typer.Option(help="Check types too, by mypy.")] = True,
) -> None:
    """Say what is wrong with driver files. They are loaded, each in a process of its own."""
    from placeos.cli.driver.check import check_file, show

    reports = []
    for file in files:
        report = check_file(file, types=types)
        reports.append(report)
        if not as_json:
            typer.echo(show(report))
    if as_json:
        print_json(reports)
    if any(report.failed for report in reports):
        raise typer.Exit(1)


@app.command()
def run(
    file: File,
    host: Host = "",
    port: Port = None,
    uri: Uri = "",
    role: Role = "",
    tls: Tls = False,
    makebreak: Makebreak = None,
    set_: Set = None,
    settings: SettingsFile = None,
) -> None:
    """Run a driver against a device, with a live prompt; it is loaded again when it is saved.

    Functions are called as `power true` or `power state=true`; :help lists commands.

    Without a terminal they are read from standard input, and the exit code tells whether all
    went well.
    """
    from placeos.cli.driver import run as runner
    from placeos.cli.driver.session import Target

    given = runner.read_settings(settings, set_ or ())
    target = Target(host, port or 0, uri, runner.check_role(role), tls, makebreak, given)
    if not runner.run(file, target):
        raise typer.Exit(1)


@app.command()
def add(
    file: File,
    room: Annotated[str, typer.Argument(metavar="ROOM", help="Name or id of a room (system).")],
    host: Host = "",
    port: Port = None,
    uri: Uri = "",
    role: Role = "",
    tls: Tls = False,
    makebreak: Makebreak = None,
    set_: Set = None,
    settings: SettingsFile = None,
    url: Url = None,
    api_key: ApiKey = None,
) -> None:
    """Give a room of the platform on this machine a module of a driver file.

    Makes what is missing: the repository of the file's folder, the driver and the module. A
    module that the room has already gets the address and settings that are given.
    """
    from placeos.cli.driver import add as adding
    from placeos.cli.driver import run as runner
    from placeos.cli.driver.session import Target

    given = runner.read_settings(settings, set_ or ())
    target = Target(host, port or 0, uri, runner.check_role(role), tls, makebreak, given)
    with connect(url, api_key) as client:
        name = adding.add(client, file, room, target, typer.echo)
    typer.echo(f"Try: placeos exec {shlex.quote(room)} {name} …")
