"""Signatures as the callers of a function see them, and what accepts what. Pure."""

from __future__ import annotations

import inspect
import types
import typing
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import Enum
from typing import Any, Final

from msgspec import inspect as introspect

from placeos.driver.functions import argument_name
from placeos.driver.schema import plain

_NONE: Final = inspect.Parameter.empty


@dataclass(frozen=True, slots=True)
class Argument:
    """One argument; its type is Any where it has none that can be read."""

    name: str
    type: Any = Any
    default: object = _NONE
    keyword_only: bool = False

    @property
    def required(self) -> bool:
        """Whether callers have to give it."""
        return self.default is _NONE

    def __str__(self) -> str:
        shown = f"{self.name}: {type_text(self.type)}"
        return shown if self.required else f"{shown} = {default_text(self.default)}"


@dataclass(frozen=True, slots=True)
class Signature:
    """A function's name and arguments, without `self`, `*rest` and `**options`."""

    name: str
    arguments: tuple[Argument, ...]

    @classmethod
    def of(cls, method: Callable[..., object], name: str = "") -> Signature:
        """The signature of a method, under its published name if that is another."""
        try:
            hints = typing.get_type_hints(method, include_extras=True)
        except Exception:  # whoever reads the functions reports it, with the reason
            hints = {}
        parameters = list(inspect.signature(method).parameters.values())[1:]
        arguments = tuple(
            Argument(
                argument_name(parameter.name),
                hints.get(parameter.name, Any),
                parameter.default,
                parameter.kind is parameter.KEYWORD_ONLY,
            )
            for parameter in parameters
            if parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
        )
        return cls(name or method.__name__, arguments)

    def __str__(self) -> str:
        return f"{self.name}({', '.join(map(str, self.arguments))})"


def differences(promised: Signature, given: Signature) -> Iterator[str]:
    """Why a function that is `given` is not what was `promised`."""
    expected = [argument.name for argument in promised.arguments]
    found = [argument.name for argument in given.arguments]
    if found[: len(expected)] != expected:
        yield f"its arguments must begin with {', '.join(expected) or 'none'}" + (
            f", not {', '.join(found)}" if found else ", and it has none"
        )
        return
    for of_promise, of_given in zip(promised.arguments, given.arguments, strict=False):
        yield from _argument_differences(of_promise, of_given)
    for extra in given.arguments[len(expected) :]:
        if extra.required:
            yield f"argument '{extra.name}', which callers do not know, needs a default"


def _argument_differences(promised: Argument, given: Argument) -> Iterator[str]:
    name = given.name
    if given.keyword_only:
        yield f"argument '{name}' must not be keyword-only"
    if not promised.required and (
        given.required or plain(given.default) != plain(promised.default)
    ):
        yield f"argument '{name}' must have the default {default_text(promised.default)}"
    if not accepts(given.type, promised.type):
        wanted, taken = type_text(promised.type), type_text(given.type)
        yield f"argument '{name}' must accept {wanted}, and accepts {taken}"


# -- types --------------------------------------------------------------------------------


def accepts(given: Any, promised: Any) -> bool:
    """Whether an argument of type `given` takes every value of type `promised`.

    Bounds do not count: a value that a device does not have may be refused. Nothing is said
    against a type that JSON cannot carry; whoever reads the functions reports that.
    """
    try:
        return _accepts(introspect.type_info(given), introspect.type_info(promised))
    except (TypeError, NotImplementedError):
        return True


def _accepts(given: introspect.Type, promised: introspect.Type) -> bool:
    given, promised = _bare(given), _bare(promised)
    if _is_any(given) or _is_any(promised):  # where an interface says Any the driver chooses
        return True
    if isinstance(promised, introspect.UnionType):
        return all(_accepts(given, part) for part in promised.types)
    if isinstance(given, introspect.UnionType):
        return any(_accepts(part, promised) for part in given.types)
    match given, promised:
        case introspect.FloatType(), introspect.IntType():
            return True
        case introspect.EnumType(cls=one), introspect.EnumType(cls=other):
            return one is other
        case introspect.StructType(cls=one), introspect.StructType(cls=other):
            return issubclass(other, one)
        case introspect.LiteralType(values=values), introspect.LiteralType(values=others):
            return set(others) <= set(values)
        case introspect.StrType() | introspect.IntType(), introspect.LiteralType(values=others):
            kind = str if isinstance(given, introspect.StrType) else int
            return all(isinstance(value, kind) for value in others)
        case introspect.TupleType(item_types=items), introspect.TupleType(item_types=others):
            return len(items) == len(others) and all(map(_accepts, items, others))
        case introspect.CollectionType(item_type=item), introspect.TupleType(item_types=others):
            return all(_accepts(item, other) for other in others)
        case introspect.CollectionType(item_type=item), introspect.CollectionType(item_type=other):
            return _accepts(item, other)
        case introspect.DictType() as one, introspect.DictType() as other:
            return _accepts(one.key_type, other.key_type) and _accepts(
                one.value_type, other.value_type
            )
    return type(given) is type(promised)


def _bare(info: introspect.Type) -> introspect.Type:
    while isinstance(info, introspect.Metadata):
        info = info.type
    return info


def _is_any(info: introspect.Type) -> bool:
    return isinstance(info, introspect.AnyType) or (
        isinstance(info, introspect.CustomType) and info.cls is object
    )


def type_text(kind: Any) -> str:
    """A type as one writes it in Python, without the modules of its parts."""
    origin, parts = typing.get_origin(kind), typing.get_args(kind)
    if origin is typing.Annotated:
        return type_text(parts[0])
    if origin in (typing.Union, types.UnionType):
        return " | ".join(type_text(part) for part in parts)
    if origin is typing.Literal:
        return f"Literal[{', '.join(map(repr, parts))}]"
    if origin is not None:
        return f"{origin.__name__}[{', '.join(type_text(part) for part in parts)}]"
    if kind is None or kind is type(None):
        return "None"
    return getattr(kind, "__name__", None) or str(kind)


def default_text(value: object) -> str:
    """A default as one writes it in Python."""
    if isinstance(value, Enum):
        return f"{type(value).__name__}.{value.name}"
    return repr(value)
