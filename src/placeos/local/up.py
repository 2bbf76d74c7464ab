"""`placeos up`: a whole platform on this machine, in the foreground."""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import signal
from collections.abc import Iterator
from pathlib import Path

import msgspec

from placeos.local import secrets
from placeos.local.engines import EngineMissingError, Engines, socket_folder, start_engines
from placeos.local.folder import Folder, FolderTakenError, locked
from placeos.local.ingress import authority_certificate, ingress_spec
from placeos.local.overview import ModuleWatch
from placeos.local.ports import Ports, PortTakenError, front_door
from placeos.local.postgres import PostgresError
from placeos.local.process import ProcessSpec
from placeos.local.services import HOST, Addresses, choose_addresses, service_specs
from placeos.local.supervisor import StartFailedError, Supervisor
from placeos.local.view import View, WayIn

DEFAULT_PORT = 8080
DOMAIN = "localhost"
EMAIL = "admin@placeos.local"
_STATUS_EVERY = 1.0
_ONE_KEYSTROKE = 0.5


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """What one may choose. `port` None: 8080, or the next that is free."""

    data: Path = Path(".placeos")
    port: int | None = None
    cores: int = 1
    demo: bool = True
    hosts: tuple[str, ...] = ()
    ready_file: Path | None = None


class Ready(msgspec.Struct, kw_only=True):
    """Content of the ready file. Rewritten whenever a process was restarted."""

    url: str
    email: str
    password: str
    api_key: str
    pids: dict[str, int]
    engines: dict[str, object]
    listeners: dict[str, tuple[str, int]]
    data: str


async def run(options: Options, view: View) -> None:
    """Run until SIGINT or SIGTERM, then stop everything. A second signal kills everything.

    Raises what `cli.up` turns into one line: FolderTakenError, PortTakenError, StartFailedError …
    """
    folder = Folder(options.data)
    folder.create()
    with (
        locked(folder) as lock,
        front_door(options.port, DEFAULT_PORT, public=bool(options.hosts)) as port,
        socket_folder(folder.path) as sockets,
    ):
        if options.ready_file is not None:
            _clear(options.ready_file)
        if options.port is None and port != DEFAULT_PORT:
            view.event(f"Port {DEFAULT_PORT} is taken: using {port}.")
        lock.say(address(port))
        platform = _Platform(options, folder, sockets, port, view)
        with _signals(platform.supervisor, view):
            try:
                async with platform.supervisor:
                    await platform.start()
                    await platform.watch()
            except asyncio.CancelledError:
                view.event("Everything is stopped.")
            finally:
                platform.tidy()


class ReadyFileError(Exception):
    """The ready file cannot be written there; the message says why."""


def _clear(ready_file: Path) -> None:
    """Remove what one that was killed left behind; learn now whether it can be written later."""
    try:
        secrets.write_private(ready_file.absolute(), b"")
        ready_file.unlink()
    except OSError as error:
        why = error.strerror or error
        raise ReadyFileError(f"cannot write the ready file {ready_file}: {why}") from error


class _Platform:
    """The course of one run."""

    def __init__(
        self, options: Options, folder: Folder, sockets: Path, port: int, view: View
    ) -> None:
        self._options = options
        self._folder = folder
        self._sockets = sockets
        self._port = port
        self._view = view
        self._ready: Ready | None = None
        self._watch: ModuleWatch | None = None
        self._changed = asyncio.Event()
        self._pids: dict[str, int] = {}
        self.supervisor = Supervisor(folder.logs, on_event=view.event, on_change=self._on_change)

    async def start(self) -> None:
        """From nothing to ready, in the order in which things need one another."""
        engines = await self._start_engines()
        api_key = await self._prepare_database(engines)
        addresses = choose_addresses(Ports(self._folder.ports), self._options.cores)
        await self._start_services(engines, addresses)
        self._watch = ModuleWatch(f"http://{HOST}:{addresses.api}", api_key)
        if self._options.demo:
            await self._build_demo(f"http://{HOST}:{addresses.api}", api_key)
        password = secrets.administrator_password(self._folder.secrets)
        self._ready = Ready(
            url=address(self._port),
            email=EMAIL,
            password=password,
            api_key=api_key,
            pids=self._pids,
            engines={
                "database_url": engines.database_url,
                "redis_url": engines.redis_url,
                "etcd_endpoints": list(engines.etcd_endpoints),
            },
            listeners={
                name: (HOST, getattr(addresses, name)) for name in ("api", "control", "auth")
            },
            data=str(self._folder.path),
        )
        self._write_ready_file()
        self._view.ready(self._way_in(password))

    async def watch(self) -> None:
        """Show how things stand until cancelled."""
        assert self._watch is not None, "start() comes first"
        try:
            while True:
                modules = await self._watch.ask()
                self._view.status(list(self.supervisor), modules)
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(_STATUS_EVERY):
                        await self._changed.wait()
                self._changed.clear()
        finally:
            self._view.close()
            await self._watch.close()

    def tidy(self) -> None:
        """Nobody is ready any more."""
        if self._options.ready_file is not None:
            self._options.ready_file.unlink(missing_ok=True)

    def _way_in(self, password: str) -> WayIn:
        hosts = self._options.hosts
        return WayIn(
            url=address(self._port),
            email=EMAIL,
            password=password,
            data=str(self._folder.path),
            others=tuple(f"https://{name}:{self._port}" for name in hosts),
            certificate=str(authority_certificate(self._folder)) if hosts else "",
        )

    # -- steps

    async def _start_engines(self) -> Engines:
        with self._view.step("PostgreSQL, Redis and etcd"):
            await asyncio.to_thread(secrets.ensure_secrets, self._folder.secrets)
            engines, _ = await asyncio.gather(
                start_engines(self.supervisor, self._folder.path, self._sockets, self._pids),
                asyncio.to_thread(importlib.import_module, "placeos.store.seed"),  # takes as long
            )
            return engines

    async def _prepare_database(self, engines: Engines) -> str:
        """Tables, the domain, the administrator and our own API key, which is returned.

        One domain is enough for all `--host` names: an unknown name means the only domain.
        """
        from placeos.store import Database, migrate
        from placeos.store.seed import ensure_first_user, new_api_key

        with self._view.step("Database"):
            await asyncio.to_thread(migrate, engines.database_url)
            api_key = secrets.read(self._folder.secrets, secrets.API_KEY)
            if api_key is None:
                api_key = secrets.keep(self._folder.secrets, secrets.API_KEY, new_api_key())
            database = Database(engines.database_url)
            await database.connect()
            try:
                await ensure_first_user(
                    database,
                    DOMAIN,
                    EMAIL,
                    secrets.administrator_password(self._folder.secrets),
                    api_key=api_key,
                    key_name="placeos up",
                )
            finally:
                await database.close()
            return api_key

    async def _start_services(self, engines: Engines, addresses: Addresses) -> None:
        specs = service_specs(self._folder, engines, addresses)
        with self._view.step("Services and front door"):
            door = ingress_spec(self._folder, addresses, port=self._port, hosts=self._options.hosts)
            await self.supervisor.start(*specs, door, *self._devices())

    def _devices(self) -> list[ProcessSpec]:
        if not self._options.demo:
            return []
        from placeos.local.demo.processes import processes

        return processes(self._folder.path)

    async def _build_demo(self, url: str, api_key: str) -> None:
        from placeos.local.demo.build import build

        with self._view.step("Demo building") as report:
            await build(url, api_key, self._folder.path, report=report)

    # -- changes

    def _on_change(self) -> None:
        self._pids.clear()
        self._pids.update(self.supervisor.pids())
        self._changed.set()
        self._write_ready_file()

    def _write_ready_file(self) -> None:
        file = self._options.ready_file
        if file is not None and self._ready is not None:
            text = msgspec.json.format(msgspec.json.encode(self._ready))
            try:
                secrets.write_private(file.absolute(), text)
            except OSError as error:  # a full disk ends nothing that runs
                self._view.event(f"{file} cannot be written: {error.strerror or error}")


def address(port: int) -> str:
    """The front door on this machine."""
    return f"http://localhost:{port}"


@contextlib.contextmanager
def _signals(supervisor: Supervisor, view: View) -> Iterator[None]:
    """The first SIGINT, SIGTERM or SIGHUP cancels this task, a later one kills everything.

    One Ctrl-C may arrive twice (from the terminal and from `make`): that counts as one.
    """
    task = asyncio.current_task()
    assert task is not None
    loop = asyncio.get_running_loop()
    first: float | None = None

    def on_signal() -> None:
        nonlocal first
        if first is None:
            first = loop.time()
            view.event("Stopping …")
            task.cancel()
        elif loop.time() - first > _ONE_KEYSTROKE:
            supervisor.kill()

    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    for number in numbers:
        loop.add_signal_handler(number, on_signal)
    try:
        yield
    finally:
        for number in numbers:
            loop.remove_signal_handler(number)


def expected_errors() -> tuple[type[Exception], ...]:
    """What may go wrong in ways that are no defect of ours: their messages are for people."""
    from placeos.local.demo.build import BuildError

    return (
        FolderTakenError,
        PortTakenError,
        ReadyFileError,
        StartFailedError,
        PostgresError,
        EngineMissingError,
        BuildError,
        OSError,
    )
