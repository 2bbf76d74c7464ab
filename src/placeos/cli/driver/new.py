"""`placeos driver new`: a driver and its test, to begin with."""

from __future__ import annotations

import keyword
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import typer

from placeos import driver
from placeos.cli.driver.stubs import NAMES, Stubs, outermost, settings_bases, stubs
from placeos.cli.driver.templates import KINDS, PORTS, Kind
from placeos.cli.output import ASKED_WRONGLY, CliError
from placeos.driver import interfaces
from placeos.driver.interfaces import Interface

LONGEST: Final = 100


@dataclass(frozen=True)
class Wanted:
    """What the driver shall be."""

    name: str
    kind: str
    interfaces: tuple[type[Interface], ...]
    module_name: str
    port: int | None = None

    @property
    def stem(self) -> str:
        """`Acme Lamp` → `acme_lamp`."""
        spaced = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", " ", self.name)
        return "_".join(re.findall(r"\w+", spaced.lower())).strip("_")

    @property
    def title(self) -> str:
        """`acme lamp` → `AcmeLamp`."""
        return "".join(part[0].upper() + part[1:] for part in re.findall(r"[^\W_]+", self.name))

    @property
    def class_name(self) -> str:
        """The title, unless the SDK has something of that name."""
        taken = hasattr(driver, self.title) or hasattr(interfaces, self.title)
        return f"{self.title}Driver" if taken else self.title


def find_interfaces(names: Sequence[str]) -> tuple[type[Interface], ...]:
    """The interfaces of those names, whatever their case. Raises CliError."""
    known = {name.casefold(): interface for name, interface in NAMES.items()}
    given = [part for name in names for part in re.split(r"[,\s]+", name) if part]
    for name in given:
        if name.casefold() not in known:
            raise CliError(
                f"there is no interface {name!r}",
                hint=f"There are: {', '.join(NAMES)}",
                exit_code=ASKED_WRONGLY,
            )
    return tuple(outermost(known[name.casefold()] for name in given))


def parse_kind(name: str) -> str:
    """The transport of that name. Raises CliError."""
    if name.casefold() not in KINDS:
        raise CliError(
            f"there is no transport {name!r}",
            hint=f"There are: {', '.join(KINDS)}",
            exit_code=ASKED_WRONGLY,
        )
    return name.casefold()


def ask(name: str | None, kind: str | None, served: Sequence[str] | None) -> Wanted:
    """Ask for what was not given. Raises CliError for what makes no sense."""
    name = name or typer.prompt("What is the driver called")
    if kind is None:
        width = max(map(len, KINDS))
        for known, details in KINDS.items():
            typer.echo(f"  {known:<{width}}  {details.about}")
        kind = typer.prompt("How is the device reached", default="tcp")
    chosen = parse_kind(kind or "")
    if served is None:
        typer.echo(f"Standard interfaces: {', '.join(NAMES)}")
        served = [typer.prompt("Which does it serve", default="", show_default=False)]
    return checked(Wanted(name or "", chosen, find_interfaces(served), ""))


def checked(wanted: Wanted) -> Wanted:
    """The same, if files can be named so. Raises CliError."""
    stem, cls = wanted.stem, wanted.class_name
    fits = stem.isidentifier() and cls.isidentifier() and not keyword.iskeyword(stem)
    if not fits or stem.startswith("test_"):
        raise CliError(
            f"{wanted.name!r} cannot name a driver",
            hint="Choose a name such as 'Acme Lamp': letters and digits, beginning with a letter.",
            exit_code=ASKED_WRONGLY,
        )
    return wanted


def write(wanted: Wanted, folder: Path) -> tuple[Path, Path]:
    """Write driver and test; returns where they are. Raises CliError, and then writes nothing."""
    files = folder / f"{wanted.stem}.py", folder / f"test_{wanted.stem}.py"
    texts = driver_text(wanted), test_text(wanted)
    for file in files:
        if file.exists():
            raise CliError(f"{file} exists already", hint="Choose another name, or remove it.")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for file, text in zip(files, texts, strict=True):
            with file.open("x", encoding="utf-8") as opened:
                opened.write(text)
    except OSError as error:
        raise CliError(f"cannot write to {folder}: {error}") from error
    return files


def driver_text(wanted: Wanted) -> str:
    """The driver file."""
    kind, made = KINDS[wanted.kind], stubs(wanted.interfaces)
    bases = settings_bases(wanted.interfaces)
    polls = "every" in kind.imports
    own_settings = polls or bool(bases)
    base = "Logic" if wanted.kind == "logic" else "Driver"
    for name in (base, *kind.imports, *([] if bases else ["Settings"])):
        made.add_import("placeos.driver", name)
    for name in (*(one.__name__ for one in wanted.interfaces), *bases):
        made.add_import("placeos.driver.interfaces", name)
    settings = f"{wanted.class_name}Settings" if own_settings else "Settings"
    parts = [f'"""{_in_quotes(wanted.name)}."""\n', _imports(made, kind.standard)]
    if own_settings:
        parts.append(_settings(settings, bases, polls=polls))
    parts.append(_class(wanted, kind, made, f"{base}[{settings}]"))
    return "\n".join(parts)


def test_text(wanted: Wanted) -> str:
    """Its test."""
    kind = KINDS[wanted.kind]
    names = sorted({*kind.test_imports, "drive"}, key=_order)
    about = _in_quotes(wanted.name)
    parts = [
        f'"""{about}: the driver in a process of its own, what it speaks to is played."""\n',
        "from pathlib import Path\n",
        f"from placeos.driver.testing import {', '.join(names)}\n",
        f'FILE = Path(__file__).with_name("{wanted.stem}.py")\n\n',
        kind.test,
    ]
    if wanted.interfaces:
        claims = "\n".join(
            f'        assert "{one.interface_name}" in module.implements'
            for one in wanted.interfaces
        )
        parts.append(
            "\nasync def test_says_what_it_is() -> None:\n"
            f"    async with drive(FILE{kind.handed_over}) as module:\n{claims}\n"
        )
    return "\n".join(parts)


def _settings(name: str, bases: list[str], *, polls: bool) -> str:
    lines = [f"\nclass {name}({', '.join(bases or ['Settings'])}):"]
    if polls:
        lines.append("    poll_every: float = 10  # seconds")
    else:
        lines.append('    """All that can be set."""')
    return "\n".join(lines) + "\n"


def _class(wanted: Wanted, kind: Kind, made: Stubs, base: str) -> str:
    line = ", ".join([base, *(one.__name__ for one in wanted.interfaces)])
    text = f"\nclass {wanted.class_name}({line}):\n"
    text += f'    module_name = "{_in_quotes(wanted.module_name or wanted.title)}"\n'
    if kind.declaration:
        port = str(wanted.port or PORTS.get(wanted.kind, 0))
        text += f"    transport = {kind.declaration.replace('$port', port)}\n"
    if kind.attributes:
        text += f"\n{kind.attributes}"
    return "\n".join([text, kind.body, *made.methods]).rstrip() + "\n"


def _in_quotes(text: str) -> str:
    """As it stands between double quotes in Python."""
    return text.replace("\\", "\\\\").replace('"', '\\"')


def _imports(made: Stubs, standard: Sequence[str]) -> str:
    """Sorted as ruff does: the standard library first."""
    own = {module: names for module, names in made.imports.items() if module.startswith("placeos")}
    others = [_import(m, n) for m, n in sorted(made.imports.items()) if m not in own]
    first = [*(f"import {name}" for name in sorted(standard)), *others]
    second = [_import(module, names) for module, names in sorted(own.items())]
    return "\n\n".join("\n".join(block) for block in (first, second) if block) + "\n"


def _import(module: str, names: set[str]) -> str:
    ordered = sorted(names, key=_order)
    line = f"from {module} import {', '.join(ordered)}"
    if len(line) <= LONGEST:
        return line
    return "\n".join([f"from {module} import (", *(f"    {name}," for name in ordered), ")"])


def _order(name: str) -> tuple[int, str]:
    """Constants, then classes, then functions."""
    if name.isupper():
        return (0, name)
    return (1 if name[0].isupper() else 2, name)
