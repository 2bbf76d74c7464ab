"""Describes the demo building to the platform, through its REST API like any integrator.

Running it again changes only what is wrong: rooms that exist are kept as they are, except that
the addresses of the simulated devices are corrected, since their ports may have changed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import httpx
import msgspec

import placeos
from placeos.local.demo import building
from placeos.local.demo.building import DISPLAY, ROOM_LOGIC, SWITCHER, DriverFile, Room
from placeos.local.demo.processes import folder, ports_file

ADDRESS = "127.0.0.1"
_ADMIN = 2  # encryption level of the projector's password

Record = dict[str, object]


class BuildError(Exception):
    """The API refused a record of the demo; the message says which and why."""


class _Record(msgspec.Struct):
    """What is needed of any record that was read back."""

    id: str
    name: str = ""
    file_name: str = ""
    folder_name: str = ""
    driver_id: str = ""
    encryption_level: int = 0
    ip: str = ""
    port: int = 0
    modules: list[str] = []


async def build(
    url: str, api_key: str, data: Path, *, report: Callable[[str], None] = lambda _: None
) -> None:
    """Create what is missing, correct addresses, and start what was created.

    `url` is the front door or the REST listener, `report` hears what is being done. Raises
    BuildError, or httpx.TransportError when the API cannot be reached.
    """
    headers = {"X-API-Key": api_key}
    base = f"{url.rstrip('/')}/api/engine/v2"
    async with httpx.AsyncClient(base_url=base, headers=headers, timeout=30) as client:
        builder = _Builder(client, _ports(data), report)
        built = folder(data) / "built"
        if built.exists() and await builder.find("zones", name=building.ORGANISATION):
            await builder.correct()
            return
        await builder.build()
        built.parent.mkdir(parents=True, exist_ok=True)
        built.touch()


def drivers_folder() -> Path:
    """The driver files that ship: inside an installed package, else beside the source."""
    package = Path(placeos.__file__).parent
    installed = package / "drivers"
    return installed if installed.is_dir() else package.parents[1] / "drivers"


def _ports(data: Path) -> Mapping[str, int]:
    return msgspec.json.decode(ports_file(data).read_bytes(), type=dict[str, int])


class _Builder:
    """One run against one API."""

    def __init__(
        self, client: httpx.AsyncClient, ports: Mapping[str, int], report: Callable[[str], None]
    ) -> None:
        self._client = client
        self._ports = ports
        self._report = report
        self._drivers: dict[DriverFile, str] = {}

    # ---- the building

    async def build(self) -> None:
        """Everything, in the order in which records need each other."""
        self._report("drivers")
        repository = await self._repository()
        for driver in building.DRIVERS:
            self._drivers[driver] = await self._driver(driver, repository)
        self._report("zones")
        organisation = await self._zone(building.ORGANISATION, None, "org")
        tower = await self._zone(building.BUILDING, organisation, "building")
        levels = {level: await self._zone(level, tower, "level") for level in building.LEVELS}
        for room in building.ROOMS:
            self._report(room.name)
            await self._room(room, [organisation, tower, levels[room.level]])

    async def correct(self) -> None:
        """Point the modules that exist at the devices' present ports."""
        for driver in building.DRIVERS:
            if found := await self.find("drivers", file_name=driver.file_name):
                self._drivers[driver] = found.id
        for room in building.ROOMS:
            system = await self.find("systems", name=room.name)
            if system is None:
                continue
            modules = await self._list("modules", control_system_id=system.id)
            for driver in (DISPLAY, SWITCHER):
                for module in modules:
                    if module.driver_id == self._drivers.get(driver):
                        await self._address(module, room, driver)

    async def _repository(self) -> str:
        record: Record = {
            "name": building.REPOSITORY_NAME,
            "folder_name": building.REPOSITORY_FOLDER,
            "uri": drivers_folder().as_uri(),
            "repo_type": "driver",
            "description": "Drivers for the devices of the demo building, and to learn from.",
        }
        return await self._ensure("repositories", record, "folder_name")

    async def _driver(self, driver: DriverFile, repository: str) -> str:
        record: Record = {
            "name": driver.name,
            "file_name": driver.file_name,
            "commit": "HEAD",
            "repository_id": repository,
            "role": driver.role,
            "module_name": driver.module_name,
            "description": driver.description,
        }
        if driver.default_port is not None:
            record["default_port"] = driver.default_port
        return await self._ensure("drivers", record, "file_name")

    async def _zone(self, name: str, parent: str | None, tag: str) -> str:
        record: Record = {"name": name, "display_name": name, "tags": [tag]}
        if parent is not None:
            record["parent_id"] = parent
        return await self._ensure("zones", record, "name")

    async def _room(self, room: Room, zones: list[str]) -> None:
        record: Record = {
            "name": room.name,
            "display_name": room.name,
            "zones": zones,
            "capacity": room.capacity,
            "bookable": True,
        }
        system = await self._ensure("systems", record, "name")
        created = [await self._device(system, room, driver) for driver in (DISPLAY, SWITCHER)]
        created.append(await self._logic(system))
        for module in created:
            if module is not None:
                await self._request("POST", f"/modules/{module}/start")

    async def _device(self, system: str, room: Room, driver: DriverFile) -> str | None:
        """The id of the module if it had to be created."""
        for module in await self._list("modules", control_system_id=system):
            if module.driver_id == self._drivers[driver]:
                await self._address(module, room, driver)
                return None
        record: Record = {
            "driver_id": self._drivers[driver],
            "ip": ADDRESS,
            "port": self._port(room, driver),
        }
        # one that an interrupted run left outside its system is taken, not doubled
        module_id = await self._ensure("modules", record, "port", driver_id=self._drivers[driver])
        if driver is DISPLAY and room.password:
            await self._password(module_id, room.password)
        await self._request("PUT", f"/systems/{system}/module/{module_id}")
        return module_id

    async def _logic(self, system: str) -> str | None:
        driver = self._drivers[ROOM_LOGIC]
        for module in await self._list("modules", control_system_id=system):
            if module.driver_id == driver:
                return None
        created = await self._create("modules", {"driver_id": driver, "control_system_id": system})
        return created.id

    async def _password(self, module: str, password: str) -> None:
        for settings in await self._list("settings", parent_id=module):
            if settings.encryption_level == _ADMIN:
                return
        text = msgspec.yaml.encode({"password": password}).decode()
        await self._create(
            "settings",
            {"parent_id": module, "encryption_level": _ADMIN, "settings_string": text},
        )

    async def _address(self, module: _Record, room: Room, driver: DriverFile) -> None:
        port = self._port(room, driver)
        if (module.ip, module.port) != (ADDRESS, port):
            self._report(f"{room.name} {building.module_slug(driver)} is now at port {port}")
            await self._request("PATCH", f"/modules/{module.id}", {"ip": ADDRESS, "port": port})

    def _port(self, room: Room, driver: DriverFile) -> int:
        return self._ports[building.device_name(room, driver)]

    # ---- the API

    async def find(self, resource: str, **fields: object) -> _Record | None:
        """The record whose members equal the fields given, if there is one."""
        for record in await self._list(resource):
            if all(getattr(record, name) == value for name, value in fields.items()):
                return record
        return None

    async def _ensure(self, resource: str, record: Record, key: str, **query: str) -> str:
        for found in await self._list(resource, **query):
            if getattr(found, key) == record[key]:
                return found.id
        return (await self._create(resource, record)).id

    async def _list(self, resource: str, **query: str) -> list[_Record]:
        answer = await self._request("GET", f"/{resource}", None, {"limit": "10000", **query})
        return msgspec.json.decode(answer, type=list[_Record], strict=False)

    async def _create(self, resource: str, record: Record) -> _Record:
        return msgspec.json.decode(
            await self._request("POST", f"/{resource}", record), type=_Record
        )

    async def _request(
        self,
        method: str,
        path: str,
        body: Record | None = None,
        query: dict[str, str] | None = None,
    ) -> bytes:
        response = await self._client.request(method, path, json=body, params=query)
        if not response.is_success:
            about = f" ({body.get('name', '')})" if body else ""
            raise BuildError(
                f"{method} {path}{about}: {response.status_code} {response.text[:500]}"
            )
        return response.content
