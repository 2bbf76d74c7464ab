"""Whether a driver class is what it claims to be, by its interfaces. Pure."""

from __future__ import annotations

import inspect
import re
import typing
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import FunctionType

from placeos.driver.base import HIDDEN, Driver
from placeos.driver.functions import functions_of, inherited_marks
from placeos.driver.interfaces import INTERFACES, Interface
from placeos.driver.interfaces.signature import Signature, differences
from placeos.driver.settings import settings_class


@dataclass(frozen=True, slots=True)
class Problem:
    """A claim that does not hold. `place` is `lamp.py:12` if a method of the driver is wrong."""

    subject: str  # `Lamp.power`
    expected: str
    place: str = ""

    def __str__(self) -> str:
        return f"{self.subject}: {self.expected}"


def check(cls: type) -> list[Problem]:
    """All that is wrong about the interfaces which a driver class claims.

    Each function of an interface must be there, under its published name, begin with the
    interface's arguments in their order, keep their defaults, and accept what the interface
    promises callers. Arguments of its own have defaults. It may be a plain `def`. The bounds
    of numbers are free, and so are the types where the interface says Any.
    """
    return [
        *(
            problem
            for name, (interface, promised) in _promises(cls).items()
            for problem in _check_function(cls, name, interface, promised)
        ),
        *(problem for interface in claimed(cls) for problem in _check_settings(cls, interface)),
    ]


def claimed(cls: type) -> list[type[Interface]]:
    """The interfaces among the base classes, in the order of the metadata's `implements`."""
    return [base for base in cls.__mro__ if _is_interface(base)]


def hints(cls: type) -> list[type[Interface]]:
    """Interfaces which a driver class serves completely without claiming them.

    Of interfaces that include each other only the outermost. Raises InvalidDriver for a class
    whose functions cannot be read.
    """
    methods = {name: function.method for name, function in functions_of(cls, HIDDEN).items()}
    given = {
        name: Signature.of(inspect.getattr_static(cls, method), name)
        for name, method in methods.items()
    }
    served = [
        interface
        for interface in INTERFACES
        if not issubclass(cls, interface)
        and all(
            promised.name in given and not any(differences(promised, given[promised.name]))
            for promised in required(interface)
        )
    ]
    return [one for one in served if not any(one in other.__mro__[1:] for other in served)]


def required(interface: type[Interface]) -> list[Signature]:
    """What a driver has to define itself to serve an interface."""
    return [
        Signature.of(method, _public_name(interface, name))
        for name, (_, method) in _promises(interface).items()
        if _is_abstract(method)
    ]


def provided(interface: type[Interface]) -> list[Signature]:
    """What a driver gets for it."""
    return [
        Signature.of(method, _public_name(interface, name))
        for name, (_, method) in _promises(interface).items()
        if not _is_abstract(method)
    ]


# -- state ----------------------------------------------------------------------------------


def state_keys(interfaces: Iterable[type | str]) -> dict[str, str]:
    """The state keys that apps look for in a module, by its interfaces, and their meaning.

    Interfaces are given as classes or by published name.
    """
    keys: dict[str, str] = {}
    for given in interfaces:
        for interface in _known(given):
            keys |= vars(interface).get("state_keys", {})
    return keys


def missing_state(interfaces: Iterable[type | str], state: Mapping[str, object]) -> list[str]:
    """Those of `state_keys` that a state lacks. They are conventions, no rules: a device may
    have a good reason."""
    return [
        key
        for key in state_keys(interfaces)
        if not any(key_pattern(key).fullmatch(present) for present in state)
    ]


def key_pattern(key: str) -> re.Pattern[str]:
    """`mute<index>_audio` as a pattern that `mute0_audio` fits."""
    return re.compile(".+".join(map(re.escape, re.split(r"<\w+>", key))))


def _known(given: type | str) -> list[type[Interface]]:
    """An interface, or all those of a driver class, with what they include."""
    if isinstance(given, type):
        return claimed(given)
    return next((claimed(i) for i in INTERFACES if i.interface_name == given), [])


# -- inside -------------------------------------------------------------------------------


def _is_interface(base: type) -> typing.TypeGuard[type[Interface]]:
    return issubclass(base, Interface) and bool(vars(base).get("interface_name"))


def _is_abstract(method: object) -> bool:
    return bool(getattr(method, "__isabstractmethod__", False))


def _public_name(cls: type, method: str) -> str:
    return inherited_marks(cls, method).name or method


def _promises(cls: type) -> dict[str, tuple[type[Interface], FunctionType]]:
    """By method: which interface speaks of it first, and how."""
    found: dict[str, tuple[type[Interface], FunctionType]] = {}
    for interface in claimed(cls):
        for name, member in vars(interface).items():
            if name[0] != "_" and isinstance(member, FunctionType):
                found.setdefault(name, (interface, member))
    return found


def _check_function(
    cls: type, name: str, interface: type[Interface], promised: FunctionType
) -> Iterator[Problem]:
    public_name = _public_name(interface, name)
    signature = Signature.of(promised, public_name)
    subject = f"{cls.__name__}.{name}"
    given = inspect.getattr_static(cls, name)
    if given is promised:
        if _is_abstract(promised):
            yield Problem(subject, _missing(cls, name, interface, signature))
        return
    if not isinstance(given, FunctionType):
        yield Problem(subject, f"must be a method, {signature} of {interface.__name__}")
        return
    place = f"{Path(given.__code__.co_filename).name}:{given.__code__.co_firstlineno}"
    for difference in _method_differences(cls, name, public_name):
        yield Problem(subject, f"{difference}; {interface.__name__} has {signature}", place)
    for difference in differences(signature, Signature.of(given, public_name)):
        yield Problem(subject, f"{difference}; {interface.__name__} has {signature}", place)


def _missing(cls: type, name: str, interface: type[Interface], signature: Signature) -> str:
    """What to define; or, if a base class does, that it stands too far back to count."""
    place = cls.__mro__.index(interface)
    helper = next((base for base in cls.__mro__[place:] if _defines(base, name)), None)
    if helper is not None:
        return f"list {helper.__name__}, which defines it, before {interface.__name__}"
    written = name if name == signature.name else f"{name}, published as {signature.name}"
    return f"{cls.__name__} is {interface.__name__} but does not define {written}: {signature}"


def _defines(base: type, name: str) -> bool:
    return name in vars(base) and not _is_abstract(vars(base)[name])


def _method_differences(cls: type, name: str, public_name: str) -> Iterator[str]:
    marks = inherited_marks(cls, name)
    if marks.on:
        yield "a handler with @on is no function"
    elif (marks.name or name) != public_name:
        yield f"must be published as '{public_name}', not '{marks.name or name}'"


def _check_settings(cls: type, interface: type[Interface]) -> Iterator[Problem]:
    needed = vars(interface).get("settings_needed")
    if needed is None:
        return
    given = settings_class(cls, Driver)
    hints = typing.get_type_hints(given, include_extras=True)
    for name, kind in typing.get_type_hints(needed, include_extras=True).items():
        if hints.get(name) != kind:
            yield Problem(
                f"{cls.__name__}.settings",
                f"{interface.__name__} needs '{name}': derive {given.__name__} from "
                f"placeos.driver.interfaces.{needed.__name__}",
            )
