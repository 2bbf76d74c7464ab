"""Rules of a field, written beside the field: `name: Annotated[str, Rule(required=True)]`."""

from __future__ import annotations

from collections.abc import Iterator
from enum import Enum
from functools import cache
from types import NoneType, UnionType
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints

import msgspec
from msgspec import UNSET, Meta

Int = Annotated[int, Meta(ge=-(2**53), le=2**53)]
"""An integer that every client can hold exactly."""


class Failure(msgspec.Struct, frozen=True):
    """One reason why a record is refused, as the API shows it."""

    field: str
    reason: str


class Invalid(Exception):
    """A record breaks its rules (HTTP 422)."""

    def __init__(self, *failures: Failure) -> None:
        super().__init__("; ".join(f"{f.field} {f.reason}" for f in failures))
        self.failures = failures


class WrongType(Exception):
    """A member of a body has the wrong JSON type (HTTP 400)."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(f"{field}: {message}")
        self.field = field


class Rule(msgspec.Struct, frozen=True, kw_only=True):
    """What a field must obey when a client assigns it. The default asks only for a bound."""

    required: bool = False
    """Present and not empty: `is required`."""
    text: bool = False
    """Plain text: HTML is removed."""
    html: bool = False
    """Formatted text: only a safe subset of HTML is kept."""
    strip: bool = False
    lower: bool = False
    read_only: bool = False
    """Dropped silently from bodies."""
    hidden: bool = False
    """Never in a response."""
    time: bool = False
    """Unix seconds; an ISO 8601 string is accepted."""
    json_text: bool = False
    """The text of a JSON object; an object is accepted."""
    pattern: str | None = None
    """Must match as a whole: `is invalid`."""
    max_length: int = 4096
    """Characters of a string, entries of a list, characters of an object's JSON."""
    max_entry: int = 2048
    """Characters of one entry of a list of texts."""


class Field(msgspec.Struct, frozen=True):
    """One field of an entity, as validation and the API description see it."""

    name: str
    type: Any  # the annotation without the rule; what msgspec converts to
    rule: Rule
    nullable: bool
    default: Any  # UNSET when there is none
    enum: type[Enum] | None


class Entity(msgspec.Struct, kw_only=True):
    """What all records share. Times are unix seconds."""

    id: Annotated[str, Rule(read_only=True)] = ""
    created_at: Annotated[int, Rule(read_only=True)] = 0
    updated_at: Annotated[int, Rule(read_only=True)] = 0

    def tidy(self) -> None:
        """Normalise what a client sent (blank to null and the like), in place."""

    def failures(self) -> Iterator[Failure]:
        """Rules that concern more than one field."""
        return iter(())


@cache
def fields(kind: type[Entity]) -> dict[str, Field]:
    """The fields of an entity by name, in order of declaration."""
    hints = get_type_hints(kind, include_extras=True)
    described = {}
    for info in msgspec.structs.fields(kind):
        annotation, rule = _split(hints[info.name])
        default = info.default
        if default is msgspec.NODEFAULT:
            factory = info.default_factory
            default = UNSET if factory is msgspec.NODEFAULT else factory()
        bare, nullable = _without_none(annotation)
        enum = bare if isinstance(bare, type) and issubclass(bare, Enum) else None
        described[info.name] = Field(info.name, annotation, rule, nullable, default, enum)
    return described


def _split(annotation: Any) -> tuple[Any, Rule]:
    """Separate our rule from an annotation, keeping msgspec's own metadata."""
    if get_origin(annotation) is not Annotated:
        return annotation, Rule()
    base, *extras = get_args(annotation)
    rule = next((extra for extra in extras if isinstance(extra, Rule)), Rule())
    metas = [extra for extra in extras if isinstance(extra, Meta)]
    return (Annotated[base, metas[0]] if metas else base), rule


def _without_none(annotation: Any) -> tuple[Any, bool]:
    if get_origin(annotation) in (Union, UnionType):
        members = [member for member in get_args(annotation) if member is not NoneType]
        return (members[0] if len(members) == 1 else annotation), True
    return annotation, False
