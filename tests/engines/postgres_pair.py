"""A PostgreSQL primary with a standby on loopback: killed, frozen, promoted, followed anew."""

from __future__ import annotations

import asyncio
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import asyncpg
import psutil
from servers import Program, until

from placeos.local.ports import Ports
from placeos.local.postgres import DATABASE, ROLE, Postgres, programs
from placeos.local.process import base_environment, launcher

PASSWORD = "the password of postgres"


class PostgresServer:
    """One server, on TCP only, that asks for a password."""

    def __init__(self, folder: Path, port: int) -> None:
        folder.mkdir()
        self.port = port
        self._set_up = Postgres(folder / "data", folder / "sockets", durable=False)
        self._log = folder / "log"
        self.program: Program

    @property
    def folder(self) -> Path:
        return self._set_up.folder

    def url(self, database: str = DATABASE) -> str:
        return f"postgresql://{ROLE}:{PASSWORD}@127.0.0.1:{self.port}/{database}"

    def initialise(self) -> None:
        """An empty cluster, of which a standby may be made."""
        self._set_up.set_up()
        rules = "host replication all 127.0.0.1/32 trust\nhost all all 127.0.0.1/32 scram-sha-256\n"
        self._set_up._place("pg_hba.conf", rules)
        self._prepare()
        self._single("postgres", f"alter role {ROLE} password '{PASSWORD}'")
        self._single("postgres", f"create database {DATABASE}")

    def follow(self, primary: PostgresServer) -> None:
        """Become a standby of another server; all that was here is lost."""
        assert not hasattr(self, "program") or not self.program.runs
        shutil.rmtree(self.folder, ignore_errors=True)
        self._set_up._run_as = primary._set_up._run_as
        self.folder.mkdir(mode=0o700)
        self._set_up._own(self.folder, 0o700)
        self._run(
            *(str(programs() / "pg_basebackup"), "-h", "127.0.0.1", "-p", str(primary.port)),
            *("-U", ROLE, "-D", str(self.folder), "-R", "-X", "stream", "-c", "fast"),
        )
        self._prepare()

    def _prepare(self) -> None:
        spec = self._set_up.spec()
        settings = {
            "listen_addresses": "127.0.0.1",
            "port": str(self.port),
            "unix_socket_directories": "",
            "wal_level": "replica",
            "wal_receiver_timeout": "3s",
        }
        options = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
        self.program = Program(
            [*spec.argv, *options],
            self._log,
            env=dict(spec.env),
            run_as=spec.run_as,
            stop_signal=signal.SIGINT,
        )

    async def start(self) -> None:
        """Start it; wait until it answers."""
        (self.folder / "postmaster.pid").unlink(missing_ok=True)
        self.program.start()
        await until(self.answers, timeout=60)

    async def answers(self) -> bool:
        try:
            await self.ask("select 1")
        except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
            return False
        return True

    async def ask(self, sql: str) -> object:
        """The first value of a statement."""
        connection = await asyncpg.connect(self.url(), timeout=2)
        try:
            return await connection.fetchval(sql)
        finally:
            connection.terminate()

    async def promote(self) -> None:
        assert await self.ask("select pg_promote(true, 20)")

    def kill(self) -> None:
        """With all its children, as a power cut would."""
        if hasattr(self, "program") and self.program.runs:
            for process in self._family():
                process.kill()
            self.program.kill()

    def freeze(self) -> None:
        for process in self._family():
            process.suspend()

    def thaw(self) -> None:
        for process in self._family():
            process.resume()

    def _family(self) -> Iterator[psutil.Process]:
        server = psutil.Process(self.program.pid)
        yield server
        yield from server.children(recursive=True)

    def _single(self, database: str, statement: str) -> None:
        """Run a statement without a server (for before the first start)."""
        postgres = str(programs() / "postgres")
        self._run(postgres, "--single", "-D", str(self.folder), database, given=statement)

    def _run(self, *command: str, given: str = "") -> None:
        outcome = subprocess.run(
            [*launcher(run_as=self._set_up._run_as), *command],
            input=given + "\n",
            check=False,
            capture_output=True,
            text=True,
            cwd="/",
            env=base_environment() | self._set_up._environment(),
        )
        assert outcome.returncode == 0, outcome.stderr


class PostgresPair:
    """`servers[0]` is the primary at first."""

    def __init__(self, folder: Path) -> None:
        ports = Ports(folder / "ports.json")
        names = ("postgres-1", "postgres-2")
        self.servers = [PostgresServer(folder / name, ports.take(name)) for name in names]

    @property
    def hosts(self) -> str:
        return ",".join(f"127.0.0.1:{server.port}" for server in self.servers)

    @property
    def url(self) -> str:
        """Without the password."""
        return f"postgresql://{ROLE}@{self.hosts}/{DATABASE}?target_session_attrs=primary"

    async def start(self, *, standby: bool = True) -> None:
        primary, other = self.servers
        await asyncio.to_thread(primary.initialise)
        await primary.start()
        if standby:
            await asyncio.to_thread(other.follow, primary)
            await other.start()

    async def stop(self) -> None:
        for server in self.servers:
            server.kill()
        await asyncio.sleep(0)
