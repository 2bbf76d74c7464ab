"""A core as its own process on real engines, a building in the database, and a way to call it."""

from __future__ import annotations

import asyncio
import itertools
import os
import re
import signal
import subprocess
import sys
import textwrap
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import msgspec
import pytest
from redis.asyncio import Redis

from placeos.cluster.etcd import Etcd
from placeos.cluster.registry import PREFIX
from placeos.cluster.routing import Router
from placeos.model.driver import Driver, Role
from placeos.model.module import Module
from placeos.model.repository import Repository
from placeos.model.rules import Entity
from placeos.model.settings import Settings
from placeos.model.system import System
from placeos.state import keys
from placeos.state.client import connect
from placeos.store import Database, records
from placeos.wire.frame import Command, Header

PLAIN = '''
"""A driver for tests."""
import asyncio, os, time
from placeos.driver import Driver, Settings

class PlainSettings(Settings):
    greeting: str = "hello"
    number: int = 0

class Plain(Driver[PlainSettings]):
    module_name = "Plain"

    async def started(self) -> None:
        self["number"] = self.settings.number
        self["greeting"] = self.settings.greeting

    async def settings_changed(self) -> None:
        await self.started()

    def echo(self, value: str) -> str:
        return value

    def greet(self) -> str:
        return self.settings.greeting

    def version(self) -> int:
        return 1

    async def set(self, key: str, value: int) -> int:
        self[key] = value
        return value

    async def nap(self, seconds: float) -> str:
        await asyncio.sleep(seconds)
        return "rested"

    def block(self, seconds: float) -> None:
        time.sleep(seconds)

    def crash(self) -> None:
        os._exit(7)

    def pid(self) -> int:
        return os.getpid()

    async def remember(self, name: str, value: int) -> None:
        await self.save_setting(name, value)

    async def ask(self, place: str, text: str) -> str:
        return await self.system[place].echo(text)
'''
_numbers = itertools.count(1)
_SERVED = re.compile(r'"view completed".*"eligible": \["')


async def until(condition: Callable[[], object], timeout: float = 20.0) -> object:
    """Wait until a condition (maybe a coroutine function) holds; what it gave."""
    async with asyncio.timeout(timeout):
        while True:
            found = condition()
            if asyncio.iscoroutine(found):
                found = await found
            if found:
                return found
            await asyncio.sleep(0.01)


@pytest.fixture(name="until")
def until_fixture():
    return until


class CoreProcess:
    """One core, started and killed at will."""

    def __init__(self, environment: dict[str, str], log: Path) -> None:
        self._environment = environment
        self.log_file = log
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with self.log_file.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "placeos.core"], env=self._environment, stderr=log
            )

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()

    def stop(self, timeout: float = 10.0) -> int:
        if self.process is None:
            return 0
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout)

    def log(self) -> str:
        return self.log_file.read_text() if self.log_file.exists() else ""

    def serving(self, times: int = 1) -> bool:
        """Whether it completed a view that gives modules to somebody, so often."""
        return len(_SERVED.findall(self.log())) >= times


class Building:
    """Records, made directly in the database."""

    def __init__(self, database: Database, folder: Path) -> None:
        self.database = database
        self.folder = folder
        self.repository: Repository
        self.driver: Driver

    async def insert(self, entity: Entity):
        async with self.database.transaction() as session:
            return await records.insert(session, entity)

    async def change(self, kind: type[Entity], record: str, **fields: object):
        async with self.database.transaction() as session:
            before = await session.get(kind, record, lock=True)
            return await records.update(session, before, msgspec.structs.replace(before, **fields))

    async def destroy(self, entity: Entity) -> None:
        async with self.database.transaction() as session:
            await records.destroy(session, entity)

    def write(self, name: str, code: str) -> None:
        path = self.folder / name
        partial = path.with_suffix(".new")
        partial.write_text(textwrap.dedent(code))
        partial.replace(path)

    async def make(self) -> None:
        self.write("plain.py", PLAIN)
        name = f"tests-{next(_numbers)}"
        self.repository = await self.insert(
            Repository(name=name, folder_name=name, uri=f"file://{self.folder}")
        )
        self.driver = await self.new_driver("plain.py")

    async def new_driver(self, file: str, role: Role = Role.LOGIC) -> Driver:
        return await self.insert(
            Driver(
                name=file,
                file_name=file,
                commit="HEAD",
                role=role,
                module_name="Plain",
                repository_id=self.repository.id,
            )
        )

    async def new_system(self, name: str = "") -> System:
        return await self.insert(System(name=name or f"Room {next(_numbers)}"))

    async def new_module(
        self, system: System | None = None, driver: Driver | None = None, **fields: object
    ) -> Module:
        system = system or await self.new_system()
        driver = driver or self.driver
        return await self.insert(
            Module(
                driver_id=driver.id,
                name=driver.module_name,
                role=driver.role,
                control_system_id=system.id,
                **{"running": True, **fields},
            )
        )

    async def new_settings(self, parent: Entity, text: str) -> Settings:
        settings = Settings(parent_id=parent.id, settings_string=text)
        settings.tidy()
        return await self.insert(settings)


@pytest.fixture
async def redis(engines) -> AsyncIterator[Redis]:
    client = connect(engines.redis_url)
    await client.flushdb()
    yield client
    await client.aclose()


@pytest.fixture
async def etcd(engines) -> AsyncIterator[Etcd]:
    async with Etcd(engines.etcd_endpoints) as client:
        for item in (await client.list(PREFIX)).items:
            await client.delete(item.key)
        yield client


@pytest.fixture(name="core_process")
def core_process_class():
    return CoreProcess


@pytest.fixture(name="Building")
def building_class():
    return Building


@pytest.fixture
async def building(database_url: str, tmp_path: Path) -> AsyncIterator[Building]:
    folder = tmp_path / "repo with space"
    folder.mkdir()
    database = Database(database_url)
    await database.connect()
    made = Building(database, folder)
    await made.make()
    yield made
    await database.close()


@pytest.fixture(scope="session")
def environment(engines, secrets_folder):
    """Makes the environment of a core."""

    def make(database_url: str, data: Path, identity: str = "core-1") -> dict[str, str]:
        return {
            **os.environ,
            "PLACEOS_DATA": str(data),
            "PLACEOS_SECRETS": str(secrets_folder),
            "PLACEOS_DATABASE_URL": database_url,
            "PLACEOS_REDIS_URL": engines.redis_url,
            "PLACEOS_ETCD_ENDPOINTS": ",".join(engines.etcd_endpoints),
            "PLACEOS_IDENTITY": identity,
            "PLACEOS_LISTEN": "127.0.0.1:0",
        }

    return make


@pytest.fixture
def core_environment(environment, database_url, tmp_path):
    def make(identity: str = "core-1", data: Path | None = None) -> dict[str, str]:
        return environment(database_url, data or tmp_path / "data", identity)

    return make


@pytest.fixture(scope="session")
def core_type() -> type[CoreProcess]:
    """For tests that start more than one."""
    return CoreProcess


@pytest.fixture
async def core(core_environment, redis, etcd, tmp_path):
    made = CoreProcess(core_environment(), tmp_path / "core.log")
    made.start()
    await until(made.serving, 60)
    yield made
    made.kill()


@asynccontextmanager
async def running_router(engines, secrets_folder: Path) -> AsyncIterator[Router]:
    found = Router(
        engines.etcd_endpoints,
        secret=(secrets_folder / "cluster_secret").read_bytes().strip(),
        service="api",
        identity="api-1",
    )
    task = asyncio.create_task(found.run())
    yield found
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


@pytest.fixture
async def router(engines, secrets_folder, etcd):
    async with running_router(engines, secrets_folder) as found:
        yield found


class Platform(msgspec.Struct):
    """What tests that harm nothing can share."""

    core: CoreProcess
    router: Router
    redis: Redis
    database: Database


@pytest.fixture(scope="module")
async def platform(
    engines, secrets_folder, template_database, environment, tmp_path_factory
) -> AsyncIterator[Platform]:
    """One core for all tests of a module, on a database of its own."""
    folder = tmp_path_factory.mktemp("platform")
    name = f"core_{next(_numbers)}"
    admin = await asyncpg.connect(engines.database_url)
    await admin.execute(f'create database "{name}" template "{template_database}"')
    url = urlunsplit(urlsplit(engines.database_url)._replace(path=f"/{name}"))
    database = Database(url)
    await database.connect()
    redis = connect(engines.redis_url)
    await redis.flushdb()
    async with Etcd(engines.etcd_endpoints) as etcd:
        for item in (await etcd.list(PREFIX)).items:
            await etcd.delete(item.key)
    core = CoreProcess(environment(url, folder / "data"), folder / "core.log")
    core.start()
    try:
        await until(core.serving, 60)
        async with running_router(engines, secrets_folder) as router:
            yield Platform(core, router, redis, database)
    finally:
        core.kill()
        await redis.aclose()
        await database.close()
        await admin.execute(f'drop database "{name}" with (force)')
        await admin.close()


@pytest.fixture
def call(router):
    """`await call(module, function, *args)` → the decoded result; raises CallError."""

    async def execute(module, function: str, *args: object, timeout: float = 10.0):
        header = Header(Command.EXECUTE, module=module.id, function=function, user="user-1")
        _, body = await router.request(header, msgspec.json.encode(args), timeout=timeout)
        return msgspec.json.decode(body)

    return execute


@pytest.fixture
def value(redis):
    """`await value(module, key)` → the decoded live value, None when unset."""

    async def read(module, key: str):
        raw = await redis.hget(keys.status(module.id), key)
        return msgspec.json.decode(raw) if raw is not None else None

    return read


@pytest.fixture
def becomes(value):
    """`await becomes(module, key, expected)`: state reaches Redis a moment after the answer."""

    async def wait(module, key: str, expected: object) -> None:
        async def is_there() -> bool:
            return await value(module, key) == expected

        await until(is_there)

    return wait
