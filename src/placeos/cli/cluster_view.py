"""What the client shows of the cluster: cores, the view, why a module is where it is."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
import typer

from placeos.cli.output import CliError, harmless, print_table

if TYPE_CHECKING:
    from placeos.cli.client import Client


class Core(msgspec.Struct):
    """What is shown of a core."""

    id: str
    uri: str = ""
    zone: str = ""
    version: str = ""
    incarnation: str = ""
    wish: str = ""
    eligible: bool = False
    modules_owned: int | None = None
    lease_age: float | None = None
    answers: bool = True
    drained: bool | None = None


class Member(msgspec.Struct):
    """A member of the view."""

    identity: str
    incarnation: str = ""
    eligible: bool = False
    registered: bool = True
    released: bool | None = None


class Past(msgspec.Struct):
    """A member of the last completed view."""

    identity: str
    incarnation: str = ""
    fate: str = ""


class View(msgspec.Struct):
    """What is shown of the view."""

    number: int = 0
    completed: bool = False
    current: bool = True
    members: list[Member] = []
    base: list[Past] = []
    exceptions: dict[str, str] = {}
    waiting_for: list[str] = []
    cores: list[Core] = []
    drained: list[str] = []
    asserted: list[str] = []

    def title(self) -> str:
        """One line: which view, and how far it is."""
        if not self.number:
            return "View: none yet"
        state = "completed" if self.completed else "not completed"
        stale = "" if self.current else " (etcd is away: this is the last that was seen)"
        return f"View: {self.number}, {state}{stale}"


class _Weight(msgspec.Struct):
    node: str
    weight: str
    eligible: bool


class Owned(msgspec.Struct):
    """A module and its owner."""

    id: str
    name: str = ""
    custom_name: str | None = None
    node: str | None = None
    running: bool = False
    connected: bool = False


class Explanation(msgspec.Struct):
    """What is shown of one module."""

    module: Owned
    view: int = 0
    weights: list[_Weight] = []
    runs_on: list[str] = []
    why: list[str] = []
    waiting_for: list[str] = []
    errors: list[str] = []


class _Running(msgspec.Struct):
    modules: int = 0
    modules_running: int = 0


class _Loads(msgspec.Struct):
    local: _Running = msgspec.field(default_factory=_Running)


class Loaded(msgspec.Struct):
    """How much runs on a core."""

    id: str
    load: _Loads = msgspec.field(default_factory=_Loads)


def look_at_view(client: Client) -> View:
    """The view and all cores. Raises CliError."""
    return client.get("/cluster/view", View)


def see_view(client: Client) -> View | None:
    """The same; None for those who may not see it."""
    try:
        return look_at_view(client)
    except CliError:
        return None


def print_view(found: View) -> None:
    """Which view there is, and what it waits for."""
    typer.echo(found.title())
    for reason in found.waiting_for:
        typer.echo(harmless(f"  waits: {reason}"))


def print_members(found: View) -> None:
    """Its members, what became of those before, and what is out of the ordinary."""
    print_table(
        ("MEMBER", "INCARNATION", "TAKES MODULES", "REGISTERED", "RELEASED"),
        (
            (one.identity, one.incarnation, yes(one.eligible), yes(one.registered),
             yes(one.released))
            for one in found.members
        ),
        empty="It has no members.",
    )  # fmt: skip
    gone = [past for past in found.base if past.fate]
    if gone:
        rows = ((past.identity, past.incarnation, past.fate) for past in gone)
        print_table(("BEFORE", "INCARNATION", "FATE"), rows, empty="")
    for module, node in found.exceptions.items():
        typer.echo(harmless(f"Exception: {module} on {node}"))
    for incarnation in found.asserted:
        typer.echo(harmless(f"Said to run no more: {incarnation}"))


def print_cores(cores: list[Core]) -> None:
    """A table of cores."""
    print_table(
        ("CORE", "ADDRESS", "ZONE", "VERSION", "WISH", "TAKES MODULES", "OWNS", "LEASE", "ANSWERS"),
        (
            (
                core.id,
                core.uri,
                core.zone or "-",
                core.version,
                wish_of(core.wish, drained=bool(core.drained)),
                yes(core.eligible),
                number(core.modules_owned),
                "-" if core.lease_age is None else f"{core.lease_age:.1f} s ago",
                yes(core.answers),
            )
            for core in cores
        ),
        empty="No core is running.",
    )


def wish_of(wish: str, *, drained: bool) -> str:
    """What a core says of itself, and whether somebody else wants it so."""
    return f"{wish} (by an administrator)" if drained else wish


def print_explanation(found: Explanation) -> None:
    """Where a module is, why, and what it waits for."""
    module = found.module
    typer.echo(harmless(f"{module.custom_name or module.name} ({module.id}): {state_of(module)}"))
    typer.echo(harmless(f"Owner: {module.node or 'nobody'} by view {found.view}"))
    typer.echo(harmless(f"Runs on: {', '.join(found.runs_on) or 'no core'}"))
    for title, lines in (
        ("Why", found.why),
        ("Waits for", found.waiting_for),
        ("Error", [text.strip().partition("\n")[0] for text in found.errors]),
    ):
        for line in lines:
            typer.echo(harmless(f"{title}: {line}"))
    print_table(
        ("CORE", "WEIGHT", "TAKES MODULES"),
        ((one.node, one.weight, yes(one.eligible)) for one in found.weights),
        empty="No core is a member.",
    )


def state_of(module: Owned) -> str:
    """One word."""
    if not module.running:
        return "stopped"
    return "connected" if module.connected else "disconnected"


def yes(value: bool | None) -> str:
    """Whether, in a table; None is unknown."""
    return "-" if value is None else "yes" if value else "no"


def number(value: int | None) -> str:
    """In a table; None is unknown."""
    return "-" if value is None else str(value)
