"""Cores and who owns what: look, drain, explain, and say that a core runs no more."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer

from placeos.cli.cluster_view import (
    Explanation,
    Loaded,
    Owned,
    View,
    look_at_view,
    print_cores,
    print_explanation,
    print_members,
    print_view,
    state_of,
)
from placeos.cli.options import ApiKey, AsJson, Url, connect
from placeos.cli.output import ASKED_WRONGLY, CliError, harmless, print_json, print_table, segment
from placeos.cli.resources import Module, Place, rooms_of

if TYPE_CHECKING:
    from placeos.cli.client import Client

_LOOK_AGAIN = 0.5  # seconds
_ALL = 10_000
_SHOWN = 10  # candidates in a hint
_EVERYBODY = "*"

app = typer.Typer(no_args_is_help=True, help="Show the cores and who owns what; drain a core.")

NodeName = Annotated[str, typer.Argument(metavar="NODE", help="Name of the core, like core-2.")]


# -- commands -----------------------------------------------------------------------------------


@app.command(name="list")
def list_cores(as_json: AsJson = False, url: Url = None, api_key: ApiKey = None) -> None:
    """List the cores with zone, version, wish and how many modules each owns."""
    with connect(url, api_key) as client:
        if as_json:
            print_json(client.get("/cluster", list[dict[str, object]]))
            return
        found = look_at_view(client)
    print_cores(found.cores)


@app.command()
def view(as_json: AsJson = False, url: Url = None, api_key: ApiKey = None) -> None:
    """Show the view: its members, what became of those before, and who waits for whom."""
    with connect(url, api_key) as client:
        if as_json:
            print_json(client.get("/cluster/view", dict[str, object]))
            return
        found = look_at_view(client)
    print_view(found)
    print_members(found)


@app.command()
def modules(
    node: Annotated[str, typer.Argument(metavar="[NODE]", help="Only of this core.")] = "",
    as_json: AsJson = False,
    url: Url = None,
    api_key: ApiKey = None,
) -> None:
    """List which core owns which module."""
    with connect(url, api_key) as client, _known_node(client):
        query = {"limit": _ALL} | ({"node": node} if node else {})
        if as_json:
            print_json(client.get("/cluster/modules", list[dict[str, object]], **query))
            return
        found = client.get("/cluster/modules", list[Owned], **query)
        rooms = rooms_of(client.get("/systems", list[Place], limit=_ALL))
    print_table(
        ("CORE", "ROOM", "NAME", "STATE", "ID"),
        sorted(
            (
                one.node or "-",
                ", ".join(rooms.get(one.id, [])),
                one.custom_name or one.name,
                state_of(one),
                one.id,
            )
            for one in found
        ),
        empty=f"{node} owns no module." if node else "There are no modules yet.",
    )


@app.command()
def drain(
    node: NodeName,
    force: Annotated[
        bool, typer.Option("--force", help="Even if no other core takes modules: all stop.")
    ] = False,
    wait: Annotated[
        bool, typer.Option("--wait/--no-wait", help="Follow until nothing runs there.")
    ] = True,
    as_json: AsJson = False,
    url: Url = None,
    api_key: ApiKey = None,
) -> None:
    """Move all modules off a core, and give it none until it is undrained.

    It stays so when it is restarted. Ctrl-C ends following, not draining.
    """
    with connect(url, api_key) as client:
        with _known_node(client):
            query = "?force=true" if force else ""
            client.post(f"/cluster/{segment(node)}/drain{query}", None)
        if wait:
            with contextlib.suppress(KeyboardInterrupt):
                _follow_drain(client, node, quiet=as_json)
        if as_json:
            print_json(client.get("/cluster/view", dict[str, object]))
        elif not wait:
            typer.echo(harmless(f"{node} is being drained."))


@app.command()
def undrain(node: NodeName, url: Url = None, api_key: ApiKey = None) -> None:
    """Let a core take modules again."""
    with connect(url, api_key) as client, _known_node(client):
        client.delete(f"/cluster/{segment(node)}/drain")
    typer.echo(harmless(f"{node} may take modules again."))


@app.command()
def rebalance(as_json: AsJson = False, url: Url = None, api_key: ApiKey = None) -> None:
    """Place every module by the rule: removes exceptions, and has all cores look again.

    Modules are always spread evenly over the cores that take modules, so without exceptions
    nothing moves.
    """
    with connect(url, api_key) as client:
        answer = msgspec.json.decode(client.post("/cluster/rebalance", None), type=dict[str, str])
    if as_json:
        print_json(answer)
    else:
        typer.echo(f"From {answer['old_version']} to {answer['new_version']}.")


@app.command()
def explain(
    module: Annotated[str, typer.Argument(help="Id of the module, or its name if it has no like.")],
    as_json: AsJson = False,
    url: Url = None,
    api_key: ApiKey = None,
) -> None:
    """Say why a module is where it is, and what it waits for."""
    with connect(url, api_key) as client:
        path = f"/cluster/explain/{segment(_find_module(client, module))}"
        try:
            told = client.get(path, dict[str, object])
        except CliError as error:
            raise _no_module(str(error)) if error.status == 404 else error from error
    if as_json:
        print_json(told)
    else:
        print_explanation(msgspec.convert(told, Explanation))


@app.command(name="assert-dead")
def assert_dead(
    node: Annotated[
        str,
        typer.Argument(metavar="NODE", help="Name of the core; '*' if no core knows a view."),
    ],
    incarnation: Annotated[
        str, typer.Option(help="Only this run of it, as `cluster view` shows it.")
    ] = "",
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    as_json: AsJson = False,
    url: Url = None,
    api_key: ApiKey = None,
) -> None:
    """Vouch that a lost core runs no more, so that others take its modules at once.

    Look first: if it does run, two cores drive the same devices.
    """
    if not yes:
        _be_sure(node)
    everybody = node == _EVERYBODY
    body = {
        "identity": "" if everybody else node,
        "incarnation": _EVERYBODY if everybody else incarnation,
    }
    with connect(url, api_key) as client, _known_node(client):
        answer = client.post("/cluster/assert-dead", body)
    if as_json:
        print_json(msgspec.json.decode(answer))
    else:
        typer.echo(harmless(f"{node} is taken for dead."))


# -- parts --------------------------------------------------------------------------------------


def _follow_drain(client: Client, node: str, *, quiet: bool) -> None:
    """Print each change until all is handed over and nothing runs there any more."""
    last = ""
    while True:
        found = look_at_view(client)
        left = _runs_there(client, node)
        over = _is_drained(found, node) and not left
        line = _progress(found, node, left) if not over else f"{node}: nothing runs there any more"
        if line != last and not quiet:
            typer.echo(harmless(line))
        last = line
        if over:
            return
        if not any(core.id == node for core in found.cores):
            raise CliError(f"{node} left, or was lost", hint="See: placeos cluster view")
        if node not in found.drained and found.current:
            raise CliError(f"somebody else undrained {node}")
        time.sleep(_LOOK_AGAIN)


def _is_drained(found: View, node: str) -> bool:
    """Whether a completed view gives it nothing."""
    return found.completed and not any(
        one.eligible for one in found.members if one.identity == node
    )


def _progress(found: View, node: str, left: int | None) -> str:
    there = "it does not answer" if left is None else f"{left} modules still run there"
    waits = f"; view {found.number} waits: {'; '.join(found.waiting_for)}"
    return f"{node}: {there}{waits if found.waiting_for else ''}"


def _runs_there(client: Client, node: str) -> int | None:
    """How many modules run on a core; None when it does not answer."""
    for one in client.get("/cluster", list[Loaded]):
        if one.id == node:
            return max(one.load.local.modules, one.load.local.modules_running)
    return None


@contextlib.contextmanager
def _known_node(client: Client) -> Iterator[None]:
    """A core that is not there is asked wrongly: say which there are."""
    try:
        yield
    except CliError as error:
        if error.status != 404:
            raise
        names = ", ".join(core.id for core in look_at_view(client).cores)
        hint = f"Cores are: {names}" if names else "No core is running."
        raise CliError(str(error), hint=hint, exit_code=ASKED_WRONGLY) from error


def _find_module(client: Client, text: str) -> str:
    """The id of a module. Raises CliError, naming the candidates if it is not one."""
    if text.startswith("mod-"):
        return text
    found = client.get("/modules", list[Module], q=text, limit=_ALL)
    wanted = text.casefold()
    exact = [one for one in found if one.shown_name.casefold() == wanted]
    candidates = exact or found
    if len(candidates) == 1:
        return candidates[0].id
    if not candidates:
        raise _no_module(f"there is no module {text!r}")
    rooms = rooms_of(client.get("/systems", list[Place], limit=_ALL))
    lines = [
        f"  {one.id}  {one.shown_name}  {', '.join(rooms.get(one.id, []))}"
        for one in candidates[:_SHOWN]
    ]
    more = [f"  … and {len(candidates) - _SHOWN} more"] if len(candidates) > _SHOWN else []
    raise CliError(
        f"{text!r} may be one of {len(candidates)} modules",
        hint="\n".join(["Give the id:", *lines, *more]),
        exit_code=ASKED_WRONGLY,
    )


def _no_module(message: str) -> CliError:
    return CliError(message, hint="See: placeos modules", exit_code=ASKED_WRONGLY)


def _be_sure(node: str) -> None:
    """Ask, or tell how to do without asking. Raises CliError."""
    if not sys.stdin.isatty():
        hint = "Look whether it is off, then add: --yes"
        raise CliError("this needs to be confirmed", hint=hint, exit_code=ASKED_WRONGLY)
    who = "every core that is not registered" if node == _EVERYBODY else node
    if not typer.confirm(f"Did you see that {who} is off? If it runs, two drive the same devices."):
        raise typer.Exit(1)
