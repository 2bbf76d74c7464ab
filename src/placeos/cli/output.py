"""How the client speaks: tables for people, JSON for programs, errors one can act on."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from typing import Any
from urllib.parse import quote

import msgspec

FAILED = 1
ASKED_WRONGLY = 2


class CliError(Exception):
    """Something a person should read. `exit_code` 1: it failed, 2: it was asked wrongly.

    `status` is that of the HTTP answer that led to it, or 0.
    """

    def __init__(
        self, message: str, *, hint: str = "", exit_code: int = FAILED, status: int = 0
    ) -> None:
        super().__init__(message)
        self.status = status
        self.hint = hint
        self.exit_code = exit_code


_CONTROLS = {n: f"\\x{n:02x}" for n in (*range(32), *range(127, 160)) if chr(n) not in "\n\t"}


def harmless(text: str) -> str:
    """Text for a terminal: what would move its cursor, colour it or clear it is shown instead.

    Errors and values come from drivers and their devices.
    """
    return text.translate(_CONTROLS)


def complain(error: CliError) -> None:
    """Print an error, and what to do about it, on standard error."""
    from rich.console import Console

    console = Console(stderr=True, soft_wrap=True)
    console.print(harmless(f"Error: {error}"), style="red", markup=False, highlight=False)
    if error.hint:
        console.print(harmless(error.hint), markup=False, highlight=False)


def print_json(value: Any) -> None:
    """One JSON document on standard output."""
    text = msgspec.json.format(msgspec.json.encode(value), indent=2)
    sys.stdout.write(text.decode() + "\n")


def print_table(columns: Sequence[str], rows: Iterable[Sequence[str]], *, empty: str) -> None:
    """A table as wide as the terminal; as wide as it needs in a pipe. `empty` if no rows."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    rows = list(rows)
    console = Console()
    if not console.is_terminal:
        console = Console(width=10_000, highlight=False)
    if not rows:
        console.print(empty, markup=False)
        return
    table = Table(box=None, padding=(0, 3, 0, 0), header_style="bold")
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*(Text(harmless(cell), _style(cell)) for cell in row))
    console.print(table)


def show(value: object) -> str:
    """A value as one reads it: text bare, everything else as JSON."""
    if isinstance(value, str):
        return value
    return msgspec.json.encode(value).decode()


def _style(cell: str) -> str:
    return {"connected": "green", "disconnected": "red", "stopped": "dim"}.get(cell, "")


def segment(text: str) -> str:
    """Text as one segment of a path."""
    return quote(text, safe="")
