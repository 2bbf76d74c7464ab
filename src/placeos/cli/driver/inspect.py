"""Loads one driver file and writes what it is to a file descriptor, as JSON.

Run as `python -m placeos.cli.driver.inspect FILE FD`, in a process of its own: a driver file is
a program, and does what it wants when it is loaded.
"""

from __future__ import annotations

import sys

import msgspec

from placeos.driver.base import Driver
from placeos.driver.errors import InvalidDriver
from placeos.driver.interfaces.check import check, hints
from placeos.driver.loader import Blueprint, load
from placeos.driver.settings import settings_class
from placeos.wire.messages import DriverDefaults


class Function(msgspec.Struct):
    """A function of the driver. `line` is that of its method, 0 if it is not in the file."""

    name: str
    doc: str
    line: int


class Description(msgspec.Struct):
    """A driver that can be loaded; or else only `error`, which begins with file and line."""

    error: str = ""
    defaults: DriverDefaults = msgspec.field(default_factory=lambda: DriverDefaults("", "", 0))
    implements: list[str] = []
    problems: list[str] = []
    served: list[str] = []
    functions: list[Function] = []
    own_settings: list[str] = []  # those the driver declares itself; the others are the SDK's


def describe(path: str) -> Description:
    """Load the file."""
    try:
        blueprint = load(path)
        return Description(
            defaults=blueprint.defaults,
            implements=blueprint.metadata.implements,
            problems=[f"{one.place}: {one}" for one in check(blueprint.cls)],
            served=[one.__name__ for one in hints(blueprint.cls)],
            functions=_functions(blueprint, path),
            own_settings=list(settings_class(blueprint.cls, Driver).__struct_fields__),
        )
    except InvalidDriver as error:
        return Description(error=str(error))


def _functions(blueprint: Blueprint, path: str) -> list[Function]:
    found = []
    for function in blueprint.functions.values():
        code = getattr(blueprint.cls, function.method).__code__
        line = code.co_firstlineno if code.co_filename == path else 0
        found.append(Function(function.name, function.doc, line))
    return found


def main() -> None:
    """See the module."""
    path, fd = sys.argv[1], int(sys.argv[2])
    with open(fd, "wb") as answer:
        answer.write(msgspec.json.encode(describe(path)))


if __name__ == "__main__":
    main()
