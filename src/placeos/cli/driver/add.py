"""`placeos driver add`: a file of this machine becomes a driver, and a module in a room."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Final, TypeVar
from urllib.parse import unquote, urlsplit

import msgspec
from msgspec import Raw

from placeos.cli.client import Client
from placeos.cli.driver.check import describe
from placeos.cli.driver.run import parse_settings
from placeos.cli.driver.session import CannotRun, Target
from placeos.cli.driver.words import undeclared
from placeos.cli.output import ASKED_WRONGLY, CliError, segment
from placeos.cli.rooms import System, find_system
from placeos.driver.environment import EnvironmentProblem
from placeos.driver.loader import LOGIC
from placeos.driver.testing.packages import python_for
from placeos.wire.messages import DriverDefaults, ModuleStart

RUNS_WITHIN: Final = 30.0  # seconds; an environment may take longer, and then goes on
LOOK_EVERY: Final = 0.3
KNOWN_WITHIN: Final = 6.0  # seconds; a module that runs knows by then whether its device is there
TAKEN_UP_WITHIN: Final = 1.0  # seconds, by the core, of what was changed
ADMIN: Final = 2  # encryption level of the settings: administrators may read them
ALL: Final = 10_000

Say = Callable[[str], None]
T = TypeVar("T")


class Repository(msgspec.Struct):
    """What is needed of a repository."""

    id: str
    uri: str = ""
    repo_type: str = ""
    root_path: str | None = None
    has_runtime_error: bool = False
    error_message: str | None = None

    def place_of(self, file: Path) -> str | None:
        """The path of a file in it; None if it is elsewhere."""
        parts = urlsplit(self.uri)
        if parts.scheme != "file" or self.repo_type != "driver":
            return None
        root = Path(unquote(parts.path), self.root_path or "").resolve()
        return str(file.relative_to(root)) if file.is_relative_to(root) else None


class Driver(msgspec.Struct):
    """What is needed of a driver."""

    id: str
    file_name: str = ""
    repository_id: str = ""
    compilation_output: str | None = None


class Settings(msgspec.Struct):
    """What is needed of a record of settings."""

    id: str
    encryption_level: int = 0
    settings_string: str = ""


class Module(msgspec.Struct):
    """What is needed of a module."""

    id: str
    driver_id: str = ""
    name: str = ""
    custom_name: str | None = None


def add(client: Client, file: Path, room: str, target: Target, say: Say) -> str:
    """Make the records that are missing, start the module, wait until it runs. A module that the
    room has already gets the address and the settings that are given; the others stay.

    Returns what the room calls the module, such as `Lamp_1`. The platform has to see the file:
    it runs on this machine. Raises CliError.
    """
    file, defaults = file.resolve(), _describe(file)
    for name in undeclared(target.settings, defaults.json_schema):
        say(f"the driver declares no setting {name}")
    system = find_system(client, room)
    repository = _known_repository(client, file)
    driver = _known_driver(client, file, repository) if repository else None
    modules = _in_room(client, system, driver) if driver else []
    if repository and driver and modules:
        say(f"{system.name} has a module of it already; the file's newest version runs in it")
        module = _change(client, modules, target, defaults, say)
    else:
        try:
            start = target.record(defaults, {})
        except CannotRun as error:
            raise CliError(str(error), exit_code=ASKED_WRONGLY) from error
        repository = repository or _new_repository(client, file, say)
        driver = driver or _new_driver(client, file, repository, start.role, defaults, say)
        module = _module(client, system, driver, start, say)
    client.post(f"/modules/{segment(module.id)}/start", None)
    slug = _slug(client, system.id, module.id)
    _wait(client, module, f"/systems/{segment(system.id)}/{segment(slug)}", repository, say)
    return slug


def _describe(file: Path) -> DriverDefaults:
    if not file.is_file():
        raise CliError(f"there is no file {file}", exit_code=ASKED_WRONGLY)
    try:
        described = describe(file, asyncio.run(python_for(file)))
    except EnvironmentProblem as error:
        raise CliError(str(error)) from error
    if described.error:
        raise CliError(described.error)
    return described.defaults


def _known_repository(client: Client, file: Path) -> Repository | None:
    """The one that has the file."""
    found = client.get("/repositories", list[Repository], limit=ALL)
    return _first(found, lambda one: one.place_of(file) is not None)


def _new_repository(client: Client, file: Path, say: Say) -> Repository:
    """One of the file's folder."""
    folder = file.parent
    made = _post(
        client,
        "/repositories",
        {
            "name": folder.name,
            "folder_name": re.sub(r"[^a-z0-9_.+()-]+", "-", folder.name.lower()) or "drivers",
            "uri": folder.as_uri(),
            "repo_type": "driver",
        },
        Repository,
    )
    say(f"{folder} is a repository now: what is saved there runs at once")
    return made


def _known_driver(client: Client, file: Path, repository: Repository) -> Driver | None:
    found = client.get("/drivers", list[Driver], limit=ALL)
    here = (repository.id, repository.place_of(file))
    return _first(found, lambda one: (one.repository_id, one.file_name) == here)


def _new_driver(
    client: Client,
    file: Path,
    repository: Repository,
    role: int,
    defaults: DriverDefaults,
    say: Say,
) -> Driver:
    place = repository.place_of(file)
    record: dict[str, Any] = {
        "name": defaults.descriptive_name,
        "description": defaults.description,
        "module_name": defaults.generic_name,
        "role": role,
        "repository_id": repository.id,
        "file_name": place,
        "commit": "HEAD",
    }
    if port := defaults.tcp_port or defaults.udp_port:
        record["default_port"] = port
    if defaults.uri_base:
        record["default_uri"] = defaults.uri_base
    say(f"{place} is a driver now")
    return _post(client, "/drivers", record, Driver)


def _in_room(client: Client, system: System, driver: Driver) -> list[Module]:
    found = client.get("/modules", list[Module], control_system_id=system.id, limit=ALL)
    return [one for one in found if one.driver_id == driver.id]


def _module(client: Client, system: System, driver: Driver, start: ModuleStart, say: Say) -> Module:
    record: dict[str, Any] = {"driver_id": driver.id}
    if start.role == LOGIC:
        record["control_system_id"] = system.id
    else:
        for name in ("ip", "port", "uri", "tls", "udp", "makebreak"):
            record[name] = getattr(start, name)
    module = _post(client, "/modules", record, Module)
    if start.settings:
        _give(client, module, start.settings)
    if start.role != LOGIC:
        client.put(f"/systems/{segment(system.id)}/module/{segment(module.id)}")
    say(f"{system.name} has a module of it now")
    return module


def _change(
    client: Client, modules: list[Module], target: Target, defaults: DriverDefaults, say: Say
) -> Module:
    """Give the room's module what was said of its address and settings; the rest stays."""
    record: dict[str, Any] = {
        name: value
        for name, value in (("ip", target.host), ("port", target.port), ("uri", target.uri))
        if value
    }
    if target.tls:
        record["tls"] = True
    if target.makebreak is not None:
        record["makebreak"] = target.makebreak
    if target.role in ("tcp", "udp"):
        record["udp"] = target.role == "udp"
    settings = target.typed(defaults.json_schema)
    module = modules[0]
    if not record and not settings:
        return module
    if len(modules) > 1:
        ids = ", ".join(one.id for one in modules)
        raise CliError(
            f"the room has {len(modules)} modules of it, and which is meant is not told: {ids}"
        )
    if record:
        client.patch(f"/modules/{segment(module.id)}", record)
    if settings:
        _give(client, module, settings)
    say(f"changed: {', '.join([*record, *settings])}")
    time.sleep(TAKEN_UP_WITHIN)
    return module


def _give(client: Client, module: Module, given: Mapping[str, Any]) -> None:
    """Settings for a module, on top of those of it that only administrators read."""
    found = client.get("/settings", list[Settings], parent_id=module.id, limit=ALL)
    known = _first(found, lambda one: one.encryption_level == ADMIN)
    try:
        before = parse_settings(known.settings_string) if known else {}
    except ValueError as error:
        raise CliError(f"the settings that it has cannot be read: {error}") from error
    text = msgspec.json.encode({**(before or {}), **given}).decode()  # which is YAML too
    if known:
        client.patch(f"/settings/{segment(known.id)}", {"settings_string": text})
    else:
        record = {"parent_id": module.id, "encryption_level": ADMIN, "settings_string": text}
        _post(client, "/settings", record, Raw)


def _wait(client: Client, module: Module, path: str, repository: Repository, say: Say) -> None:
    """Until the module runs and knows whether its device is there. Raises CliError when the
    file or the settings cannot be used. `path` is that of its state."""
    give_up = time.monotonic() + RUNS_WITHIN
    wrong_since: float | None = None
    while time.monotonic() < give_up:
        connected = _found(client, f"{path}/connected", object)
        errors = _found(client, f"/modules/{segment(module.id)}/error", list[str]) or []
        if connected is not None:
            break
        folder = client.get(f"/repositories/{segment(repository.id)}", Repository)
        if folder.has_runtime_error:
            raise CliError(f"the platform cannot use the folder: {folder.error_message}")
        driver = client.get(f"/drivers/{segment(module.driver_id)}", Driver)
        if driver.compilation_output:
            raise CliError(driver.compilation_output)
        wrong_since = (wrong_since or time.monotonic()) if errors else None
        if wrong_since and time.monotonic() - wrong_since > KNOWN_WITHIN:
            raise CliError(f"it does not start: {errors[-1]}")
        time.sleep(LOOK_EVERY)
    else:
        say("it does not run yet: see `placeos jobs` and `placeos status`")
        return
    if not connected:
        say(f"its device does not answer (yet): {'; '.join(errors) or 'see `placeos status`'}")
    elif errors:
        raise CliError(f"it runs, and something is wrong: {errors[-1]}")


def _found(client: Client, path: str, type: type[T]) -> T | None:
    """What is there; None while there is nothing."""
    try:
        return client.get(path, type)
    except CliError as error:
        if error.status == 404:
            return None
        raise


def _slug(client: Client, system_id: str, module_id: str) -> str:
    """The name of a module in a room; modules of one name are counted in the room's order."""
    order = client.get(f"/systems/{segment(system_id)}", System).modules
    found = client.get("/modules", list[Module], control_system_id=system_id, limit=ALL)
    names = {one.id: one.custom_name or one.name for one in found}
    same = [one for one in order if names.get(one) == names.get(module_id)]
    return f"{names[module_id]}_{same.index(module_id) + 1}"


def _post(client: Client, path: str, record: dict[str, Any], type: type[T]) -> T:
    return msgspec.json.decode(client.post(path, record), type=type)


def _first(found: Iterable[T], fits: Callable[[T], bool]) -> T | None:
    return next((one for one in found if fits(one)), None)
