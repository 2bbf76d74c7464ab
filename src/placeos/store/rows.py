"""Rows of the database as records of the model."""

from __future__ import annotations

from functools import cache
from typing import Any, TypeVar

import msgspec
from sqlalchemy import Column

from placeos.model.rules import Entity
from placeos.store.tables import TABLES

E = TypeVar("E", bound=Entity)


@cache
def columns(kind: type[Entity]) -> tuple[Column[Any], ...]:
    """The columns a record is made of."""
    table = TABLES[kind]
    return tuple(table.c[field] for field in kind.__struct_fields__)


@cache
def one_query(kind: type[Entity]) -> str:
    """SQL for one record by its id."""
    return f"{_select(kind)} WHERE id = $1"


@cache
def some_query(kind: type[Entity]) -> str:
    """SQL for records by a list of ids."""
    return f"{_select(kind)} WHERE id = ANY($1::text[])"


def load(kind: type[E], record: Any) -> E:
    """The record that a row (a mapping of column to value) holds."""
    return msgspec.convert(dict(record), kind)


def dump(entity: Entity) -> dict[str, Any]:
    """The values of a record's row."""
    values: dict[str, Any] = msgspec.to_builtins(entity, str_keys=False)
    return values


def _select(kind: type[Entity]) -> str:
    names = ", ".join(f'"{field}"' for field in kind.__struct_fields__)
    return f'SELECT {names} FROM "{TABLES[kind].name}"'  # noqa: S608 - names of our own
