"""Where driver files come from: local folders, watched; each content is a version.

A driver's file is copied into the data folder before it runs, under the hash of its content:
what runs never changes under it, and two edits of one file are two versions. Git repositories
are not served yet; such a record is told so.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import os
import shutil
from collections.abc import Callable, Container, Iterable
from pathlib import Path
from typing import Final
from urllib.parse import unquote, urlsplit

from watchfiles import Change, awatch

from placeos.core.processes import Version
from placeos.core.reports import Reports
from placeos.model.driver import Driver
from placeos.model.repository import Repository, RepositoryType

log = logging.getLogger("placeos.core")

MAX_FILE: Final = 5 * 1024 * 1024  # bytes of one driver file
MAX_FILES: Final = 20_000  # files looked at for a repository's hash
KEEP: Final = 5  # versions of each driver kept on disk besides those in use
RETRY: Final = 5.0  # seconds before a folder that is missing is looked for again
DEBOUNCE: Final = 100  # milliseconds in which edits are taken together
SKIPPED: Final = frozenset({".git", "__pycache__", ".venv", "node_modules"})


class RepositoryError(Exception):
    """A repository or a driver's file cannot be used; the message says why."""


class Repositories:
    """Versions of all drivers whose files are at hand. The owner runs `run()`.

    `on_version(driver, version)` when a driver's file differs from before. What cannot be
    read any more leaves the last version in place and is reported; `on_problem(driver)`.
    """

    def __init__(
        self,
        folder: Path,
        drivers: dict[str, Driver],
        repositories: dict[str, Repository],
        reports: Reports,
        on_version: Callable[[str, Version], None],
        on_problem: Callable[[str], None],
        in_use: Callable[[], frozenset[Path]],
    ) -> None:
        self._on_problem = on_problem
        self._in_use = in_use
        self._folder = folder
        self._drivers = drivers
        self._repositories = repositories
        self._reports = reports
        self._on_version = on_version
        self._watching: dict[str, tuple[str, asyncio.Task[None]]] = {}
        self._touched: set[str] = set()
        self._wake = asyncio.Event()
        self._tasks: asyncio.TaskGroup | None = None
        self.versions: dict[str, Version] = {}
        self.problems: dict[str, str] = {}
        """Drivers whose file cannot be used at present, and why."""

    def look(self, repositories: Iterable[str]) -> None:
        """Records of these repositories, or of drivers in them, changed."""
        self._touched.update(repositories)
        if self._touched:
            self._wake.set()

    async def run(self) -> None:
        """Watch and copy until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            self._tasks = tasks
            while True:
                await self._wake.wait()
                self._wake.clear()
                touched, self._touched = self._touched, set()
                for repository in touched:
                    self._watch(repository)
                    await self._refresh(repository)

    # -- one repository -------------------------------------------------------------------------

    def _watch(self, repository_id: str) -> None:
        """Follow the folder of a repository, and no longer the one it had before."""
        repository = self._repositories.get(repository_id)
        root = _root(repository) if repository is not None else None
        present = self._watching.get(repository_id)
        if present is not None and (root is None or present[0] != str(root)):
            present[1].cancel()
            del self._watching[repository_id]
            present = None
        if root is not None and present is None and self._tasks is not None:
            task = self._tasks.create_task(self._follow(repository_id, root))
            self._watching[repository_id] = (str(root), task)

    async def _follow(self, repository_id: str, root: Path) -> None:
        """Look again whenever something in the folder changes."""
        while True:
            try:
                if await asyncio.to_thread(root.is_dir):
                    self.look([repository_id])
                    watch = awatch(
                        root,
                        watch_filter=_is_of_interest,
                        debounce=DEBOUNCE,
                        step=20,
                        rust_timeout=1000,
                        recursive=True,
                    )
                    async for _ in watch:
                        self.look([repository_id])
            except (OSError, RuntimeError) as error:
                log.warning("folder not watched", extra={"id": repository_id, "reason": str(error)})
            await asyncio.sleep(RETRY)
            self.look([repository_id])

    async def _refresh(self, repository_id: str) -> None:
        """Bring the versions of a repository's drivers up to what lies in its folder."""
        repository = self._repositories.get(repository_id)
        if repository is None or repository.repo_type != RepositoryType.DRIVER:
            return
        try:
            root = _root(repository)
            if root is None:
                scheme = urlsplit(repository.uri).scheme
                raise RepositoryError(
                    f"repositories by {scheme} are not served yet, only local folders (file://…)"
                )
            deployed = await asyncio.to_thread(folder_hash, root)
        except RepositoryError as error:
            log.warning("repository unusable", extra={"id": repository_id, "reason": str(error)})
            self._reports.repository(repository_id, repository.deployed_commit_hash, str(error))
            for driver in self._drivers.values():
                if driver.repository_id == repository_id:
                    self._problem(driver.id, f"its repository cannot be used: {error}")
            return
        for driver in list(self._drivers.values()):
            if driver.repository_id == repository_id:
                await self._refresh_driver(root, driver)
        self._reports.repository(repository_id, deployed, None)

    def _problem(self, driver: str, reason: str) -> None:
        if self.problems.get(driver) != reason:
            self.problems[driver] = reason
            self._on_problem(driver)

    async def _refresh_driver(self, root: Path, driver: Driver) -> None:
        try:
            key, path = await asyncio.to_thread(
                snapshot, root, driver.file_name, self._folder / driver.id, self._in_use()
            )
        except RepositoryError as error:
            log.warning("driver file unusable", extra={"id": driver.id, "reason": str(error)})
            self._problem(driver.id, str(error))
            self._reports.driver_output(driver.id, str(error))
            return
        self.problems.pop(driver.id, None)
        version = Version(f"{driver.id}@{key}", driver.id, path, driver.file_name)
        if self.versions.get(driver.id) != version:
            self.versions[driver.id] = version
            self._on_version(driver.id, version)


def _root(repository: Repository) -> Path | None:
    """The folder of a local repository; None for a remote one."""
    parts = urlsplit(repository.uri)
    if parts.scheme != "file" or repository.repo_type != RepositoryType.DRIVER:
        return None
    root = Path(unquote(parts.path))
    return root / repository.root_path if repository.root_path else root


def _is_of_interest(_: Change, path: str) -> bool:
    parts = Path(path).parts
    return path.endswith(".py") and SKIPPED.isdisjoint(parts)


def folder_hash(root: Path) -> str:
    """40 hex digits that change with any Python file below a folder. Raises RepositoryError."""
    if not root.is_dir():
        raise RepositoryError(f"{root}: there is no such folder")
    digest = hashlib.sha256()
    files = 0
    for folder, folders, names in os.walk(root):
        folders[:] = sorted(name for name in folders if name not in SKIPPED)
        for name in sorted(names):
            if not name.endswith(".py"):
                continue
            files += 1
            if files > MAX_FILES:
                raise RepositoryError(f"{root}: more than {MAX_FILES} Python files")
            path = Path(folder, name)
            try:
                content = path.read_bytes()
            except OSError:
                continue  # it is being replaced; its next change is seen as well
            digest.update(str(path.relative_to(root)).encode("utf-8", "surrogateescape") + b"\0")
            digest.update(hashlib.sha256(content).digest())
    return digest.hexdigest()[:40]


def snapshot(
    root: Path, file_name: str, folder: Path, in_use: Container[Path] = ()
) -> tuple[str, Path]:
    """Copy a driver's file under the hash of its content: hash and path of the copy.

    Old copies that are not in use are removed. Raises RepositoryError when it cannot be read
    or lies outside of the repository.
    """
    source = Path(root, file_name)
    try:
        resolved = source.resolve(strict=True)
        if not resolved.is_relative_to(root.resolve()):
            raise RepositoryError(f"{file_name}: lies outside of the repository")
        if resolved.stat().st_size > MAX_FILE:
            raise RepositoryError(f"{file_name}: is larger than {MAX_FILE} bytes")
        content = resolved.read_bytes()
    except OSError as error:
        raise RepositoryError(f"{file_name}: {error.strerror or error}") from error
    except ValueError as error:  # a NUL in the name
        raise RepositoryError(f"{file_name!r}: {error}") from error
    key = hashlib.sha256(content).hexdigest()[:16]
    target = folder / key / source.name
    try:
        if not target.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            partial = target.with_name(f".{source.name}.partial")
            partial.write_bytes(content)
            partial.replace(target)
            _forget_old(folder, target.parent, in_use)
        else:
            os.utime(target.parent)  # the newest are kept
    except OSError as error:
        raise RepositoryError(f"cannot copy {file_name} to {folder}: {error.strerror}") from error
    return key, target


def _forget_old(folder: Path, newest: Path, in_use: Container[Path]) -> None:
    """Remove all but the latest versions and those that run."""
    versions = sorted(
        (path for path in folder.iterdir() if path != newest and path not in in_use),
        key=lambda path: path.stat().st_mtime,
        reverse=True,
    )
    for old in versions[KEEP:]:
        shutil.rmtree(old, ignore_errors=True)  # with the bytecode beside it; or the next time
