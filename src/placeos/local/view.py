"""What `placeos up` shows: steps, the way in, then a live status; plain lines where no terminal."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol

import msgspec
from rich.console import Console, Group
from rich.live import Live
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from placeos.local.process import Kind
from placeos.local.supervisor import Managed, State

Report = Callable[[str], None]

_COLOURS = {
    State.READY: "green",
    State.STARTING: "yellow",
    State.WAITING: "red",
    State.SILENT: "red",
    State.STOPPED: "dim",
}
_TITLES = {
    Kind.ENGINE: "engines",
    Kind.SERVICE: "services",
    Kind.INGRESS: "front door",
    Kind.DEVICE: "simulated devices",
}


class WayIn(msgspec.Struct, frozen=True):
    """How to reach the platform."""

    url: str
    email: str
    password: str
    data: str
    others: tuple[str, ...] = ()
    certificate: str = ""


class Modules(msgspec.Struct, frozen=True):
    """Of all modules that should run: how many are connected; names of some that are not."""

    running: int = 0
    connected: int = 0
    missing: tuple[str, ...] = ()
    known: bool = False


class View(Protocol):
    """What the course of `placeos up` is told to."""

    @contextmanager
    def step(self, text: str) -> Iterator[Report]:
        """Something that takes a while; yields a function for its details."""
        yield lambda _: None  # pragma: no cover

    def event(self, text: str) -> None:
        """Something happened that one should know."""

    def ready(self, way_in: WayIn) -> None:
        """It runs; this is the way in."""

    def status(self, processes: Sequence[Managed], modules: Modules) -> None:
        """How things stand; called about every second."""

    def close(self) -> None:
        """Nothing more will be shown live."""


class PlainView:
    """Lines, for logs and pipes: a status line only when something changed."""

    def __init__(self, write: Callable[[str], None]) -> None:
        self._write = write
        self._last = ""

    @contextmanager
    def step(self, text: str) -> Iterator[Report]:
        """See View."""
        started = time.monotonic()
        yield lambda _: None
        self._write(f"{text}: done ({time.monotonic() - started:.1f} s)")

    def event(self, text: str) -> None:
        """See View."""
        self._write(text)

    def ready(self, way_in: WayIn) -> None:
        """See View."""
        for line in describe(way_in):
            self._write(line)

    def status(self, processes: Sequence[Managed], modules: Modules) -> None:
        """See View."""
        line = summarise(processes, modules)
        if line != self._last:
            self._last = line
            self._write(line)

    def close(self) -> None:
        """See View."""


class LiveView:
    """Colours, a spinner while something takes a while, a table that follows the status."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._live: Live | None = None

    @contextmanager
    def step(self, text: str) -> Iterator[Report]:
        """See View."""
        started = time.monotonic()
        with self._console.status(f"{text} …") as spinner:
            yield lambda detail: spinner.update(f"{text} … [dim]{escape(detail)}[/dim]")
        taken = time.monotonic() - started
        self._console.print(f"[green]✓[/green] {text} [dim]{taken:.1f} s[/dim]")

    def event(self, text: str) -> None:
        """See View."""
        now = time.strftime("%H:%M:%S")
        self._console.print(f"[dim]{now}[/dim] {escape(text)}")

    def ready(self, way_in: WayIn) -> None:
        """See View."""
        self._console.print()
        for line in describe(way_in):
            self._console.print(line, style="bold", markup=False, highlight=False)
        self._console.print()

    def status(self, processes: Sequence[Managed], modules: Modules) -> None:
        """See View."""
        table = _table(processes)
        table.add_row(Text("modules", "dim"), _modules_cell(modules))
        picture = Group(table, Text("Ctrl-C stops", "dim"))
        if self._live is None:
            self._live = Live(picture, console=self._console, auto_refresh=False)
            self._live.start()
        self._live.update(picture, refresh=True)

    def close(self) -> None:
        """See View."""
        if self._live is not None:
            self._live.stop()
            self._live = None


def describe(way_in: WayIn) -> list[str]:
    """The way in, as lines."""
    trust = f"{way_in.certificate} (trust it on the other machines)"
    return [
        f"Address   {way_in.url}",
        *(f"          {other}" for other in way_in.others),
        *([f"CA        {trust}"] if way_in.certificate else []),
        f"E-mail    {way_in.email}",
        f"Password  {way_in.password}",
        f"Data      {way_in.data}",
    ]


def summarise(processes: Sequence[Managed], modules: Modules) -> str:
    """The status in one line."""
    parts = []
    for kind, items in _by_kind(processes).items():
        ready = sum(item.state is State.READY for item in items)
        parts.append(f"{_TITLES[kind]} {ready}/{len(items)}")
        parts.extend(f"{item.name} {item.state}" for item in items if item.state is not State.READY)
    parts.append(_modules_text(modules))
    return ", ".join(parts)


def _by_kind(processes: Sequence[Managed]) -> dict[Kind, list[Managed]]:
    kinds = {kind: [item for item in processes if item.spec.kind is kind] for kind in Kind}
    return {kind: items for kind, items in kinds.items() if items}


def _table(processes: Sequence[Managed]) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), show_header=False)
    for kind, items in _by_kind(processes).items():
        cell = Text()
        if kind is Kind.DEVICE:
            items = _compact(items, cell)
        for item in items:
            again = f" (restarted {item.restarts}×)" if item.restarts else ""
            word = "" if item.state is State.READY else f" {item.state}"
            cell.append("● ", style=_COLOURS[item.state])
            cell.append(f"{item.name}{word}{again}   ")
        table.add_row(Text(_TITLES[kind], "dim"), cell)
    return table


def _compact(devices: list[Managed], cell: Text) -> list[Managed]:
    """Count the devices that are well; return the others, to be named."""
    well = [item for item in devices if item.state is State.READY]
    cell.append("● ", style="green" if well else "dim")
    cell.append(f"{len(well)} of {len(devices)} on   ")
    return [item for item in devices if item.state is not State.READY]


def _modules_cell(modules: Modules) -> Text:
    good = modules.known and modules.connected == modules.running
    return Text(_modules_text(modules).removeprefix("modules "), "green" if good else "yellow")


def _modules_text(modules: Modules) -> str:
    if not modules.known:
        return "modules not known yet"
    missing = f" (not: {', '.join(modules.missing)})" if modules.missing else ""
    return f"modules {modules.connected} of {modules.running} connected{missing}"
