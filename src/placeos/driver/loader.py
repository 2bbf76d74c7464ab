"""Reading a driver file: the one class in it, and all that follows from its code."""

from __future__ import annotations

import importlib.util
import inspect
import sys
import traceback
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any, Final, cast

from placeos import __version__
from placeos.driver.base import HIDDEN, RESERVED, Driver
from placeos.driver.errors import DriverError, InvalidDriver, text_of
from placeos.driver.functions import (
    Function,
    functions_of,
    inherited_marks,
    metadata,
    old_metadata,
    security,
)
from placeos.driver.interfaces.check import check as check_interfaces
from placeos.driver.marks import Every, OnCalendar
from placeos.driver.remote import interface_names, split_name
from placeos.driver.schema import encode
from placeos.driver.settings import Settings, SettingsReader, settings_class
from placeos.driver.transports.base import Alternatives, Framed, Role, Transport, options_of
from placeos.wire.messages import DriverDefaults, ModuleMetadata

LOGIC: Final = Role.LOGIC


@dataclass(frozen=True, slots=True)
class Handler:
    """A method with `@on`: follows `key` of `module` (empty: the own one)."""

    method: str
    module: str
    key: str
    takes_value: bool


@dataclass(frozen=True, slots=True)
class Blueprint:
    """Everything the modules of one driver have in common."""

    cls: type[Driver[Any]]
    functions: dict[str, Function]
    settings: SettingsReader
    every: tuple[tuple[str, Every], ...]
    cron: tuple[tuple[str, OnCalendar], ...]
    handlers: tuple[Handler, ...]
    rescues: tuple[tuple[type[Exception], str], ...]  # the first that fits
    defaults: DriverDefaults
    metadata: ModuleMetadata

    def defines(self, hook: str) -> bool:
        """Whether the driver has a hook of its own."""
        return getattr(self.cls, hook) is not getattr(Driver, hook)


def load(path: str) -> Blueprint:
    """Load a driver file. Raises InvalidDriver with file, line and reason."""
    module = _execute(path)
    cls = _driver_class(module, Path(path).name)
    try:
        return blueprint(cls, module.__doc__ or "")
    except InvalidDriver:
        raise
    except Exception as error:  # whatever else may be odd about the class
        where = f"{_file_of(cls)}:{_line_of(cls)}"
        raise InvalidDriver(f"{where}: {type(error).__name__}: {error}") from error


def blueprint(cls: type[Driver[Any]], doc: str) -> Blueprint:
    """What follows from a driver class. Raises InvalidDriver."""
    of_settings, settings = _settings(cls)
    _check_class(cls)
    functions = functions_of(cls, HIDDEN)
    every, cron, handlers = _marked(cls, of_settings)
    module_name = cls.module_name or cls.__name__
    first_line = doc.strip().partition("\n")[0].rstrip(".")
    default_settings = cls.default_settings
    options = options_of(cls.transport)
    schema = _form(settings, options)
    defaults = DriverDefaults(
        descriptive_name=cls.descriptive_name or first_line or module_name,
        generic_name=module_name,
        role=options[0].role if options else LOGIC,
        description=inspect.cleandoc(doc),
        roles=[option.role for option in options] or [LOGIC],
        tcp_port=_default_port(options, udp=False),
        udp_port=_default_port(options, udp=True),
        uri_base=next((one.default_uri for one in options if one.default_uri), None),
        makebreak=any(isinstance(one, Framed) and one.makebreak for one in options),
        default_settings=(
            settings.defaults() if default_settings is None else encode(default_settings).decode()
        ),
        json_schema=schema,
    )
    return Blueprint(
        cls=cls,
        functions=functions,
        settings=settings,
        every=every,
        cron=cron,
        handlers=handlers,
        rescues=_rescues(cls),
        defaults=defaults,
        metadata=_metadata(cls, functions, handlers, schema),
    )


def _settings(cls: type[Driver[Any]]) -> tuple[type[Settings], SettingsReader]:
    found: type = cls
    try:
        found = settings_class(cls, Driver)
        return found, SettingsReader(found)
    except InvalidDriver as error:
        raise InvalidDriver(f"{_file_of(found)}:{_line_of(found)}: {error}") from error


def _form(settings: SettingsReader, options: tuple[Transport, ...]) -> dict[str, object]:
    """The schema of the settings: the driver's own, then those its transports read. Those that
    one of several transports needs are not required of all modules."""
    schemas = [settings.json_schema]
    schemas += [SettingsReader(one.settings).json_schema for one in options if one.settings]
    properties: dict[str, object] = {}
    required: list[str] = []
    for schema in schemas:
        properties = cast("dict[str, object]", schema.get("properties", {})) | properties
        if schema is schemas[0] or len(options) == 1:
            required += cast("list[str]", schema.get("required", []))
    form = dict(settings.json_schema)
    if properties:
        form["properties"] = properties
    if required:
        form["required"] = list(dict.fromkeys(required))
    return form


def _default_port(options: tuple[Transport, ...], *, udp: bool) -> int | None:
    ports = (one.default_port for one in options if one.udp == udp)
    return next((port for port in ports if port), None)


def _execute(path: str) -> ModuleType:
    file = Path(path)
    name = f"placeos_driver_{file.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise InvalidDriver(f"{file.name}: not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except SyntaxError as error:
        where = Path(error.filename or path).name
        raise InvalidDriver(f"{where}:{error.lineno or 1}: SyntaxError: {error.msg}") from error
    except BaseException as error:  # SystemExit and KeyboardInterrupt too
        line = _line_in(path, error)
        raise InvalidDriver(
            f"{file.name}{line}: {type(error).__name__}: {text_of(error)}"
        ) from error
    return module


def _line_in(path: str, error: BaseException) -> str:
    """`:12` for the innermost line of the driver file on the way to `error`."""
    frames = traceback.extract_tb(error.__traceback__)
    lines = [frame.lineno for frame in frames if frame.filename == path]
    return f":{lines[-1]}" if lines else ""


def _driver_class(module: ModuleType, file: str) -> type[Driver[Any]]:
    found = [
        member
        for member in vars(module).values()
        if isinstance(member, type)
        and issubclass(member, Driver)
        and member.__module__ == module.__name__
    ]
    bases = {base for cls in found for base in cls.__mro__[1:]}
    leaves = list(dict.fromkeys(cls for cls in found if cls not in bases))
    if not leaves:
        raise InvalidDriver(f"{file}: no class in it derives from placeos.driver.Driver")
    if len(leaves) > 1:
        names = ", ".join(f"{cls.__name__} (line {_line_of(cls)})" for cls in leaves)
        raise InvalidDriver(
            f"{file}:{_line_of(leaves[1])}: a file holds one driver, this one several: {names}"
        )
    return leaves[0]


def _line_of(cls: type) -> int:
    try:
        return inspect.getsourcelines(cls)[1]
    except (OSError, TypeError):
        return 1


def _file_of(cls: type) -> str:
    return Path(getattr(sys.modules.get(cls.__module__), "__file__", None) or "driver").name


def _check_class(cls: type[Driver[Any]]) -> None:
    if not isinstance(cls.transport, Transport | Alternatives | None):
        raise InvalidDriver(
            f"{_file_of(cls)}:{_line_of(cls)}: transport must be such as TCP(…), or None for "
            f"logic, and not {cls.transport!r}"
        )
    for base in cls.__mro__[: cls.__mro__.index(Driver)]:
        for name in sorted(RESERVED.intersection(vars(base))):
            publish = "" if name[0] == "_" else f' and publish it by @function(name="{name}")'
            raise InvalidDriver(
                f"{_file_of(base)}:{_line_of(base)}: {name} is what the SDK offers a driver; call "
                f"yours differently{publish}"
            )
    place = f"{_file_of(cls)}:{_line_of(cls)}"
    if problems := check_interfaces(cls):
        raise InvalidDriver("\n".join(f"{p.place or place}: {p}" for p in problems))
    missing = sorted(getattr(cls, "__abstractmethods__", ()))
    if missing:
        base = next(base for base in cls.__mro__ if missing[0] in base.__dict__)
        raise InvalidDriver(
            f"{place}: {cls.__name__} is {base.__name__} but does not define {', '.join(missing)}"
        )


def _check_every(
    cls: type[Driver[Any]], method: FunctionType, entry: Every, settings: type[Settings]
) -> None:
    where = f"{_file_of(cls)}:{method.__code__.co_firstlineno}"
    if isinstance(entry.period, str) and entry.period not in settings.__struct_fields__:
        raise InvalidDriver(
            f"{where}: @every({entry.period!r}), but {settings.__name__} has no such setting"
        )
    _check_bare(cls, method, "@every")


def _check_bare(cls: type[Driver[Any]], method: FunctionType, mark: str) -> None:
    try:
        inspect.signature(method).bind(cls)
    except TypeError as error:
        where = f"{_file_of(cls)}:{method.__code__.co_firstlineno}"
        raise InvalidDriver(f"{where}: {mark} calls {method.__name__} without: {error}") from error


def _marked(
    cls: type[Driver[Any]], settings: type[Settings]
) -> tuple[tuple[tuple[str, Every], ...], tuple[tuple[str, OnCalendar], ...], tuple[Handler, ...]]:
    every: list[tuple[str, Every]] = []
    cron: list[tuple[str, OnCalendar]] = []
    handlers: list[Handler] = []
    for name in dict.fromkeys(name for base in cls.__mro__ for name in base.__dict__):
        member = getattr(cls, name, None)
        if not inspect.isfunction(member):
            continue
        marks = inherited_marks(cls, name)
        for entry in marks.every:
            _check_every(cls, member, entry, settings)
            every.append((name, entry))
        for line in marks.cron:
            _check_bare(cls, member, "@cron")
            cron.append((name, line))
        if marks.on:
            arguments = len(inspect.signature(member).parameters) - 1
            if arguments > 1:
                raise InvalidDriver(
                    f"{_file_of(cls)}:{member.__code__.co_firstlineno}: {name} is called with the "
                    f"new value and nothing else, but takes {arguments} arguments"
                )
            handlers.extend(Handler(name, place, key, bool(arguments)) for place, key in marks.on)
    return tuple(every), tuple(cron), tuple(handlers)


def _rescues(cls: type[Driver[Any]]) -> tuple[tuple[type[Exception], str], ...]:
    found: list[tuple[type[Exception], str]] = []
    for name in dict.fromkeys(name for base in cls.__mro__ for name in base.__dict__):
        member = getattr(cls, name, None)
        if inspect.isfunction(member) and (errors := inherited_marks(cls, name).rescues):
            try:
                inspect.signature(member).bind(cls, Exception())
            except TypeError as error:
                where = f"{_file_of(cls)}:{member.__code__.co_firstlineno}"
                raise InvalidDriver(
                    f"{where}: @rescues calls {name} with the error and nothing else: {error}"
                ) from error
            found += [(kind, name) for kind in errors]
    return tuple(found)


def _requirements(cls: type[Driver[Any]], handlers: tuple[Handler, ...]) -> dict[str, list[str]]:
    """What `needs` says, and the modules that `@on` follows."""
    where = f"{_file_of(cls)}:{_line_of(cls)}"
    if not isinstance(cls.needs, Mapping):
        raise InvalidDriver(f"{where}: needs: expected names of modules and their interfaces")
    found: dict[str, list[str]] = {}
    for name, interfaces in cls.needs.items():
        if not isinstance(name, str) or not name:
            raise InvalidDriver(f"{where}: needs: {name!r} is no name of a module")
        try:
            found[name] = interface_names(interfaces)
        except DriverError as error:
            raise InvalidDriver(f"{where}: needs[{name!r}]: {error}") from error
    for handler in handlers:
        if handler.module:
            base, index = split_name(handler.module)
            if index != 1 or base not in found:
                found.setdefault(f"{base}_{index}", [])
    return found


def _metadata(
    cls: type[Driver[Any]],
    functions: dict[str, Function],
    handlers: tuple[Handler, ...],
    schema: dict[str, object],
) -> ModuleMetadata:
    return ModuleMetadata(
        interface=dict(metadata(functions.values())),
        functions=old_metadata(functions.values()),
        implements=[
            base.__dict__["interface_name"]
            for base in cls.__mro__
            if base.__dict__.get("interface_name")
        ],
        requirements=_requirements(cls, handlers),
        security=security(functions.values()),
        versions={"driver": __version__},
        json_schema=schema,
    )
