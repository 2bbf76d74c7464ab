"""Typed settings: a class of the driver says what there is, of which type, with which default.

The class is also the form in which an administrator edits them (`json_schema`).
"""

from __future__ import annotations

import functools
import typing
from collections.abc import Iterator, Mapping
from typing import Annotated, Any

import msgspec
from msgspec import NODEFAULT, Meta, Raw
from msgspec import inspect as introspect

from placeos.driver.errors import InvalidDriver, InvalidSettings, text_of
from placeos.driver.mask import Mask
from placeos.driver.schema import (
    Converter,
    JsonSchema,
    default_of,
    default_text,
    describe,
    encode,
)

Secret = Annotated[str, Meta(extra_json_schema={"format": "password"})]
"""A text that is not shown while it is typed into a form, nor in logs and errors (if it has at
least 4 characters)."""


class Settings(msgspec.Struct):
    """Base of a driver's settings. Annotated attributes are settings; a default makes one
    optional; `Annotated[float, Meta(ge=1, description="…")]` bounds and explains it."""

    def __repr__(self) -> str:
        values = ((name, getattr(self, name)) for name in self.__struct_fields__)
        shown = ", ".join(f"{name}={value!r}" for name, value in values)
        return Mask(secrets_of(self)).text(f"{type(self).__name__}({shown})")


class SettingsReader:
    """Turns the platform's merged settings into a driver's own class."""

    def __init__(self, cls: type[Settings]) -> None:
        try:
            info = introspect.type_info(cls)
            assert isinstance(info, introspect.StructType)
            hints = typing.get_type_hints(cls, include_extras=True)
            self._convert = {f.encode_name: Converter(hints[f.name]) for f in info.fields}
            self.json_schema: JsonSchema = {"type": "object"} | _schema(info, hints)
        except (TypeError, NameError, NotImplementedError) as error:
            raise InvalidDriver(f"settings class {cls.__name__}: {error}") from error
        self._cls = cls
        self._fields = info.fields

    def read(self, given: Mapping[str, Raw]) -> Settings:
        """The settings. Raises InvalidSettings naming every wrong one."""
        values, problems = self._values(given)
        if problems:
            raise InvalidSettings("; ".join(problems))
        return self._made(values)

    def read_with_defaults(self, given: Mapping[str, Raw]) -> tuple[Settings, list[str]]:
        """The settings with the default in place of each wrong one, and what was wrong.

        Raises InvalidSettings for a wrong or missing one that has no default.
        """
        values, problems = self._values(given)
        missing = [f for f in self._fields if f.required and f.name not in values]
        if missing:
            raise InvalidSettings("; ".join(problems))
        return self._made(values), problems

    def defaults(self) -> str:
        """The defaults as JSON text, as a starting point for an administrator."""
        values: dict[str, object] = {}
        for member in self._fields:
            default = member.default
            if member.default_factory is not NODEFAULT:
                default = member.default_factory()
            if default is not NODEFAULT and default is not None:
                values[member.encode_name] = default_text(default)
        return encode(values).decode()

    def _made(self, values: dict[str, Any]) -> Settings:
        try:
            return self._cls(**values)
        except Exception as error:  # of a `__post_init__`, which sees what belongs together
            raise InvalidSettings(f"settings: {text_of(error)}") from error

    def _values(self, given: Mapping[str, Raw]) -> tuple[dict[str, Any], list[str]]:
        values: dict[str, Any] = {}
        problems: list[str] = []
        for member in self._fields:
            name = member.encode_name
            raw = given.get(name)
            if raw is None:
                if member.required:
                    problems.append(f"setting '{name}' is missing")
                continue
            try:
                values[member.name] = self._convert[name](msgspec.json.decode(raw))
            except (msgspec.MsgspecError, RecursionError) as error:
                if bytes(raw) == b"null" and not member.required:
                    continue  # null means: as if it were not there
                problems.append(f"setting {_path(name, str(error))}")
            except Exception as error:  # of a `__post_init__` of a record
                problems.append(f"setting '{name}': {type(error).__name__}: {text_of(error)}")
        return values, problems


@functools.cache
def reader_of(cls: type[Settings]) -> SettingsReader:
    """The reader of a class, made once."""
    return SettingsReader(cls)


def secrets_of(settings: msgspec.Struct) -> Iterator[str]:
    """The values of all its secrets, however deep."""
    hints = _hints(type(settings))
    for name in settings.__struct_fields__:
        yield from _secrets(getattr(settings, name), hints[name])


def settings_class(driver: type, base: type) -> type[Settings]:
    """The class `S` in `class X(Driver[S])`, wherever along the bases it was given.

    Raises InvalidDriver for one that holds no settings.
    """
    for cls in driver.__mro__:
        for given in getattr(cls, "__orig_bases__", ()):
            origin = typing.get_origin(given)
            if isinstance(origin, type) and issubclass(origin, base):
                argument = typing.get_args(given)[0]
                if isinstance(argument, type):
                    _check(argument)
                    return argument
    return Settings


def _check(cls: type) -> None:
    if not issubclass(cls, Settings):
        raise InvalidDriver(f"{cls.__name__} holds no settings: it must derive from Settings")
    for base in cls.__mro__[: cls.__mro__.index(Settings)]:
        for name, member in vars(base).items():
            plain = not (callable(member) or hasattr(member, "__get__"))
            if plain and name[0] != "_" and name not in base.__annotations__:
                raise InvalidDriver(
                    f"setting '{name}' of {base.__name__} has no type: "
                    f"{name}: {type(member).__name__} = {member!r}"
                )


@functools.cache
def _hints(cls: type) -> dict[str, Any]:
    return typing.get_type_hints(cls, include_extras=True)


def _secrets(value: object, kind: object) -> Iterator[str]:
    inner = typing.get_args(kind)
    if isinstance(value, msgspec.Struct):
        yield from secrets_of(value)
    elif typing.get_origin(kind) is Annotated:
        if isinstance(value, str) and any(_is_secret(meta) for meta in inner[1:]):
            yield value
        else:
            yield from _secrets(value, inner[0])
    elif isinstance(value, str):  # perhaps of a union
        for one in inner:
            yield from _secrets(value, one)
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _each(item, inner)
    elif isinstance(value, list | tuple | set | frozenset):
        for item in value:
            yield from _each(item, inner)


def _each(item: object, kinds: tuple[object, ...]) -> Iterator[str]:
    for kind in kinds:
        yield from _secrets(item, kind)


def _is_secret(meta: object) -> bool:
    return isinstance(meta, Meta) and (meta.extra_json_schema or {}).get("format") == "password"


def _schema(info: introspect.StructType, hints: Mapping[str, object]) -> JsonSchema:
    if not info.fields:
        return {}
    properties = {f.encode_name: describe(hints[f.name])[0] | default_of(f) for f in info.fields}
    required = [f.encode_name for f in info.fields if f.required]
    schema: JsonSchema = {"properties": properties}
    return schema | ({"required": required} if required else {})


def _path(name: str, error: str) -> str:
    """`Expected `int`, got `str` - at `$.port`` → `'proxy.port': expected int, got str`."""
    problem, _, place = error.partition(" - at ")
    path = name + place.strip("`").removeprefix("$")
    problem = problem.replace("`", "")
    return f"'{path}': {problem[:1].lower()}{problem[1:]}"
