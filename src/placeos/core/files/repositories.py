"""Where driver files come from: local folders, watched, and git repositories, fetched.

A driver's file is copied into the data folder before it runs, under the hash of its content
(`snapshots`). One task per repository keeps its drivers at what is wanted.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path, PurePosixPath
from typing import Final
from urllib.parse import unquote

import msgspec

from placeos.core.files import mirror as mirrors
from placeos.core.files import snapshots
from placeos.core.files.git import Git, address_parts, remote
from placeos.core.files.git_source import GitSource
from placeos.core.files.keeper import Keeper
from placeos.core.files.local_folder import LocalFolder
from placeos.core.files.mirror import Damaged, Mirror
from placeos.core.files.sources import (
    HEAD,
    NotThere,
    Order,
    RepositoryError,
    Source,
    inside,
    read_lock,
)
from placeos.core.jobs import Jobs
from placeos.core.process.processes import Version
from placeos.core.reports import Reports
from placeos.model.driver import RECOMPILE, Driver
from placeos.model.repository import Repository, RepositoryType
from placeos.model.secrecy import Unreadable, decrypt
from placeos.model.settings import EncryptionLevel
from placeos.store import Unavailable

log = logging.getLogger("placeos.core")

REPAIR: Final = 1.0  # seconds before a damaged copy is fetched anew
MARK_STAYS: Final = 1.0  # seconds for which every core can see the mark of a rebuild
RECORD_TIMEOUT: Final = 2.0  # seconds for a record that was just made to arrive here


class Host(msgspec.Struct):
    """What repositories need of the core they are part of."""

    drivers: dict[str, Driver]
    repositories: dict[str, Repository]
    read: Callable[[str], Awaitable[Repository | None]]
    """The record of a repository as it is stored now. Raises Unavailable."""
    reports: Reports
    jobs: Jobs
    git: Git
    folder: Path
    """Where copies of driver files lie."""
    secret: bytes
    poll: float
    """Seconds between two fetches of a git repository."""
    owns: Callable[[str], bool]
    """Whether a repository or driver is this core's to report on."""
    on_version: Callable[[str, Version], None]
    """A driver's file differs from before."""
    on_problem: Callable[[str], None]
    """A driver's file cannot be had; what was there before stays."""
    in_use: Callable[[], frozenset[Path]]
    fault: Callable[[str], str | None]
    """Why a version could not be loaded, if that is so."""


class Repositories:
    """Versions of all drivers whose files are at hand. The owner runs `run()`."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._keepers: dict[str, Keeper] = {}
        self._touched: set[str] = set()
        self._wake = asyncio.Event()
        self._tasks: asyncio.TaskGroup | None = None
        self._taken: dict[str, tuple[str, str, str]] = {}  # driver → what its version came from
        self._rebuilt: dict[str, int] = {}  # driver → rebuilds that were asked for
        self._marked: set[str] = set()
        self.versions: dict[str, Version] = {}
        self.problems: dict[str, str] = {}
        """Drivers whose file cannot be used at present, and why."""

    def look(self, repositories: Iterable[str]) -> None:
        """Records of these repositories, or of drivers in them, changed, or who owns them."""
        self._touched.update(repositories)
        if self._touched:
            self._wake.set()

    async def run(self) -> None:
        """Watch, fetch and copy until cancelled."""
        git = self._host.git
        await git.prepare()
        await self._wake.wait()  # all records are known
        known = set(self._host.repositories)
        await asyncio.to_thread(mirrors.forget, git.folder / "mirrors", known)
        async with asyncio.TaskGroup() as tasks:
            self._tasks = tasks
            while True:
                await self._wake.wait()
                self._wake.clear()
                touched, self._touched = self._touched, set()
                for repository in touched:
                    keeper = self._keepers.get(repository)
                    if keeper is None:
                        if self._record(repository) is not None:
                            self._keepers[repository] = keeper = Keeper()
                            work = self._keep(repository, keeper)
                            keeper.task = tasks.create_task(work, name=repository)
                    elif self._record(repository) is None and keeper.task is not None:
                        keeper.task.cancel()  # whatever it fetches, nobody wants it any more
                    else:
                        keeper.wake.set()

    async def pull(self, repository: str) -> str:
        """Fetch what is newest; the commit deployed then. Raises RepositoryError."""
        keeper = await self._keeper(repository)
        await self._see_newest(repository)
        future: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        keeper.pulls.append(future)
        keeper.wake.set()
        return await future

    async def source(self, repository: str) -> Source:
        """The source of a repository, prepared. Raises RepositoryError."""
        keeper = await self._keeper(repository)
        await self._see_newest(repository)
        while keeper.looked_for != (wanted := _what_counts(self._record(repository))):
            if not wanted:
                raise NotThere("the repository is gone")
            keeper.looked.clear()
            await keeper.looked.wait()
        if keeper.source is None or keeper.error is not None:
            raise RepositoryError(keeper.error or "the repository cannot be used")
        return keeper.source

    def built(self, driver: str) -> None:
        """A driver's newest version was loaded, or could not be: a rebuild is over."""
        record = self._host.drivers.get(driver)
        if driver not in self._marked or record is None or not self._host.owns(driver):
            return
        bare = record.commit.removeprefix(RECOMPILE)
        report = self._host.reports.driver_commit
        asyncio.get_running_loop().call_later(MARK_STAYS, report, driver, record.commit, bare)

    def _record(self, repository: str) -> Repository | None:
        record = self._host.repositories.get(repository)
        return record if record is not None and record.repo_type == RepositoryType.DRIVER else None

    async def _keeper(self, repository: str) -> Keeper:
        until = asyncio.get_running_loop().time() + RECORD_TIMEOUT
        while repository not in self._keepers:
            if asyncio.get_running_loop().time() > until:
                raise NotThere(f"core knows no repository of drivers {repository!r}")
            await asyncio.sleep(0.02)
        return self._keepers[repository]

    async def _see_newest(self, repository: str) -> None:
        """Wait for a change of the record whose notification is still on its way."""
        try:
            newest = await self._host.read(repository)
        except Unavailable:
            return
        until = asyncio.get_running_loop().time() + RECORD_TIMEOUT
        while _what_counts(self._host.repositories.get(repository)) != _what_counts(newest):
            if asyncio.get_running_loop().time() > until:
                return
            await asyncio.sleep(0.02)

    # -- one repository -------------------------------------------------------------------------

    async def _keep(self, repository_id: str, keeper: Keeper) -> None:
        """Look whenever there is a reason, until the record is gone."""
        try:
            while (repository := self._record(repository_id)) is not None:
                keeper.wake.clear()
                keeper.served, keeper.pulls = keeper.pulls, []
                await self._refresh(repository, keeper, pull=bool(keeper.served))
                keeper.answer()
                due = keeper.source.due() if keeper.source is not None else None
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout_at(due):
                        await keeper.wake.wait()
        finally:
            keeper.leave()
            keeper.looked.set()
            for future in (*keeper.served, *keeper.pulls):
                if not future.done():
                    future.set_exception(NotThere("the repository is gone"))
            del self._keepers[repository_id]
            if self._record(repository_id) is None:
                await self._mirror(repository_id).remove()

    def _mirror(self, repository_id: str) -> Mirror:
        git = self._host.git
        return Mirror(git.folder / "mirrors" / repository_id, git)

    async def _refresh(self, repository: Repository, keeper: Keeper, *, pull: bool) -> None:
        """Bring the versions of a repository's drivers up to what is wanted."""
        drivers = [one for one in self._host.drivers.values() if one.repository_id == repository.id]
        leads = self._host.owns(repository.id)
        wanted = {one.commit.removeprefix(RECOMPILE) for one in drivers} - {HEAD}
        order = Order(repository, leads or pull, pull, frozenset(wanted))
        deployed = repository.deployed_commit_hash
        try:
            source = await self._source(repository, keeper)
            await source.prepare(order)
            await self._refresh_drivers(source, drivers, leads=leads)
            deployed = keeper.commit = await source.deployed()
            keeper.error, problem = None, source.problem
        except Damaged as error:
            log.warning("copy damaged", extra={"id": repository.id, "reason": str(error)})
            keeper.error = problem = str(error)
            asyncio.get_running_loop().call_later(REPAIR, keeper.wake.set)  # it is fetched anew
        except (RepositoryError, OSError, ValueError) as error:
            # Whatever a record or this disk brings: other repositories go on, and so does core.
            log.warning("repository unusable", extra={"id": repository.id, "reason": str(error)})
            keeper.error = problem = str(error)
            for driver in drivers:
                self._problem(driver.id, f"its repository cannot be used: {error}")
        keeper.looked_for = _what_counts(repository)
        keeper.looked.set()
        if leads or pull:
            self._host.reports.repository(repository.id, deployed, problem)

    async def _source(self, repository: Repository, keeper: Keeper) -> Source:
        """The source of a record; another one when it says another place."""
        try:
            root = await asyncio.to_thread(folder_of, repository.uri)
            place: object = root or (repository.uri, repository.username, repository.password)
            place = (place, repository.root_path if root else None)
            if keeper.source is None or keeper.place != place:
                keeper.leave()
                keeper.source = self._new_source(repository, keeper, root)
                keeper.place = place
        except RepositoryError:
            keeper.leave()
            raise
        return keeper.source

    def _new_source(self, repository: Repository, keeper: Keeper, root: Path | None) -> Source:
        host = self._host
        if root is not None:
            files = root / inside(repository.root_path or "")
            folder = LocalFolder(root, files, keeper.wake.set)
            if self._tasks is not None:
                keeper.watch = self._tasks.create_task(folder.run(), name=f"watch {root}")
            return folder
        password = self._password(repository)
        address = remote(repository.uri, repository.username or "", password, host.git.protocols)
        mirror = self._mirror(repository.id)
        return GitSource(address, mirror, host.git, host.jobs, host.poll)

    def _password(self, repository: Repository) -> str:
        try:
            return decrypt(
                repository.password or "",
                secret=self._host.secret,
                parent_id=repository.id,
                level=EncryptionLevel.NEVER_DISPLAY,
            )
        except Unreadable as error:
            raise RepositoryError("its password cannot be decrypted; enter it again") from error

    # -- drivers --------------------------------------------------------------------------------

    async def _refresh_drivers(self, source: Source, drivers: list[Driver], *, leads: bool) -> None:
        """All of them side by side, so that none waits for a file that is being written."""
        work = (self._refresh_driver(source, driver, leads=leads) for driver in drivers)
        for outcome in await asyncio.gather(*work, return_exceptions=True):
            if isinstance(outcome, BaseException):
                raise outcome

    async def _refresh_driver(self, source: Source, driver: Driver, *, leads: bool) -> None:
        try:
            rebuilt = self._rebuilds(driver)
            commit = await source.commit(driver.commit.removeprefix(RECOMPILE))
            taken = (driver.repository_id, commit, driver.file_name)
            before = self.versions.get(driver.id)
            if (
                source.immutable
                and self._taken.get(driver.id) == taken
                and before is not None
                and driver.id not in self.problems
                and not rebuilt
            ):
                key, path = before.key.partition("@")[2].partition(".")[0], before.path
            else:
                content = await source.read(commit, driver.file_name)
                lock = await read_lock(source, commit, driver.file_name)
                key, path = await self._store(driver, content, lock)
        except Damaged:
            raise
        except RepositoryError as error:
            log.warning("driver file unusable", extra={"id": driver.id, "reason": str(error)})
            self._problem(driver.id, str(error))
            if leads:
                self._host.reports.driver_output(driver.id, str(error))
            self.built(driver.id)
            return
        self._taken[driver.id] = taken
        self._found(driver, key, path, leads=leads)
        if leads:
            await self._tell_of_update(source, driver)

    async def _store(self, driver: Driver, content: bytes, lock: bytes | None) -> tuple[str, Path]:
        name = PurePosixPath(driver.file_name).name
        folder = self._host.folder / driver.id
        in_use = self._host.in_use()
        return await asyncio.to_thread(snapshots.store, content, lock, name, folder, in_use)

    def _found(self, driver: Driver, key: str, path: Path, *, leads: bool) -> None:
        recovered = self.problems.pop(driver.id, None) is not None
        builds = self._rebuilt.get(driver.id, 0)
        name = f"{driver.id}@{key}.{builds}" if builds else f"{driver.id}@{key}"
        version = Version(name, driver.id, path, driver.file_name)
        if self.versions.get(driver.id) != version:
            self.versions[driver.id] = version
            self._host.on_version(driver.id, version)
        elif recovered and leads:
            self._host.reports.driver_output(driver.id, self._host.fault(name))

    def _rebuilds(self, driver: Driver) -> bool:
        """Whether a rebuild was asked for that did not begin yet."""
        if not driver.commit.startswith(RECOMPILE):
            self._marked.discard(driver.id)
            return False
        if driver.id in self._marked:
            return False
        self._marked.add(driver.id)
        self._rebuilt[driver.id] = self._rebuilt.get(driver.id, 0) + 1
        return True

    async def _tell_of_update(self, source: Source, driver: Driver) -> None:
        commit = driver.commit.removeprefix(RECOMPILE)
        try:
            info = await source.update(commit, driver.file_name) if commit != HEAD else None
        except Damaged:
            raise
        except RepositoryError as error:
            log.warning("no look for updates", extra={"id": driver.id, "reason": str(error)})
            return
        if (driver.update_available, driver.update_info) != (info is not None, info):
            self._host.reports.driver_update(driver.id, info)

    def _problem(self, driver: str, reason: str) -> None:
        if self.problems.get(driver) != reason:
            self.problems[driver] = reason
            self._host.on_problem(driver)


def _what_counts(record: Repository | None) -> tuple[object, ...]:
    """The fields that say what is to be fetched."""
    if record is None:
        return ()
    names = ("uri", "branch", "commit_hash", "release", "username", "password", "root_path")
    return tuple(getattr(record, name) for name in names)


def folder_of(uri: str) -> Path | None:
    """The local folder that a URI names; None: it is a git repository.

    A `file:` URI is one if it ends in `.git` or leads to a bare repository; a working copy is a
    folder like any other. Looks at the file system. Raises RepositoryError when it is no URI.
    """
    parts = address_parts(uri)
    if parts.scheme != "file":
        return None
    path = Path(unquote(parts.path))
    try:
        bare = path.suffix == ".git" or ((path / "HEAD").is_file() and (path / "objects").is_dir())
    except OSError as error:  # no right to look, or a name that is too long
        raise RepositoryError(f"{path}: {error.strerror}") from error
    return None if bare else path
