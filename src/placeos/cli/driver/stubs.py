"""Source text of what a standard interface wants defined."""

from __future__ import annotations

import inspect
import textwrap
import typing
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from types import FunctionType, UnionType
from typing import Any, Final

from placeos.driver.functions import argument_name
from placeos.driver.interfaces import INTERFACES, Interface
from placeos.driver.interfaces.signature import default_text, type_text
from placeos.driver.marks import marks_of

SDK: Final = "placeos.driver.interfaces"
WIDTH: Final = 96

NAMES: Final = {interface.__name__: interface for interface in INTERFACES}
"""All interfaces by the name of their class."""


@dataclass
class Stubs:
    """Methods as text, and what they need imported: module → names."""

    methods: list[str] = field(default_factory=list)
    imports: dict[str, set[str]] = field(default_factory=dict)

    def add_import(self, module: str, name: str) -> None:
        """Have `name` imported from `module`."""
        self.imports.setdefault(module, set()).add(name)


def outermost(interfaces: Iterable[type[Interface]]) -> list[type[Interface]]:
    """Without those that others among them include: a class cannot list both in any order."""
    given = list(dict.fromkeys(interfaces))
    return [one for one in given if not any(one in other.__mro__[1:] for other in given)]


def stubs(interfaces: Iterable[type[Interface]]) -> Stubs:
    """All abstract methods of the interfaces, each refusing for now."""
    made = Stubs()
    for name, method in _abstract(interfaces):
        made.methods.append(_method(name, method, made))
    return made


def settings_bases(interfaces: Iterable[type[Interface]]) -> list[str]:
    """Names of classes from which the driver's settings have to derive."""
    needed = (
        vars(base).get("settings_needed") for interface in interfaces for base in interface.__mro__
    )
    return list(dict.fromkeys(kind.__name__ for kind in needed if kind is not None))


def _abstract(interfaces: Iterable[type[Interface]]) -> Iterator[tuple[str, FunctionType]]:
    seen: set[str] = set()
    for interface in interfaces:
        for base in interface.__mro__:
            for name, member in vars(base).items():
                if name in interface.__abstractmethods__ and name not in seen:
                    seen.add(name)
                    yield name, member


def _method(name: str, method: FunctionType, made: Stubs) -> str:
    hints = typing.get_type_hints(method, include_extras=True)
    parameters = ["self"]
    for parameter in list(inspect.signature(method).parameters.values())[1:]:
        kind = hints.get(parameter.name, Any)
        _import(kind, made)
        text = f"{parameter.name}: {type_text(kind)}"
        if parameter.default is not parameter.empty:
            text += f" = {default_text(parameter.default)}"
        parameters.append(text)
    returned = hints.get("return", object)
    _import(returned, made)
    public = marks_of(method).name or argument_name(name)
    made.add_import("placeos.driver", "DriverError")
    lines = _head(name, parameters, type_text(returned))
    doc = (inspect.getdoc(method) or "To be written.").partition("\n\n")[0].replace("\n", " ")
    lines += _doc(doc)
    lines.append(f'        raise DriverError("{public} is not written yet", code=501)')
    return "\n".join(lines) + "\n"


def _head(name: str, parameters: list[str], returned: str) -> list[str]:
    line = f"    async def {name}({', '.join(parameters)}) -> {returned}:"
    if len(line) <= WIDTH:
        return [line]
    return [
        f"    async def {name}(",
        *(f"        {parameter}," for parameter in parameters),
        f"    ) -> {returned}:",
    ]


def _doc(text: str) -> list[str]:
    line = f'        """{text}"""'
    if len(line) <= WIDTH:
        return [line]
    wrapped = textwrap.wrap(text, WIDTH - 12)
    return [f'        """{wrapped[0]}', *(f"        {more}" for more in wrapped[1:]), '        """']


def _import(kind: Any, made: Stubs) -> None:
    """Have everything imported that `type_text(kind)` speaks of."""
    origin = typing.get_origin(kind)
    if origin is typing.Annotated:
        _import(typing.get_args(kind)[0], made)
    elif origin is typing.Literal:
        made.add_import("typing", "Literal")
    elif origin is not None:
        if origin not in (UnionType, typing.Union):
            _import(origin, made)
        for part in typing.get_args(kind):
            _import(part, made)
    elif kind is Any:
        made.add_import("typing", "Any")
    elif isinstance(kind, type) and kind.__module__ != "builtins":
        module = SDK if kind.__module__.startswith(f"{SDK}.") else kind.__module__
        made.add_import(module, kind.__name__)
