"""Commands about rooms: list them, call functions in them, watch their values."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer

from placeos.cli.options import ApiKey, AsJson, Url, connect
from placeos.cli.output import (
    ASKED_WRONGLY,
    CliError,
    harmless,
    print_json,
    print_table,
    segment,
    show,
)

FREE_ARGUMENTS = {"ignore_unknown_options": True}
"""Lets -5 be an argument of a function."""

RoomName = Annotated[str, typer.Argument(metavar="ROOM", help="Name or id of the room (system).")]

if TYPE_CHECKING:
    from placeos.cli.client import Client

_MANY = 1000
_SHOWN = 10


class System(msgspec.Struct):
    """What is shown of a system."""

    id: str
    name: str
    display_name: str | None = None
    capacity: int = 0
    features: list[str] = []
    modules: list[str] = []


def systems(
    search: Annotated[str, typer.Argument(help="Words to look for.")] = "",
    as_json: AsJson = False,
    url: Url = None,
    api_key: ApiKey = None,
) -> None:
    """List rooms (systems)."""
    with connect(url, api_key) as client:
        query: dict[str, object] = {"limit": _MANY} | ({"q": search} if search else {})
        if as_json:
            print_json(client.get("/systems", list[dict[str, object]], **query))
            return
        found = client.get("/systems", list[System], **query)
    print_table(
        ("NAME", "ID", "MODULES", "CAPACITY", "FEATURES"),
        (
            (
                system.display_name or system.name,
                system.id,
                str(len(system.modules)),
                str(system.capacity or ""),
                ", ".join(system.features),
            )
            for system in found
        ),
        empty="No room fits." if search else "There are no rooms yet.",
    )


def execute(
    room: RoomName,
    module: Annotated[str, typer.Argument(help="Like Display_1; Display is the first one.")],
    function: Annotated[str, typer.Argument(help="Like power.")],
    arguments: Annotated[
        list[str] | None,
        typer.Argument(help="As JSON (true, 5, '\"5\"'); what is not JSON is text."),
    ] = None,
    as_json: AsJson = False,
    url: Url = None,
    api_key: ApiKey = None,
) -> None:
    """Call a function of a module in a room, and print its result."""
    with connect(url, api_key) as client:
        system = find_system(client, room)
        path = f"/systems/{segment(system.id)}/{segment(slug(module))}/{segment(function)}"
        try:
            answer = client.post(path, [parse_argument(word) for word in arguments or ()])
        except CliError as error:
            if error.status == 404:
                raise _no_such_module(client, system, slug(module)) from error
            raise
    value = msgspec.json.decode(answer) if answer else None
    if as_json:
        print_json(value)
    else:
        text = show(value)
        typer.echo(harmless(text) if sys.stdout.isatty() else text)


def watch(
    room: RoomName,
    module: Annotated[
        str, typer.Argument(help="Only this module, like Display_1; else all of the room.")
    ] = "",
    keys: Annotated[
        list[str] | None, typer.Argument(help="Only these values, like power; else all.")
    ] = None,
    seconds: Annotated[
        float | None, typer.Option("--for", help="Stop after so many seconds.", min=0.1)
    ] = None,
    as_json: AsJson = False,
    url: Url = None,
    api_key: ApiKey = None,
) -> None:
    """Follow live values of a room until Ctrl-C: one line for each change."""
    from placeos.cli.watching import Watcher, run

    with connect(url, api_key) as client:
        system = find_system(client, room)
        watcher = Watcher(
            client, system.id, module=slug(module) if module else "", keys=tuple(keys or ())
        )
        if not watcher.discover() and not keys:
            what = f"{system.name} has no {module}" if module else f"{system.name} has no modules"
            raise CliError(what, hint=_known_modules(watcher), exit_code=ASKED_WRONGLY)
        run(watcher, seconds=seconds, as_json=as_json)


def find_system(client: Client, room: str) -> System:
    """The room of that id or name. Raises CliError, naming the candidates if it is not one."""
    if room.startswith("sys-") or "@" in room:
        return client.get(f"/systems/{segment(room)}", System)
    found = client.get("/systems", list[System], q=room, limit=_MANY)
    candidates = choose(found, room)
    if len(candidates) == 1:
        return candidates[0]
    if not candidates:
        known = client.get("/systems", list[System], limit=_SHOWN)
        raise CliError(
            f"there is no room named {room!r}",
            hint=_listing("Rooms are, for instance:", known),
            exit_code=ASKED_WRONGLY,
        )
    raise CliError(
        f"{room!r} may be one of {len(candidates)} rooms",
        hint=_listing("Give the full name or the id:", candidates),
        exit_code=ASKED_WRONGLY,
    )


def choose(systems: list[System], text: str) -> list[System]:
    """Those named exactly so, whatever the case; if there are none, those whose name has it."""
    wanted = text.casefold()
    names = [
        (system, [name.casefold() for name in (system.name, system.display_name) if name])
        for system in systems
    ]
    exact = [system for system, own in names if wanted in own]
    return exact or [system for system, own in names if any(wanted in name for name in own)]


def parse_argument(word: str) -> object:
    """An argument as JSON if it is JSON, else as text."""
    try:
        return msgspec.json.decode(word)
    except (msgspec.DecodeError, UnicodeError):
        return word


def slug(module: str) -> str:
    """`Display` means `Display_1`."""
    name, separator, number = module.rpartition("_")
    return module if separator and name and number.isdigit() else f"{module}_1"


def _listing(title: str, systems: list[System]) -> str:
    lines = [f"  {system.id}  {system.name}" for system in systems[:_SHOWN]]
    more = [f"  … and {len(systems) - _SHOWN} more"] if len(systems) > _SHOWN else []
    return "\n".join([title, *lines, *more])


def _no_such_module(client: Client, system: System, module: str) -> CliError:
    counts = client.get(f"/systems/{segment(system.id)}/types", dict[str, int])
    known = [f"{name}_{index}" for name, count in counts.items() for index in range(1, count + 1)]
    if module in known:
        return CliError(f"{module} of {system.name} is not running")
    hint = f"It has: {', '.join(known)}" if known else "It has no modules yet."
    return CliError(f"{system.name} has no {module}", hint=hint, exit_code=ASKED_WRONGLY)


def _known_modules(watcher: object) -> str:
    known: list[str] = getattr(watcher, "known_modules", [])
    return f"It has: {', '.join(known)}" if known else ""
