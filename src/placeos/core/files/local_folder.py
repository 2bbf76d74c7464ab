"""Repositories that are folders of this machine: watched, their content is their version."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import os
import stat
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from watchfiles import Change, awatch

from placeos.core.files.listing import holds_driver
from placeos.core.files.sources import HEAD, MAX_FILE, NotThere, Order, RepositoryError, inside
from placeos.model.driver import UpdateInfo
from placeos.wire.repositories import Commit

log = logging.getLogger("placeos.core")

MAX_FILES: Final = 20_000  # files looked at in one folder
LOOK: Final = 1.0  # seconds between looks whether the folder is still the same one
DEBOUNCE: Final = 100  # milliseconds in which edits are taken together
SETTLED: Final = 0.05  # seconds without a change after which a file counts as written
PATIENCE: Final = 0.5  # seconds given to a file that is empty or being written
ENDINGS: Final = (".py", ".py.lock")
SKIPPED: Final = frozenset({".git", "__pycache__", ".venv", "node_modules"})


class LocalFolder:
    """One folder. The owner runs `run()`; `on_change()` whenever a Python file in it changed.

    Commits are hashes of all Python files in it; whichever is asked for, the file as it is now
    is read.
    """

    immutable = False

    def __init__(self, repository: Path, root: Path, on_change: Callable[[], None]) -> None:
        self._repository = repository
        self._root = root
        self._on_change = on_change
        self.problem: str | None = None

    async def run(self) -> None:
        """Watch until cancelled, through a folder that vanishes or becomes another one."""
        while True:
            seen = await asyncio.to_thread(_identity, self._root)
            if seen is not None:
                try:
                    await self._watch(seen)
                except (OSError, RuntimeError) as error:
                    extra = {"path": str(self._root), "reason": str(error)}
                    log.warning("folder not watched", extra=extra)
                self._on_change()
            await asyncio.sleep(LOOK)

    async def _watch(self, seen: tuple[int, int]) -> None:
        watch = awatch(
            self._root,
            watch_filter=_is_of_interest,
            debounce=DEBOUNCE,
            step=20,
            rust_timeout=int(LOOK * 1000),
            yield_on_timeout=True,
            recursive=True,
        )
        new = True
        async for changes in watch:
            if changes or new:  # what changed before the watch stood is seen now
                new = False
                self._on_change()
            elif await asyncio.to_thread(_identity, self._root) != seen:
                return  # gone, or a link that leads elsewhere now

    # -- Source ---------------------------------------------------------------------------------

    async def prepare(self, order: Order) -> None:
        """There is nothing to fetch. Raises RepositoryError without a folder."""
        if not await asyncio.to_thread(self._root.is_dir):
            raise RepositoryError(f"{self._root}: there is no such folder")

    async def deployed(self) -> str:
        """40 hex digits that change with any Python file. Sets `problem`."""
        found, self.problem = await asyncio.to_thread(folder_hash, self._root)
        return found

    async def commit(self, name: str) -> str:
        """A folder has one commit: as it is."""
        return HEAD

    async def read(self, commit: str, file: str) -> bytes:
        """A file, when nobody is writing it any more."""
        loop = asyncio.get_running_loop()
        until = loop.time() + PATIENCE
        while True:
            content, age = await asyncio.to_thread(read_file, self._root, file)
            if (content.strip() and age >= SETTLED) or loop.time() >= until:
                return content
            await asyncio.sleep(SETTLED)

    async def update(self, pinned: str, file: str) -> UpdateInfo | None:
        """Drivers of a folder always are the newest."""
        return None

    async def drivers(self) -> list[str]:
        """Files with a driver, relative to the root path."""
        return await asyncio.to_thread(_drivers, self._root)

    async def folders(self) -> list[str]:
        """All folders, relative to the repository."""
        return await asyncio.to_thread(_folders, self._repository)

    async def commits(self, branch: str, file: str, limit: int) -> list[Commit]:
        """The folder as it is, as the only commit. With `file`, dated by that file."""
        target = self._root / inside(file) if file else self._root
        try:
            changed = (await asyncio.to_thread(target.stat)).st_mtime
        except OSError as error:
            raise NotThere(f"{file}: {error.strerror}") from error
        date = datetime.fromtimestamp(int(changed), UTC).isoformat()
        subject = f"The files in {self._root} as they are"
        return [Commit(await self.deployed(), date, "", subject)][:limit]

    async def branches(self) -> list[str]:
        """None."""
        return []

    async def tags(self) -> list[str]:
        """None."""
        return []

    async def default_branch(self) -> str:
        """A folder has no branches: the name that stands for none in particular."""
        return HEAD

    def due(self) -> float | None:
        """Never: changes tell of themselves."""
        return None


def _is_of_interest(_: Change, path: str) -> bool:
    return path.endswith(ENDINGS) and SKIPPED.isdisjoint(Path(path).parts)


def _identity(root: Path) -> tuple[int, int] | None:
    try:
        found = root.stat()
    except OSError:
        return None
    return (found.st_dev, found.st_ino) if stat.S_ISDIR(found.st_mode) else None


def _python_files(root: Path) -> Iterator[tuple[str, Path]]:
    """Relative name and path of each. Raises RepositoryError when there are too many."""
    files = 0
    for folder, folders, names in os.walk(root):
        folders[:] = sorted(name for name in folders if name not in SKIPPED)
        for name in sorted(names):
            if name.endswith(ENDINGS):
                files += 1
                if files > MAX_FILES:
                    raise RepositoryError(f"{root}: more than {MAX_FILES} Python files")
                path = Path(folder, name)
                yield str(path.relative_to(root)), path


def folder_hash(root: Path) -> tuple[str, str | None]:
    """40 hex digits that change with any Python file below a folder, and what is wrong.

    Files that cannot be read are named, not fatal. Raises RepositoryError.
    """
    if not root.is_dir():
        raise RepositoryError(f"{root}: there is no such folder")
    digest = hashlib.sha256()
    unreadable: list[str] = []
    for name, path in _python_files(root):
        try:
            content, _ = _read(path)
        except FileNotFoundError:
            continue  # it is being replaced; its next change is seen as well
        except OSError as error:
            unreadable.append(f"{name}: {error.strerror or error}")
            content = b""
        digest.update(name.encode("utf-8", "surrogateescape") + b"\0")
        digest.update(hashlib.sha256(content).digest())
    problem = f"cannot read {'; '.join(unreadable[:5])}" if unreadable else None
    return digest.hexdigest()[:40], problem


def read_file(root: Path, name: str) -> tuple[bytes, float]:
    """Content of a file and the seconds since it changed.

    Raises RepositoryError when it cannot be read or lies outside of the folder.
    """
    try:
        resolved = Path(root, name).resolve(strict=True)
        if not resolved.is_relative_to(root.resolve()):
            raise RepositoryError(f"{name}: lies outside of the repository")
        content, changed = _read(resolved)
    except FileNotFoundError as error:
        raise NotThere(f"{name}: {error.strerror}") from error
    except OSError as error:
        raise RepositoryError(f"{name}: {error.strerror or error}") from error
    except (ValueError, RuntimeError) as error:  # a NUL in the name, a loop of links
        raise RepositoryError(f"{name!r}: {error}") from error
    if len(content) > MAX_FILE:
        raise RepositoryError(f"{name}: is larger than {MAX_FILE} bytes")
    return content, time.time() - changed


def _read(path: Path) -> tuple[bytes, float]:
    """At most MAX_FILE + 1 bytes, and the time of the last change. Raises OSError.

    Waits for nobody: what is no regular file (a pipe, a device) is not read.
    """
    with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb") as file:
        about = os.fstat(file.fileno())
        if not stat.S_ISREG(about.st_mode):
            raise OSError("is not a file")
        return file.read(MAX_FILE + 1), about.st_mtime


def _drivers(root: Path) -> list[str]:
    found = []
    for name, path in _python_files(root):
        try:
            content, _ = read_file(root, name)
        except RepositoryError as error:
            log.info("file not listed", extra={"path": str(path), "reason": str(error)})
            continue
        if holds_driver(name, content):
            found.append(name)
    return sorted(found)


def _folders(root: Path) -> list[str]:
    found: list[str] = []
    for folder, folders, _ in os.walk(root):
        folders[:] = sorted(name for name in folders if name not in SKIPPED)
        found.extend(str(Path(folder, name).relative_to(root)) for name in folders)
        if len(found) > MAX_FILES:
            raise RepositoryError(f"{root}: more than {MAX_FILES} folders")
    return sorted(found)
