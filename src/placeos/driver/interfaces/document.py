"""docs/interfaces.md, made from the code: `python -m placeos.driver.interfaces.document`."""

from __future__ import annotations

import inspect
import sys
import typing
from collections.abc import Iterable, Iterator
from enum import Enum
from types import FunctionType
from typing import Final, TypeVar

import msgspec

from placeos.driver import interfaces
from placeos.driver.interfaces import INTERFACES, Interface, Record
from placeos.driver.interfaces.check import required
from placeos.driver.interfaces.signature import Signature, default_text, type_text
from placeos.driver.marks import marks_of
from placeos.driver.schema import lower_snake

T = TypeVar("T")

INTRODUCTION: Final = """\
# Standard interfaces

*Made from the code by `python -m placeos.driver.interfaces.document`.*

An app or a room's logic does not care who made a display: it uses whatever is `Powerable`. A
driver claims interfaces among its base classes and defines their functions; some functions it is
given in return. A claim is checked when the driver is loaded: each function must have the
interface's arguments, in their order and with their defaults, and accept the types given here. It
may have further arguments with defaults, use plain `def`, and choose any type where it says `Any`.

```python
from placeos.driver import TCP, Driver, Settings
from placeos.driver.interfaces import ElectricalRelay


class Relays(Driver[Settings], ElectricalRelay):
    transport = TCP(port=4998, ends_with=b"\\r")

    async def relay(self, state: bool, index: int = 0) -> None:
        await self.send(f"setstate,1:{index},{int(state)}")
        self[f"relay{index}"] = state
```

All names come from `placeos.driver.interfaces`. Functions are coroutines. One whose public name
ends in `?` has a Python name without it; an argument `from` is written `from_` in Python. Enums
are spoken by name (`audio_video`), records are JSON objects without the members that are `None`.

State keys are conventions: nothing enforces them, but apps look for them. Those in *italics* not
every device has. There is no interface for volume; what apps expect is `volume(level)` from 0 to
100 and the state `volume`, for mixers `fader<id>` and `fader<id>_mute`.
"""


def markdown() -> str:
    """The whole document."""
    parts = [INTRODUCTION, *map(_interface, INTERFACES), *_records(), *_enums()]
    return "\n".join(parts)


def _interface(interface: type[Interface]) -> str:
    text = f"{_prose(interface)} Published as `{interface.interface_name}`."
    if included := [base.__name__ for base in interface.__bases__ if base in INTERFACES]:
        text += f" Includes {', '.join(included)}."
    lines = [f"## {interface.__name__}", "", text]
    lines += _table("function", "", "", rows=_functions(interface))
    keys = vars(interface).get("state_keys", {})
    optional = vars(interface).get("optional_state_keys", {})
    shown = [f"`{key}`: {meaning}" for key, meaning in keys.items()]
    shown += [f"*`{key}`*: {meaning}" for key, meaning in optional.items()]
    if shown:
        lines += ["", f"State: {'; '.join(shown)}."]
    return "\n".join(lines) + "\n"


def _functions(interface: type[Interface]) -> Iterator[tuple[str, str, str]]:
    defined = {signature.name for signature in required(interface)}
    for name, member in vars(interface).items():
        if isinstance(member, FunctionType) and name[0] != "_":
            signature = Signature.of(member, marks_of(member).name or name)
            whose = "to define" if signature.name in defined else "provided"
            yield f"`{signature}`", whose, _prose(member)


def _records() -> Iterator[str]:
    yield "## Records\n"
    for record in _exported(Record):
        members = ", ".join(f"{name}: {text}" for name, text in _members(record))
        yield f"**`{record.__name__}`** `{members}`. {_prose(record)}\n"


def _members(record: type[Record]) -> Iterator[tuple[str, str]]:
    config = record.__struct_config__
    if config.tag_field:
        yield config.tag_field, repr(config.tag)
    hints = typing.get_type_hints(record)
    for field in msgspec.structs.fields(record):
        default = field.default
        if field.default_factory is not msgspec.NODEFAULT:
            default = field.default_factory()
        shown = "" if default is msgspec.NODEFAULT else f" = {default_text(default)}"
        yield field.name, type_text(hints[field.name]) + shown


def _enums() -> Iterator[str]:
    yield "## Enums\n"
    rows = (
        (f"`{enum.__name__}`", ", ".join(f"`{lower_snake(member.name)}`" for member in enum))
        for enum in _exported(Enum)
        if len(enum)
    )
    yield "\n".join(_table("enum", "members", rows=rows)[1:]) + "\n"


def _exported(base: type[T]) -> Iterator[type[T]]:
    for name in sorted(interfaces.__all__):
        member = getattr(interfaces, name)
        if isinstance(member, type) and issubclass(member, base) and member is not base:
            yield member


def _table(*head: str, rows: Iterable[tuple[str, ...]]) -> list[str]:
    cells = [[cell.replace("|", r"\|") for cell in row] for row in rows]
    ruler = f"|{'---|' * len(head)}"
    lines = [f"| {' | '.join(row)} |" for row in [list(head), *cells]]
    return ["", lines[0], ruler, *lines[1:]]


def _prose(thing: object) -> str:
    """A docstring as one paragraph."""
    return " ".join((inspect.getdoc(thing) or "").split())


if __name__ == "__main__":
    sys.stdout.write(markdown())
