"""Commands that show how the platform and its modules are."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import msgspec
import typer

from placeos.cli.cluster_view import View, number, print_view, see_view, wish_of
from placeos.cli.options import ApiKey, AsJson, Url, connect
from placeos.cli.output import CliError, harmless, print_json, print_table, segment

if TYPE_CHECKING:
    from placeos.cli.client import Client

_ALL = 10_000
_EXPLAINED = 100  # modules whose errors `status` asks for


class Module(msgspec.Struct):
    """What is shown of a module."""

    id: str
    driver_id: str = ""
    name: str = ""
    custom_name: str | None = None
    role: int = 0
    ip: str = ""
    port: int = 0
    uri: str = ""
    running: bool = False
    connected: bool = True
    has_runtime_error: bool = False

    @property
    def shown_name(self) -> str:
        """The name it has in its systems."""
        return self.custom_name or self.name

    @property
    def address(self) -> str:
        """Where its device is."""
        return self.uri or (f"{self.ip}:{self.port}" if self.ip else "")

    @property
    def state(self) -> str:
        """One word."""
        if not self.running:
            return "stopped"
        return "connected" if self.connected else "disconnected"


class Place(msgspec.Struct):
    """What is needed of a system to say where a module is."""

    name: str
    display_name: str | None = None
    modules: list[str] = []


class Driver(msgspec.Struct):
    """What is shown of a driver."""

    id: str
    name: str = ""
    file_name: str = ""
    module_name: str = ""
    role: int | str = 0
    commit: str = ""
    compilation_output: str | None = None


class Load(msgspec.Struct):
    """How a core is doing. Memory in KiB, CPU in percent of one."""

    core_cpu: float = 0
    core_memory: int = 0
    modules: int = 0
    modules_running: int = 0


class _Loads(msgspec.Struct):
    local: Load = msgspec.field(default_factory=Load)


class _Count(msgspec.Struct):
    drivers: int = 0


class _Counts(msgspec.Struct):
    local: _Count = msgspec.field(default_factory=_Count)


class _Status(msgspec.Struct):
    run_count: _Counts = msgspec.field(default_factory=_Counts)


class Node(msgspec.Struct):
    """What is shown of a core."""

    id: str
    uri: str = ""
    zone: str = ""
    version: str = ""
    wish: str = ""
    eligible: bool = False
    modules_owned: int | None = None
    load: _Loads = msgspec.field(default_factory=_Loads)
    status: _Status = msgspec.field(default_factory=_Status)


class Overview(msgspec.Struct):
    """`placeos status --json`."""

    url: str
    version: str
    nodes: list[Node]
    view: View | None
    """Who owns what, and who waits for whom; None for those who may not see it."""
    running: int
    connected: int
    stopped: int
    problems: list[dict[str, object]]
    drivers: list[dict[str, object]]
    """Those whose newest version cannot be used."""


class _Version(msgspec.Struct):
    version: str = ""


def status(as_json: AsJson = False, url: Url = None, api_key: ApiKey = None) -> None:
    """Show whether all is well: cores, modules not connected or in error, broken drivers."""
    with connect(url, api_key) as client:
        overview = look(client)
    if as_json:
        print_json(overview)
    else:
        _print_status(overview)
    dark = overview.view is not None and not any(one.eligible for one in overview.view.members)
    if overview.problems or overview.drivers or dark:
        raise typer.Exit(1)


def modules(
    search: Annotated[str, typer.Argument(help="Words to look for.")] = "",
    as_json: AsJson = False,
    url: Url = None,
    api_key: ApiKey = None,
) -> None:
    """List modules: connected, disconnected or stopped."""
    with connect(url, api_key) as client:
        query: dict[str, object] = {"limit": _ALL} | ({"q": search} if search else {})
        if as_json:
            print_json(client.get("/modules", list[dict[str, object]], **query))
            return
        found = client.get("/modules", list[Module], **query)
        rooms = rooms_of(client.get("/systems", list[Place], limit=_ALL))
    rows = [
        (", ".join(rooms.get(item.id, [])), item.shown_name, item.state, item.address, item.id)
        for item in found
    ]
    print_table(
        ("ROOM", "NAME", "STATE", "ADDRESS", "ID"),
        sorted(rows),
        empty="No module fits." if search else "There are no modules yet.",
    )


def drivers(
    search: Annotated[str, typer.Argument(help="Words to look for.")] = "",
    as_json: AsJson = False,
    url: Url = None,
    api_key: ApiKey = None,
) -> None:
    """List drivers."""
    with connect(url, api_key) as client:
        query: dict[str, object] = {"limit": _ALL} | ({"q": search} if search else {})
        if as_json:
            print_json(client.get("/drivers", list[dict[str, object]], **query))
            return
        found = client.get("/drivers", list[Driver], **query)
    print_table(
        ("NAME", "MODULE", "FILE", "VERSION", "ID", "ERROR"),
        (
            (
                item.name,
                item.module_name,
                item.file_name,
                item.commit[:8],
                item.id,
                _first_line(item.compilation_output),
            )
            for item in found
        ),
        empty="No driver fits." if search else "There are no drivers yet.",
    )


def look(client: Client) -> Overview:
    """Everything `status` shows."""
    version = client.get("/version", _Version)
    found = client.get("/modules", list[Module], limit=_ALL)
    drivers = client.get("/drivers", list[Driver], limit=_ALL)
    names = {item.id: item.name for item in drivers}
    rooms = rooms_of(client.get("/systems", list[Place], limit=_ALL))
    troubled = [
        item for item in found if item.running and (not item.connected or item.has_runtime_error)
    ]
    errors = _errors(client, [item.id for item in troubled if item.has_runtime_error])
    problems: list[dict[str, object]] = [
        {
            "room": ", ".join(rooms.get(item.id, [])),
            "module": item.shown_name,
            "id": item.id,
            "driver": names.get(item.driver_id, ""),
            "state": item.state,
            "reason": _reason(item, errors.get(item.id)),
        }
        for item in troubled
    ]
    running = [item for item in found if item.running]
    return Overview(
        url=client.url,
        version=version.version,
        nodes=_nodes(client),
        view=see_view(client),
        running=len(running),
        connected=sum(item.connected for item in running),
        stopped=len(found) - len(running),
        problems=problems,
        drivers=[
            {"driver": item.name, "file": item.file_name, "error": error, "id": item.id}
            for item in drivers
            if (error := _first_line(item.compilation_output))
        ],
    )


def rooms_of(systems: list[Place]) -> dict[str, list[str]]:
    """Module id → names of the rooms it is in."""
    rooms: dict[str, list[str]] = {}
    for system in systems:
        for module in system.modules:
            rooms.setdefault(module, []).append(system.display_name or system.name)
    return rooms


def _nodes(client: Client) -> list[Node]:
    """Cores; nothing for those who may not see them."""
    try:
        return client.get("/cluster", list[Node], include_status="true")
    except CliError:
        return []


def _errors(client: Client, modules: list[str]) -> dict[str, str]:
    """What the cores say of the first of these modules."""
    found = {}
    for module in modules[:_EXPLAINED]:
        try:
            texts = client.get(f"/modules/{segment(module)}/error", list[str])
        except CliError:  # gone meanwhile, or well again
            continue
        found[module] = "; ".join(_first_line(text) for text in texts)
    return found


def _reason(item: Module, errors: str | None) -> str:
    """Why a module is not well: what its core says, else what can be told from here."""
    if errors:
        return errors
    where = f"the device at {item.address} does not answer" if item.address else "not connected"
    reasons = [] if item.connected else [where]
    if item.has_runtime_error:
        reasons.append("its driver reported errors")
    return "; ".join(reasons)


def _print_status(overview: Overview) -> None:
    typer.echo(f"{overview.url}  PlaceOS {overview.version}")
    print_table(
        (
            *("CORE", "ADDRESS", "ZONE", "VERSION", "WISH", "OWNS"),
            *("MODULES", "DRIVERS", "CPU", "MEMORY"),
        ),
        (_row(node, overview.view) for node in overview.nodes),
        empty="No core is running, or you may not see it.",
    )
    if overview.view is not None:
        _print_absent(overview)
        print_view(overview.view)
    stopped = f", {overview.stopped} stopped" if overview.stopped else ""
    typer.echo(f"Modules: {overview.connected} of {overview.running} connected{stopped}")
    if overview.problems:
        columns = ("room", "module", "state", "reason", "driver", "id")
        print_table(
            [column.upper() for column in columns],
            ([str(problem[column]) for column in columns] for problem in overview.problems),
            empty="",
        )
    if overview.drivers:
        print_table(
            ("DRIVER", "FILE", "ERROR", "ID"),
            ([str(value) for value in driver.values()] for driver in overview.drivers),
            empty="",
        )


def _row(node: Node, view: View | None) -> tuple[str, ...]:
    drained = view is not None and node.id in view.drained
    return (
        node.id,
        node.uri,
        node.zone or "-",
        node.version,
        wish_of(node.wish, drained=drained),
        number(node.modules_owned),
        f"{node.load.local.modules_running} of {node.load.local.modules}",
        str(node.status.run_count.local.drivers),
        f"{node.load.local.core_cpu:.0f} %",
        f"{node.load.local.core_memory / 1024:.0f} MiB",
    )


def _print_absent(overview: Overview) -> None:
    """Cores that should be there and say nothing."""
    told = {node.id for node in overview.nodes}
    view = overview.view or View()
    silent = [core.id for core in view.cores if core.id not in told]
    lost = [past.identity for past in view.base if past.fate == "lost"]
    for title, names in (("Registered, but does not answer", silent), ("Lost", lost)):
        if names:
            typer.echo(harmless(f"{title}: {', '.join(names)}"))


def _first_line(text: str | None) -> str:
    return text.strip().splitlines()[0] if text and text.strip() else ""
