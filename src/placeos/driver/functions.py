"""A driver's public methods as functions: their schema, and the checking of a call. Pure."""

from __future__ import annotations

import inspect
import keyword
import typing
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import FunctionType
from typing import Any

import msgspec

from placeos.driver.errors import BadArguments, DriverError, InvalidDriver, text_of
from placeos.driver.marks import Marks, marks_of
from placeos.driver.schema import Converter, JsonSchema, default_text, describe, encode
from placeos.wire.frame import Clearance

_decode = msgspec.json.Decoder().decode


@dataclass(frozen=True, slots=True)
class Parameter:
    """One argument of a function."""

    name: str
    schema: JsonSchema
    title: str
    convert: Converter
    required: bool
    default: object = None
    keyword_only: bool = False
    python_name: str = ""

    def accept(self, value: object, function: str) -> object:
        """The value as the method wants it. Raises BadArguments."""
        if value is None and self.convert.is_enum and not self.required:
            return self.default
        try:
            return self.convert(value)
        except (msgspec.ValidationError, RecursionError) as error:
            problem = str(error).replace("`", "").removesuffix(" - at `$`")
            raise BadArguments(
                f"wrong type for argument '{self.name}' of '{function}': {problem}"
            ) from error
        except Exception as error:  # of a type of the driver, which checks by code of its own
            raise BadArguments(
                f"argument '{self.name}' of '{function}': {type(error).__name__}: {text_of(error)}"
            ) from error


@dataclass(frozen=True, slots=True)
class Function:
    """One function of a driver."""

    name: str
    method: str
    parameters: tuple[Parameter, ...]
    doc: str
    clearance: Clearance
    timeout: float
    plain: bool  # a `def`: it is called at once, without a task
    by_name: Mapping[str, Parameter] = field(repr=False)

    def arguments(self, payload: bytes) -> tuple[list[object], dict[str, object]]:
        """Check a call's JSON (array or object) against the signature. Raises BadArguments."""
        try:
            given: Any = _decode(payload) if payload else []
        except (msgspec.DecodeError, RecursionError) as error:
            raise BadArguments(f"arguments of '{self.name}' are no JSON: {error}") from error
        if isinstance(given, list):
            if len(given) > len(self.parameters):
                raise BadArguments(self._arity(len(given)))
            named = {p.name: value for p, value in zip(self.parameters, given, strict=False)}
        elif isinstance(given, dict):
            named = given
        else:
            raise BadArguments(f"arguments of '{self.name}' must be a JSON array or object")
        return self._bind(named)

    def _bind(self, named: Mapping[str, object]) -> tuple[list[object], dict[str, object]]:
        positional: list[object] = []
        keywords: dict[str, object] = {}
        for parameter in self.parameters:
            if parameter.name in named:
                value = parameter.accept(named[parameter.name], self.name)
            elif parameter.required:
                known = sum(name in self.by_name for name in named)
                raise BadArguments(f"{self._arity(known)}: missing argument '{parameter.name}'")
            else:
                value = parameter.default
            if parameter.keyword_only:
                keywords[parameter.python_name] = value
            else:
                positional.append(value)
        return positional, keywords

    def _arity(self, given: int) -> str:
        least = sum(parameter.required for parameter in self.parameters)
        most = len(self.parameters)
        expected = f"{least}" if least == most else f"{least}..{most}"
        return f"wrong number of arguments for '{self.name}' (given {given}, expected {expected})"


def functions_of(cls: type, hidden: Iterable[str]) -> dict[str, Function]:
    """The functions of a driver class by published name. Raises InvalidDriver.

    `hidden` are the names of the SDK's own methods and hooks.
    """
    found: dict[str, Function] = {}
    hidden = frozenset(hidden)
    for method, member in _methods(cls):
        if method.startswith("_") or method in hidden:
            continue
        marks = inherited_marks(cls, method)
        if marks.on or marks.rescues:  # called by values and errors, not by people
            continue
        function = _function(method, member, marks)
        if function.name in found:
            raise InvalidDriver(f"{_where(member)}: a second function named '{function.name}'")
        found[function.name] = function
    return found


def inherited_marks(cls: type, method: str) -> Marks:
    """The nearest marks along the base classes: an override keeps what it does not restate."""
    for base in cls.__mro__:
        member = base.__dict__.get(method)
        if member is not None:
            marks = marks_of(member)
            if marks != Marks():
                return marks
    return Marks()


def argument_name(python_name: str) -> str:
    """`from_` → `from`: Python's way to write an argument whose name is one of its keywords."""
    name = python_name.removesuffix("_")
    return name if keyword.iskeyword(name) else python_name


def metadata(functions: Iterable[Function]) -> dict[str, dict[str, JsonSchema]]:
    """`interface` of the metadata: function, argument, schema with title and default."""
    return {
        function.name: {
            p.name: p.schema
            | {"title": p.title}
            | ({} if p.required else {"default": default_text(p.default)})
            for p in function.parameters
        }
        for function in functions
    }


def old_metadata(functions: Iterable[Function]) -> dict[str, dict[str, list[object]]]:
    """`functions` of the metadata: the older form, function, argument, [type, default]."""
    return {
        function.name: {
            p.name: [_short(p.title)] + ([] if p.required else [default_text(p.default)])
            for p in function.parameters
        }
        for function in functions
    }


def security(functions: Iterable[Function]) -> dict[str, list[str]]:
    """`security` of the metadata: the functions of each raised clearance in use."""
    levels: dict[str, list[str]] = {}
    for function in functions:
        if function.clearance is not Clearance.USER:
            levels.setdefault(function.clearance.name.lower(), []).append(function.name)
    return levels


# -- inside -------------------------------------------------------------------------------


def _methods(cls: type) -> list[tuple[str, FunctionType]]:
    """All methods in the order a reader meets them: the class first, then its bases."""
    found: dict[str, FunctionType] = {}
    for base in cls.__mro__:
        for name, member in base.__dict__.items():
            if isinstance(member, FunctionType) and name not in found:
                found[name] = member
    return list(found.items())


def _function(method: str, member: FunctionType, marks: Marks) -> Function:
    signature = inspect.signature(member)
    try:
        hints = typing.get_type_hints(member, include_extras=True)
    except Exception as error:
        raise InvalidDriver(f"{_where(member)}: annotation of '{method}': {error}") from error
    parameters: list[Parameter] = []
    for parameter in list(signature.parameters.values())[1:]:
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            continue
        if parameter.name not in hints:
            raise InvalidDriver(
                f"{_where(member)}: argument '{parameter.name}' of '{method}' has no type"
            )
        parameters.append(_parameter(parameter, hints[parameter.name], member))
    return Function(
        name=marks.name or method,
        method=method,
        parameters=tuple(parameters),
        doc=inspect.getdoc(member) or "",
        clearance=marks.clearance,
        timeout=marks.timeout,
        plain=not inspect.iscoroutinefunction(member),
        by_name={parameter.name: parameter for parameter in parameters},
    )


def _parameter(parameter: inspect.Parameter, kind: object, member: FunctionType) -> Parameter:
    try:
        schema, title = describe(kind)
        convert = Converter(kind)
    except (TypeError, NotImplementedError) as error:
        raise InvalidDriver(f"{_where(member)}: argument '{parameter.name}': {error}") from error
    required = parameter.default is parameter.empty
    if not required:
        try:
            encode(default_text(parameter.default))
        except DriverError as error:
            where = f"{_where(member)}: default of argument '{parameter.name}'"
            raise InvalidDriver(f"{where}: {error}") from error
    return Parameter(
        name=argument_name(parameter.name),
        schema=schema,
        title=title,
        convert=convert,
        required=required,
        default=None if required else parameter.default,
        keyword_only=parameter.kind is parameter.KEYWORD_ONLY,
        python_name=parameter.name,
    )


def _where(member: Callable[..., object]) -> str:
    code = getattr(member, "__code__", None)
    if code is None:
        return "?"
    return f"{Path(code.co_filename).name}:{code.co_firstlineno}"


def _short(title: str) -> str:
    """`(Int64 | PlaceOS::Driver::Interface::X)` → `Int64|X`."""
    parts = title.removeprefix("(").removesuffix(")").split(" | ") if "|" in title else [title]
    return "|".join(part.rpartition("::")[2] if "Interface::" in part else part for part in parts)
