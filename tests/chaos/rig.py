"""A whole platform under test: simulated devices, engines, api, auth, and cores of our own.

Engines, api and auth run under the platform's supervisor, as with `placeos up`; the cores are
started here with the same environment, so that one that is killed stays dead until a test says
otherwise, and so that they can be put anywhere (see `netns.py`).
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, suppress
from pathlib import Path

import httpx
import msgspec
import psutil
from cores import CoreProcess
from watch import Devices

from placeos.local import secrets
from placeos.local.engines import Engines, socket_folder, start_engines
from placeos.local.folder import Folder
from placeos.local.ports import Ports, is_free
from placeos.local.services import Addresses, service_specs
from placeos.local.supervisor import Managed, Supervisor
from placeos.store import Database, migrate
from placeos.store.seed import ensure_first_user, new_api_key

HERE = Path(__file__).parent
AT_ONCE = 16  # records created at the same time
PER_SYSTEM = 100
START_LIMIT = 120.0  # seconds until all modules must be connected for the first time


class RigError(Exception):
    """The platform did not get where a round can begin; the message says what is missing."""


class Site(msgspec.Struct):
    """Where the load goes."""

    url: str
    control_url: str
    api_key: str
    modules: list[str] = []  # ids, in the order of the devices
    places: list[tuple[str, int]] = []  # system and index of each


class Rig:
    """One platform with its devices. Made by `running`."""

    def __init__(self, folder: Path, devices: Devices, supervisor: Supervisor) -> None:
        self.folder = folder
        self.devices = devices
        self.supervisor = supervisor
        self.cores: dict[str, CoreProcess] = {}
        self.site: Site
        self.engines: Engines
        self.start_again: Callable[[str], object] = self.core
        """Starts a core where it belongs."""
        self.own: list[str] = []  # the cores that are there before each fault
        self._data: Folder
        self._addresses: Addresses
        self._ports: dict[str, int] = {}  # of cores: they come back where they were
        self._owners: dict[int, str] = {}  # of driver processes, by pid

    # -- starting

    async def start(self, sockets: Path, etcd: tuple[str, ...] = ()) -> None:
        """Engines (without etcd, if it is elsewhere), database, api and auth."""
        self._data = Folder(self.folder / "data")
        self._data.create()
        await asyncio.to_thread(secrets.ensure_secrets, self._data.secrets)
        pids: dict[str, int] = {}
        data = self._data.path
        self.engines = await start_engines(
            self.supervisor, data, sockets, pids, etcd=not etcd, durable=False
        )
        if etcd:
            self.engines = msgspec.structs.replace(self.engines, etcd_endpoints=etcd)
        api_key = await self._prepare_database()
        ports = Ports(self._data.ports)
        self._addresses = Addresses(
            ports.take("api"), ports.take("control"), ports.take("auth"), ()
        )
        await self.supervisor.start(*service_specs(self._data, self.engines, self._addresses))
        api, control = self._addresses.api, self._addresses.control
        self.site = Site(
            url=f"http://127.0.0.1:{api}/api/engine/v2",
            control_url=f"ws://127.0.0.1:{control}/api/engine/v2/systems/control?api-key={api_key}",
            api_key=api_key,
        )

    async def _prepare_database(self) -> str:
        await asyncio.to_thread(migrate, self.engines.database_url)
        api_key = new_api_key()
        database = Database(self.engines.database_url)
        await database.connect()
        try:
            await ensure_first_user(
                *(database, "localhost", "admin@placeos.local", "a password of no use"),
                api_key=api_key,
                key_name="chaos",
            )
        finally:
            await database.close()
        return api_key

    def core(
        self,
        name: str,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        engines: Engines | None = None,
        prefix: tuple[str, ...] = (),
        data: str = "",
        key: str = "",
        forgiven: bool = True,
    ) -> CoreProcess:
        """Start a core: a new one, or one of this name again.

        `engines` are where it finds them, `data` the name of another data folder, `key` under
        which it is kept here if not its identity (the same identity started twice). `forgiven`:
        of its bad ends only the last is counted, so that it is not held back for minutes.
        """
        port = port or self._ports.setdefault(key or name, _free_port(host))
        addresses = msgspec.structs.replace(self._addresses, cores=(port,))
        found = service_specs(self._data, engines or self.engines, addresses)
        spec = next(one for one in found if one.name == "core-1")
        environment = dict(spec.env) | {
            "PLACEOS_IDENTITY": name,
            "PLACEOS_LISTEN": f"{host}:{port}",
            "PLACEOS_DATA": str(self._data.of(data or name)),
        }
        log = self.folder / f"{key or name}.log"
        core = CoreProcess(name, environment, log, prefix)
        if forgiven:
            _forgive(self._data.of(data or name) / "core" / name / "lives.json")
        previous = self.cores.get(key or name)
        if previous is not None and previous.alive:
            raise RigError(f"{name} runs already")
        core.start(spec.argv)
        self.cores[key or name] = core
        return core

    def revive(self) -> None:
        """Start the cores that should be there: a fault may have been too much for one."""
        for name in self.own:
            if name not in self.cores or not self.cores[name].alive:
                self.start_again(name)

    # -- engines

    def engine(self, name: str) -> Managed:
        """PostgreSQL, Redis, etcd, or a service, under supervision."""
        return next(item for item in self.supervisor if item.name == name)

    @contextmanager
    def engine_stopped(self, name: str) -> Iterator[None]:
        """An engine and all its processes stand still meanwhile."""
        pid = self.engine(name).pid
        if pid is None:
            raise RigError(f"{name} does not run")
        own = psutil.Process(pid)
        family = [own, *own.children(recursive=True)]
        for process in family:
            process.suspend()
        try:
            yield
        finally:
            for process in family:
                with suppress(psutil.NoSuchProcess):
                    process.resume()

    # -- what there is to control

    async def describe(self) -> None:
        """Repository, driver, modules and systems, through the REST API."""
        headers = {"X-API-Key": self.site.api_key}
        async with httpx.AsyncClient(base_url=self.site.url, headers=headers, timeout=30) as client:
            repository = await _create(
                client,
                "repositories",
                name="chaos",
                folder_name="chaos",
                uri=(HERE / "drivers").resolve().as_uri(),
                repo_type="driver",
            )
            driver = await _create(
                client,
                "drivers",
                name="Marker",
                file_name="marker.py",
                commit="HEAD",
                repository_id=repository,
                role=1,
                module_name="Marker",
            )
            zone = await _create(client, "zones", name="Chaos")
            gate = asyncio.Semaphore(AT_ONCE)

            async def module(host: str, port: int) -> str:
                async with gate:
                    record = {"driver_id": driver, "ip": host, "port": port, "running": True}
                    return await _create(client, "modules", **record)

            self.site.modules = await asyncio.gather(
                *(module(*address) for address in self.devices.addresses())
            )
            for first in range(0, len(self.site.modules), PER_SYSTEM):
                some = self.site.modules[first : first + PER_SYSTEM]
                record = {"name": f"Chaos {first}", "zones": [zone], "modules": some}
                system = await _create(client, "systems", **record)
                self.site.places += [(system, index + 1) for index in range(len(some))]

    # -- looking

    def shares(self) -> Counter[str]:
        """How many devices each core holds, by the devices' log."""
        self.devices.log.look()
        counts: Counter[str] = Counter()
        for pid in self.devices.log.pids.values():
            counts[self.owner(pid)] += 1
        return counts

    def devices_of_others(self, names: Sequence[str]) -> list[int]:
        """The devices that cores other than these hold."""
        pids = self.devices.log.pids
        return [device for device, pid in pids.items() if self.owner(pid) not in names]

    def owner(self, pid: int) -> str:
        """The core that a driver process belongs (or belonged) to."""
        if pid not in self._owners:
            pids = {core.pid: key for key, core in self.cores.items()}
            try:
                parents = psutil.Process(pid).parents()
            except psutil.NoSuchProcess:
                return "?"
            for parent in parents:
                if parent.pid in pids:
                    self._owners[pid] = pids[parent.pid]
        return self._owners.get(pid, "?")

    @property
    def all_connected(self) -> bool:
        """Whether every device has a connection that said hello."""
        self.devices.log.look()
        return len(self.devices.log.pids) == self.devices.count

    def calm(self, seconds: float) -> bool:
        """Whether all are connected, and nothing has changed for so long."""
        if not self.all_connected:
            return False
        return time.monotonic_ns() - self.devices.log.last_change > seconds * 1e9

    async def until(
        self, condition: Callable[[], bool], within: float, what: str, *, fail: bool = True
    ) -> bool:
        """Wait for a condition. Raises RigError when it does not come true in time."""
        deadline = time.monotonic() + within
        while not condition():
            if time.monotonic() > deadline:
                if fail:
                    shares = dict(self.shares())
                    gone = [key for key, core in self.cores.items() if not core.alive]
                    raise RigError(
                        f"not within {within:g} s: {what}; devices by core: {shares}; "
                        f"cores that ended: {gone}"
                    )
                return False
            await asyncio.sleep(0.1)
        return True

    async def balanced(self, within: float = START_LIMIT) -> None:
        """Wait until all modules are connected, every living core has some, and all is calm."""

        def yes() -> bool:
            shares = self.shares()
            alive = [key for key, core in self.cores.items() if core.alive]
            return self.calm(2.0) and all(shares[key] for key in alive)

        await self.until(yes, within, "every core holds modules, all connected")


@asynccontextmanager
async def running(
    folder: Path,
    *,
    modules: int,
    cores: int = 3,
    host: str = "",
    second: str = "refuse",
    etcd: tuple[str, ...] = (),
) -> AsyncIterator[Rig]:
    """A platform with so many modules, connected, on cores `core-1` to `core-N`."""
    host = host or f"127.{random.randrange(64, 128)}.{random.randrange(256)}.1"
    folder.mkdir(parents=True, exist_ok=True)
    async with AsyncExitStack() as stack:
        devices = Devices(folder / "devices.log", modules, host=host, second=second)
        stack.callback(devices.close)
        sockets = stack.enter_context(socket_folder(folder / "data"))
        supervisor = Supervisor(folder / "logs")
        await stack.enter_async_context(supervisor)
        rig = Rig(folder, devices, supervisor)
        await rig.start(sockets, etcd)
        stack.callback(_end_all, rig)
        await rig.describe()
        rig.own = [f"core-{number}" for number in range(1, cores + 1)]
        rig.revive()
        if cores:
            await rig.balanced()
        yield rig


def _forgive(lives: Path) -> None:
    with suppress(FileNotFoundError):
        known = msgspec.json.decode(lives.read_bytes(), type=list[msgspec.Raw])
        lives.write_bytes(msgspec.json.encode(known[-1:]))


def _end_all(rig: Rig) -> None:
    for core in rig.cores.values():
        core.end()


async def _create(client: httpx.AsyncClient, resource: str, **record: object) -> str:
    answer = await client.post(f"/{resource}", json=record)
    if answer.status_code != 201:
        raise RigError(f"{resource}: {answer.status_code} {answer.text}")
    return str(answer.json()["id"])


def _free_port(host: str) -> int:
    """Below the range of outgoing connections, of which there are many here."""
    while not is_free(port := random.randrange(20_000, 32_000), host):
        pass
    return port
