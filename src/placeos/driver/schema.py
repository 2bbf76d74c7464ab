"""Types to JSON Schema and back: what an argument or a setting looks like, and its checking.

Enums are spoken by name: any spelling is understood (`HDMI2`, `hdmi_2`), schemas list
lower_snake names, and values go out under the name as declared.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, is_dataclass
from enum import Enum
from typing import Any, Final

import msgspec
from msgspec import inspect as introspect

from placeos.driver.errors import DriverError, sendable, text_of

JsonSchema = dict[str, object]
Normalise = Callable[[Any], Any]

TITLES: Final[dict[type, str]] = {}
"""Published names of types which are not the Python class name."""

_SCALARS: Final = (str, int, float, bool, type(None))
_SIMPLE: Final[dict[type, tuple[JsonSchema, str]]] = {
    introspect.BoolType: ({"type": "boolean"}, "Bool"),
    introspect.IntType: ({"type": "integer", "format": "Int64"}, "Int64"),
    introspect.FloatType: ({"type": "number", "format": "Float64"}, "Float64"),
    introspect.StrType: ({"type": "string"}, "String"),
    introspect.NoneType: ({"type": "null"}, "Nil"),
    introspect.BytesType: ({"type": "string", "format": "byte"}, "Bytes"),
    introspect.DateTimeType: ({"type": "string", "format": "date-time"}, "Time"),
    introspect.DateType: ({"type": "string", "format": "date"}, "Date"),
    introspect.TimeType: ({"type": "string", "format": "time"}, "TimeOfDay"),
    introspect.TimeDeltaType: ({"type": "string", "format": "duration"}, "Time::Span"),
    introspect.UUIDType: ({"type": "string", "format": "uuid"}, "UUID"),
    introspect.DecimalType: ({"type": "string", "format": "decimal"}, "Decimal"),
}
_LITERALS: Final = {str: "String", int: "Int64", bool: "Bool", type(None): "Nil"}
_NAMES: Final = {"String": "string", "Int64": "integer", "Bool": "boolean", "Nil": "null"}
_BOUNDS: Final = {
    "ge": "minimum",
    "gt": "exclusiveMinimum",
    "le": "maximum",
    "lt": "exclusiveMaximum",
    "multiple_of": "multipleOf",
    "min_length": "minLength",
    "max_length": "maxLength",
    "pattern": "pattern",
}


def lower_snake(name: str) -> str:
    """`AudioVideo`, `AUDIO_VIDEO` → `audio_video`; `HDMI2` → `hdmi2`."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()


# -- values going out ---------------------------------------------------------------------


def encode(value: object) -> bytes:
    """The JSON text of a state value or a result. Raises DriverError if it has none."""
    try:
        return msgspec.json.encode(value if type(value) in _SCALARS else plain(value))
    except Exception as error:  # a `__json__` or a property of the driver may raise anything
        name, why = type(value).__name__, sendable(text_of(error))
        raise DriverError(f"a {name} cannot be written as JSON: {why}") from error


def plain(value: object) -> object:
    """`value` with every enum in it replaced by the name of its member.

    A struct or an enum with a method `__json__` says itself how it is written.
    """
    match value:
        case Enum() | msgspec.Struct() if hasattr(value, "__json__"):
            return plain(value.__json__())
        case Enum():
            return value.name
        case msgspec.Struct():
            return _plain_struct(value)
        case Mapping():
            return {plain(key): plain(item) for key, item in value.items()}
        case list() | tuple() | set() | frozenset():
            return [plain(item) for item in value]
        case _ if is_dataclass(value) and not isinstance(value, type):
            return {field.name: plain(getattr(value, field.name)) for field in fields(value)}
        case _:
            return value


def _plain_struct(value: msgspec.Struct) -> object:
    config = value.__struct_config__
    tag = {config.tag_field: config.tag} if config.tag_field else {}
    names = zip(value.__struct_fields__, value.__struct_encode_fields__, strict=True)
    members = {encoded: plain(getattr(value, name)) for name, encoded in names}
    if config.array_like:
        return [*tag.values(), *members.values()]
    return tag | {name: item for name, item in members.items() if item is not msgspec.UNSET}


# -- schemas ------------------------------------------------------------------------------


def describe(kind: object) -> tuple[JsonSchema, str]:
    """The schema of a type and its title. Raises TypeError for a type that JSON cannot carry."""
    return _describe(introspect.type_info(kind), ())


def _describe(info: introspect.Type, inside: tuple[type, ...]) -> tuple[JsonSchema, str]:
    simple = _SIMPLE.get(type(info))
    if simple is not None:
        schema, title = simple
        return schema | _bounds(info), title
    match info:
        case introspect.Metadata(type=inner, extra_json_schema=extra):
            schema, title = _describe(inner, inside)
            return schema | (extra or {}), title
        case introspect.EnumType(cls=cls):
            names = [lower_snake(member.name) for member in cls]
            return {"type": "string", "enum": names}, TITLES.get(cls, cls.__name__)
        case introspect.LiteralType(values=values):
            titles = list(dict.fromkeys(_LITERALS[type(value)] for value in values))
            title = titles[0] if len(titles) == 1 else f"({' | '.join(titles)})"
            schema = {"type": _NAMES[titles[0]]} if len(titles) == 1 else {}
            return schema | {"enum": list(values)}, title
        case introspect.UnionType(types=types):
            parts = [_describe(part, inside) for part in types]
            return {"anyOf": [s for s, _ in parts]}, f"({' | '.join(t for _, t in parts)})"
        case introspect.DictType(key_type=key, value_type=value):
            values_schema, value_title = _describe(value, inside)
            title = f"Hash({_describe(key, inside)[1]}, {value_title})"
            return {"type": "object", "additionalProperties": values_schema}, title
        case introspect.TupleType(item_types=items):
            parts = [_describe(item, inside) for item in items]
            title = f"Tuple({', '.join(t for _, t in parts)})"
            return {"type": "array", "items": [s for s, _ in parts]}, title
        case introspect.CollectionType(item_type=item):
            items_schema, item_title = _describe(item, inside)
            return {"type": "array", "items": items_schema} | _bounds(info), f"Array({item_title})"
        case (
            introspect.StructType(cls=cls)
            | introspect.DataclassType(cls=cls)
            | introspect.TypedDictType(cls=cls)
            | introspect.NamedTupleType(cls=cls)
        ):
            title = TITLES.get(cls, cls.__name__)
            if cls in inside:  # a type that holds itself: its depth cannot be written out
                return {"type": "object"}, title
            return _record(info, (*inside, cls)), title
        case introspect.CustomType(cls=cls) if cls is not object:
            raise TypeError(f"{cls.__name__} is no type that JSON can carry")
        case _:
            return {"type": "object"}, "JSON::Any"


def _record(info: Any, inside: tuple[type, ...]) -> JsonSchema:
    if isinstance(info, introspect.NamedTupleType) or getattr(info, "array_like", False):
        tag = [_constant(info.tag)] if getattr(info, "tag", None) is not None else []
        items = [_describe(member.type, inside)[0] | default_of(member) for member in info.fields]
        return {"type": "array", "items": [*tag, *items]}
    properties: dict[str, object] = {}
    required: list[str] = []
    if getattr(info, "tag_field", None):
        properties[info.tag_field] = _constant(info.tag)
        required.append(info.tag_field)
    for member in info.fields:
        schema, _ = _describe(member.type, inside)
        properties[member.encode_name] = schema | default_of(member)
    record: JsonSchema = {"type": "object", "properties": properties}
    required += [member.encode_name for member in info.fields if member.required]
    return record | ({"required": required} if required else {})


def _constant(tag: str | int) -> JsonSchema:
    return {"type": "string" if isinstance(tag, str) else "integer", "enum": [tag]}


def default_of(member: introspect.Field) -> JsonSchema:
    """`{"default": …}` of a field, or nothing."""
    default = member.default
    if member.default_factory is not msgspec.NODEFAULT:
        default = member.default_factory()
    return {} if default is msgspec.NODEFAULT else {"default": default_text(default)}


def default_text(value: object) -> object:
    """A default as schemas show it: enums in lower_snake."""
    match value:
        case Enum():
            return lower_snake(value.name)
        case list() | tuple() | set() | frozenset():
            return [default_text(item) for item in value]
        case dict():
            return {default_text(key): default_text(item) for key, item in value.items()}
        case _:
            return plain(value)


def _bounds(info: introspect.Type) -> JsonSchema:
    found = ((keyword, getattr(info, name, None)) for name, keyword in _BOUNDS.items())
    return {keyword: bound for keyword, bound in found if bound is not None}


# -- values coming in ---------------------------------------------------------------------


class Converter:
    """Checks JSON values against one type and turns them into it."""

    __slots__ = ("_kind", "_normalise", "is_enum")

    def __init__(self, kind: object) -> None:
        info = introspect.type_info(kind)
        self._kind = kind
        self._normalise = _normaliser(info, {})
        self.is_enum = isinstance(info, introspect.EnumType)

    def __call__(self, value: object) -> object:
        """The converted value. Raises msgspec.ValidationError, which says what is wrong."""
        if self._normalise is not None:
            value = self._normalise(value)
        return msgspec.convert(value, self._kind, str_keys=True)


def _normaliser(info: introspect.Type, inside: Mapping[type, Normalise]) -> Normalise | None:
    """What brings the enum names in a value into the form msgspec expects; None: no enums.

    `inside` are the records on the way, which may hold themselves.
    """
    match info:
        case introspect.Metadata(type=inner):
            return _normaliser(inner, inside)
        case introspect.EnumType(cls=cls):
            return _enum_normaliser(cls)
        case introspect.UnionType(types=types):
            return _chain([n for n in (_normaliser(part, inside) for part in types) if n])
        case introspect.DictType(key_type=key, value_type=inner):
            of_key, of_value = _normaliser(key, inside), _normaliser(inner, inside)
            return (of_key or of_value) and (lambda v: _over_mapping(v, of_key, of_value))
        case introspect.TupleType(item_types=types):
            items = [_normaliser(part, inside) for part in types]
            return (lambda v: _over_items(v, items)) if any(items) else None
        case introspect.CollectionType(item_type=inner):
            of_item = _normaliser(inner, inside)
            return of_item and (
                lambda v: [of_item(item) for item in v] if isinstance(v, list) else v
            )
        case (
            introspect.StructType(cls=cls)
            | introspect.DataclassType(cls=cls)
            | introspect.TypedDictType(cls=cls)
            | introspect.NamedTupleType(cls=cls)
        ):
            return inside.get(cls) or _record_normaliser(info, cls, inside)
        case _:
            return None


def _record_normaliser(info: Any, cls: type, inside: Mapping[type, Normalise]) -> Normalise | None:
    members: dict[str, Normalise] = {}
    items: list[Normalise | None] = []

    def normalise(value: Any) -> Any:
        return (
            _over_items(value, items) if isinstance(value, list) else _over_members(value, members)
        )

    inside = {**inside, cls: normalise}
    for member in info.fields:
        of_member = _normaliser(member.type, inside)
        items.append(of_member)
        if of_member:
            members[member.encode_name] = of_member
    if getattr(info, "tag", None) is not None:  # it comes first where a record is a list
        items.insert(0, None)
    return normalise if members else None


def _enum_normaliser(cls: type[Enum]) -> Normalise:
    by_name = {_squash(member.name): member.value for member in cls}
    values = {member.value for member in cls}
    names = ", ".join(lower_snake(member.name) for member in cls)

    def normalise(value: Any) -> Any:
        if isinstance(value, str):
            return by_name.get(_squash(value), value)
        return value

    def strict(value: Any) -> Any:
        found = normalise(value)
        if isinstance(found, str | int) and found not in values:
            raise msgspec.ValidationError(f"{value!r} is none of {names}")
        return found

    return strict if len(values) == len(cls.__members__) else normalise


def _chain(parts: list[Normalise]) -> Normalise | None:
    if not parts:
        return None

    def normalise(value: Any) -> Any:
        for part in parts:
            try:
                changed = part(value)
            except msgspec.ValidationError:  # not this one; convert has the last word
                continue
            if changed is not value:
                return changed
        return value

    return normalise


def _over_mapping(value: Any, of_key: Normalise | None, of_value: Normalise | None) -> Any:
    if not isinstance(value, dict):
        return value
    return {
        of_key(key) if of_key else key: of_value(item) if of_value else item
        for key, item in value.items()
    }


def _over_items(value: Any, items: Sequence[Normalise | None]) -> Any:
    if not isinstance(value, list):
        return value
    known = [of(item) if of else item for of, item in zip(items, value, strict=False)]
    return known + value[len(known) :]


def _over_members(value: Any, members: Mapping[str, Normalise]) -> Any:
    if not isinstance(value, dict):
        return value
    return {key: members[key](item) if key in members else item for key, item in value.items()}


def _squash(name: str) -> str:
    return name.replace("_", "").replace("-", "").lower()
