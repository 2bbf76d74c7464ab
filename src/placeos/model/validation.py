"""One validation for all records: what a client's JSON may make of them.

`draft` assigns a body, `check` applies the rules; between the two the caller may fill in what
only the server knows (the driver of a module, the user who saves).
"""

from __future__ import annotations

import copy
import re
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from enum import Enum, IntEnum
from typing import Any, TypeVar

import msgspec
from msgspec import UNSET

from placeos.model.rules import Entity, Failure, Field, Invalid, WrongType, fields
from placeos.model.text import plain, safe_html

E = TypeVar("E", bound=Entity)

MAX_DEPTH = 256  # levels of a free JSON value


def draft(
    kind: type[E],
    body: Mapping[str, object],
    current: E | None = None,
    *,
    ignore: frozenset[str] = frozenset(),
) -> E:
    """A copy of `current` (or a new record) with the members of `body` assigned.

    Unknown and read-only members are dropped. Null clears a nullable field and resets one
    with a default. Raises WrongType, or Invalid for a missing or null required field.
    """
    values: dict[str, Any] = {}
    refused: list[Failure] = []
    for field in fields(kind).values():
        given = body.get(field.name, UNSET)
        if field.rule.read_only or field.name in ignore:
            if isinstance(given, str) and len(given) > field.rule.max_length:
                refused.append(_too_long(field))  # dropped anyway, but nobody means well by it
            given = UNSET
        if given is UNSET and current is not None:
            values[field.name] = getattr(current, field.name)
        elif given is UNSET or given is None:
            if given is None and field.nullable:
                values[field.name] = None
            elif field.default is UNSET:
                refused.append(Failure(field.name, "should not be nil"))
            else:
                values[field.name] = copy.deepcopy(field.default)
        else:
            values[field.name] = _convert(field, given)
            refused += _unstorable(field, values[field.name])
    if refused:
        raise Invalid(*refused)
    return kind(**values)


def check(entity: Entity) -> None:
    """Tidy the record and apply all rules. Raises Invalid with every failure found."""
    entity.tidy()
    failures = [
        failure
        for field in fields(type(entity)).values()
        for failure in _field_failures(field, getattr(entity, field.name))
    ]
    named = {failure.field for failure in failures}
    failures += [failure for failure in entity.failures() if failure.field not in named]
    if failures:
        raise Invalid(*failures)


def _convert(field: Field, value: object) -> Any:
    """The value of a field from JSON, cleaned as its rule says. Raises WrongType."""
    if field.enum is not None:
        return _enum(field, field.enum, value)
    if field.rule.json_text and not isinstance(value, str):
        if not isinstance(value, dict):
            raise WrongType(field.name, "expected an object or its JSON text")
        value = msgspec.json.encode(value).decode()
    if field.rule.time and isinstance(value, str):
        value = _unix_time(field, value)
    try:
        converted = msgspec.convert(value, field.type)
    except msgspec.ValidationError as error:
        raise WrongType(field.name, _lower_first(str(error))) from None
    return _clean(field, converted)


def _clean(field: Field, value: Any) -> Any:
    if isinstance(value, list):
        if field.rule.text and not _longest(value) > field.rule.max_entry:
            cleaned = (plain(entry).strip() for entry in value)
            return [entry for entry in cleaned if entry]
        return value  # what is too long is refused by `check`; not worth cleaning
    if not isinstance(value, str):
        return value
    if len(value) > field.rule.max_length:
        return value  # refused by `check`; not worth cleaning
    if field.rule.text:
        value = plain(value)
    elif field.rule.html:
        value = safe_html(value)
    if field.rule.strip:
        value = value.strip()
    return value.lower() if field.rule.lower else value


def _enum(field: Field, enum: type[Enum], value: object) -> Enum:
    """An enumeration's member from its value or its name in any case."""
    if isinstance(value, str):
        wanted = value.strip().lower()
        for member in enum:
            if wanted in (member.name.lower(), str(member.value)):
                return member
    elif isinstance(value, int) and not isinstance(value, bool) and issubclass(enum, IntEnum):
        for member in enum:
            if member.value == value:
                return member
    names = ", ".join(member.name.lower() for member in enum)
    raise WrongType(field.name, f"expected one of {names}")


def _unix_time(field: Field, text: str) -> int:
    try:
        return int(datetime.fromisoformat(text).timestamp())
    except (ValueError, OverflowError):
        raise WrongType(field.name, "expected unix seconds or an ISO 8601 time") from None


def _field_failures(field: Field, value: Any) -> Iterator[Failure]:
    rule = field.rule
    if rule.required and (value is None or value in ("", [], {})):
        yield Failure(field.name, "is required")
        return
    if isinstance(value, str):
        if len(value) > rule.max_length:
            yield _too_long(field)
            return
        if rule.pattern is not None and value and not re.fullmatch(rule.pattern, value):
            yield Failure(field.name, "is invalid")
        if rule.json_text and not _is_object(value):
            yield Failure(field.name, "should be the text of a JSON object")
    elif isinstance(value, list | dict):
        size = len(value) if isinstance(value, list) else len(msgspec.json.encode(value))
        if size > rule.max_length:
            yield _too_long(field, "entries" if isinstance(value, list) else "characters")
        elif isinstance(value, list) and _longest(value) > rule.max_entry:
            reason = f"has an entry that is too long (maximum is {rule.max_entry} characters)"
            yield Failure(field.name, reason)


def _too_long(field: Field, unit: str = "characters") -> Failure:
    return Failure(field.name, f"is too long (maximum is {field.rule.max_length} {unit})")


def _longest(entries: list[Any]) -> int:
    """The length of the longest text in a list."""
    return max((len(entry) for entry in entries if isinstance(entry, str)), default=0)


def _unstorable(field: Field, value: Any) -> Iterator[Failure]:
    """What PostgreSQL cannot store (U+0000), or what could not be read back: a value nested so
    deeply that decoding it again would fail. Looked at level by level, not by recursion."""
    level = [value]
    for _ in range(MAX_DEPTH):
        if any(isinstance(one, str) and "\0" in one for one in level):
            yield Failure(field.name, "should not contain the character U+0000")
            return
        level = [member for one in level for member in _members(one)]
        if not level:
            return
    yield Failure(field.name, f"is nested too deeply (maximum is {MAX_DEPTH} levels)")


def _members(value: Any) -> Iterable[Any]:
    if isinstance(value, dict):
        return (*value, *value.values())
    return value if isinstance(value, list) else ()


def _is_object(text: str) -> bool:
    try:
        return isinstance(msgspec.json.decode(text), dict)
    except (msgspec.MsgspecError, RecursionError):
        return False


def _lower_first(message: str) -> str:
    return message[:1].lower() + message[1:]
