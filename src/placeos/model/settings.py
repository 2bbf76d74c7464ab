"""Settings: YAML on a driver, zone, system or module, at four levels of secrecy."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Iterator
from datetime import date
from enum import IntEnum, StrEnum
from typing import Annotated

import msgspec
import yaml

from placeos.model.rules import Entity, Failure, Rule

log = logging.getLogger("placeos.model")

MAX_VALUES = 100_000  # values in one record, aliases counted each time they are used
MAX_TEXT = 1_000_000  # characters of one record in clear; ciphertext is longer

_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class EncryptionLevel(IntEnum):
    """Who may read a record: everyone, support and admin, admin, nobody."""

    NONE = 0
    SUPPORT = 1
    ADMIN = 2
    NEVER_DISPLAY = 3


class ParentType(StrEnum):
    """What a record hangs on."""

    CONTROL_SYSTEM = "control_system"
    DRIVER = "driver"
    MODULE = "module"
    ZONE = "zone"


PARENT_TYPES = {
    "sys": ParentType.CONTROL_SYSTEM,
    "driver": ParentType.DRIVER,
    "mod": ParentType.MODULE,
    "zone": ParentType.ZONE,
}


class InvalidSettings(Exception):
    """A settings text is no YAML mapping; the message says why."""


class Settings(Entity, kw_only=True):
    """One settings record. `settings_string` is ciphertext when stored above level none."""

    parent_id: Annotated[str, Rule(required=True, max_length=255)]
    parent_type: Annotated[ParentType | None, Rule(read_only=True)] = None
    encryption_level: EncryptionLevel = EncryptionLevel.NONE
    settings_string: Annotated[str, Rule(max_length=6 * MAX_TEXT)] = "{}"
    keys: Annotated[list[str], Rule(read_only=True)] = []
    settings_id: Annotated[str | None, Rule(read_only=True)] = None
    modified_by_id: Annotated[str | None, Rule(read_only=True)] = None

    def tidy(self) -> None:
        """Derive the type of the parent from its id."""
        self.parent_type = PARENT_TYPES.get(self.parent_id.partition("-")[0])

    def failures(self) -> Iterator[Failure]:
        """The parent must be of a kind that can have settings."""
        if self.parent_type is None:
            yield Failure("parent_id", "should be the id of a driver, zone, system or module")


def visible(level: EncryptionLevel, *, support: bool, admin: bool) -> bool:
    """Whether a viewer with these permissions reads a record of this level in clear."""
    if level == EncryptionLevel.NONE:
        return True
    if level == EncryptionLevel.SUPPORT:
        return support or admin
    return level == EncryptionLevel.ADMIN and admin


def parse(text: str) -> dict[str, object]:
    """The mapping that a settings text holds; blank is an empty one. Raises InvalidSettings."""
    stripped = text.strip()
    if not stripped:
        return {}
    try:
        value = _decode(stripped)
        plain = _Plain().convert(value)
    except RecursionError:
        raise InvalidSettings("is nested too deeply") from None
    if plain is None:  # only comments
        return {}
    if not isinstance(plain, dict):
        raise InvalidSettings(f"should be a mapping, not {_describe(plain)}")
    return plain


def merge(parents: Iterable[Iterable[Settings]]) -> dict[str, object]:
    """Effective settings: top-level keys, the later parent wins.

    Lowest precedence first; the records must be decrypted. Inside one parent the order is
    none, support, admin, never_display. A record that does not parse is skipped with a log line.
    """
    merged: dict[str, object] = {}
    for records in parents:
        for record in sorted(records, key=lambda record: record.encryption_level):
            try:
                merged.update(parse(record.settings_string))
            except InvalidSettings as error:
                log.warning(
                    "settings skipped",
                    extra={"settings": record.id, "parent": record.parent_id, "why": str(error)},
                )
    return merged


def _decode(text: str) -> object:
    if text.startswith("{"):
        try:
            return msgspec.json.decode(text)
        except msgspec.MsgspecError:
            pass  # not JSON; YAML has the same look and its own message
    try:
        return yaml.load(text, Loader=_Loader)  # noqa: S506 - a safe loader
    except (yaml.YAMLError, ValueError) as error:
        raise InvalidSettings(f"is not a valid JSON or YAML object: {_reason(error)}") from error


def _reason(error: Exception) -> str:
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark is not None:
        mark = error.problem_mark
        return f"{error.problem} (line {mark.line + 1}, column {mark.column + 1})"
    return str(error)


def _describe(value: object) -> str:
    return {list: "a list", str: "text", bool: "a boolean"}.get(type(value), "a number")


class _Plain:
    """YAML values as JSON values, within a budget that stops aliases from multiplying."""

    def __init__(self) -> None:
        self._left = MAX_VALUES

    def convert(self, value: object) -> object:
        self._left -= 1
        if self._left < 0:
            raise InvalidSettings(f"holds more than {MAX_VALUES} values")
        if isinstance(value, dict):
            return {self._key(key): self.convert(member) for key, member in value.items()}
        if isinstance(value, list | tuple | set):
            return [self.convert(member) for member in value]
        if isinstance(value, date):
            return value.isoformat()
        if isinstance(value, float) and not math.isfinite(value):
            raise InvalidSettings(f"holds a number that JSON lacks: {value}")
        if value is None or isinstance(value, str | int | float):
            return value
        raise InvalidSettings(f"holds a value that JSON lacks: {type(value).__name__}")

    def _key(self, key: object) -> str:
        if isinstance(key, str):
            return key
        if isinstance(key, bool):
            return str(key).lower()
        if key is None:
            return "null"
        if isinstance(key, int | float | date):
            return str(key)
        raise InvalidSettings("has a key that is no text")
