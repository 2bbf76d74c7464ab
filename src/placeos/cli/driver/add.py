"""`placeos driver add`: a file of this machine becomes a driver, and a module in a room."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Final, TypeVar
from urllib.parse import unquote, urlsplit

import msgspec
from msgspec import Raw

from placeos.cli.client import Client
from placeos.cli.driver.check import describe
from placeos.cli.driver.session import CannotRun, Target
from placeos.cli.output import ASKED_WRONGLY, CliError, segment
from placeos.cli.rooms import System, find_system
from placeos.driver.environment import EnvironmentProblem
from placeos.driver.loader import LOGIC
from placeos.driver.testing.packages import python_for
from placeos.wire.messages import DriverDefaults, ModuleStart

RUNS_WITHIN: Final = 30.0  # seconds; an environment may take longer, and then goes on
LOOK_EVERY: Final = 0.3
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


class Module(msgspec.Struct):
    """What is needed of a module."""

    id: str
    driver_id: str = ""
    name: str = ""
    custom_name: str | None = None


def add(client: Client, file: Path, room: str, target: Target, say: Say) -> str:
    """Make the records that are missing, start the module, wait until it runs.

    Returns what the room calls the module, such as `Lamp_1`. The platform has to see the file:
    it runs on this machine. Raises CliError.
    """
    file, defaults = file.resolve(), _describe(file)
    try:
        start = target.record(defaults, {})
    except CannotRun as error:
        raise CliError(str(error), exit_code=ASKED_WRONGLY) from error
    system = find_system(client, room)
    repository = _repository(client, file, say)
    driver = _driver(client, file, repository, start.role, defaults, say)
    module = _in_room(client, system, driver)
    if module is None:
        module = _module(client, system, driver, start, say)
        client.post(f"/modules/{segment(module.id)}/start", None)
    else:
        say(f"{system.name} has a module of it already; the file's newest version runs in it")
    slug = _slug(client, system.id, module.id)
    _wait(client, f"/systems/{segment(system.id)}/{segment(slug)}", driver.id, repository.id, say)
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


def _repository(client: Client, file: Path, say: Say) -> Repository:
    """The one that has the file, or a new one of its folder."""
    found = client.get("/repositories", list[Repository], limit=ALL)
    if known := _first(found, lambda one: one.place_of(file) is not None):
        return known
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


def _driver(
    client: Client,
    file: Path,
    repository: Repository,
    role: int,
    defaults: DriverDefaults,
    say: Say,
) -> Driver:
    place = repository.place_of(file)
    found = client.get("/drivers", list[Driver], limit=ALL)
    here = (repository.id, place)
    if known := _first(found, lambda one: (one.repository_id, one.file_name) == here):
        return known
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


def _in_room(client: Client, system: System, driver: Driver) -> Module | None:
    found = client.get("/modules", list[Module], control_system_id=system.id, limit=ALL)
    return _first(found, lambda one: one.driver_id == driver.id)


def _module(client: Client, system: System, driver: Driver, start: ModuleStart, say: Say) -> Module:
    record: dict[str, Any] = {"driver_id": driver.id}
    if start.role == LOGIC:
        record["control_system_id"] = system.id
    else:
        for name in ("ip", "port", "uri", "tls", "udp", "makebreak"):
            record[name] = getattr(start, name)
    module = _post(client, "/modules", record, Module)
    if start.settings:
        text = msgspec.json.encode(start.settings).decode()  # which is YAML too
        settings = {"parent_id": module.id, "encryption_level": ADMIN, "settings_string": text}
        _post(client, "/settings", settings, Raw)
    if start.role != LOGIC:
        client.put(f"/systems/{segment(system.id)}/module/{segment(module.id)}")
    say(f"{system.name} has a module of it now")
    return module


def _wait(client: Client, module: str, driver: str, repository: str, say: Say) -> None:
    """Until the module runs and knows whether its device is there. Raises CliError when the
    file cannot be used. `module` is the path of its state."""
    give_up = time.monotonic() + RUNS_WITHIN
    while time.monotonic() < give_up:
        connected = _state(client, f"{module}/connected")
        if connected is not None:
            break
        folder = client.get(f"/repositories/{segment(repository)}", Repository)
        if folder.has_runtime_error:
            raise CliError(f"the platform cannot use the folder: {folder.error_message}")
        if problem := client.get(f"/drivers/{segment(driver)}", Driver).compilation_output:
            raise CliError(problem)
        time.sleep(LOOK_EVERY)
    else:
        say("it does not run yet: see `placeos jobs` and `placeos status`")
        return
    if not connected:
        say("its device does not answer (yet): see `placeos status`")


def _state(client: Client, path: str) -> object:
    """A value of the live state; None while there is none."""
    try:
        return client.get(path, object)
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
