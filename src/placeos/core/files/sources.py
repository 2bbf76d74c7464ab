"""What repositories of all kinds have in common: the errors, and what a source can do."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Protocol

from placeos.model.driver import UpdateInfo
from placeos.model.repository import Repository
from placeos.wire.repositories import Commit

MAX_FILE = 5 * 1024 * 1024  # bytes of one driver file
HEAD = "HEAD"
"""As a commit: that of the repository; as a branch: the one its server calls the default."""


class RepositoryError(Exception):
    """A repository or a driver's file cannot be used; the message says why."""


class NotThere(RepositoryError):
    """There is no such file, commit or branch."""


@dataclass(frozen=True, slots=True)
class Order:
    """What a source should have at hand.

    `leads`: this core decides which commit is deployed, others follow the record.
    `pull`: somebody waits for the newest. `pins`: commits that drivers name.
    """

    repository: Repository
    leads: bool
    pull: bool
    pins: frozenset[str]


class Source(Protocol):
    """Where the files of one repository come from. Methods raise RepositoryError."""

    immutable: bool
    """Whether a file at one commit never changes."""
    problem: str | None
    """What is wrong although files can be read."""

    async def prepare(self, order: Order) -> None:
        """Have everything at hand that was ordered."""

    async def deployed(self) -> str:
        """The commit that `HEAD` means: 40 or 64 hex digits."""

    async def commit(self, name: str) -> str:
        """The full hash of `HEAD`, a hash, the beginning of one, or a tag."""

    async def read(self, commit: str, file: str) -> bytes:
        """A file below the root path, at most MAX_FILE bytes."""

    async def update(self, pinned: str, file: str) -> UpdateInfo | None:
        """The newest commit of a file if it differs from, and follows, the pinned one."""

    async def drivers(self) -> list[str]:
        """Files with a driver, relative to the root path."""

    async def folders(self) -> list[str]:
        """All folders, relative to the repository."""

    async def commits(self, branch: str, file: str, limit: int) -> list[Commit]:
        """The newest commits of a branch (empty: what is deployed), or of one file on it."""

    async def branches(self) -> list[str]:
        """Names of all branches."""

    async def tags(self) -> list[str]:
        """Names of all tags."""

    async def default_branch(self) -> str:
        """The branch that its server names."""

    def due(self) -> float | None:
        """Loop time at which `prepare` should be called again by itself."""


def inside(*parts: str) -> str:
    """A path in a repository from its parts. Raises RepositoryError if it leads outside."""
    names: list[str] = []
    for part in parts:
        if "\0" in part or "\n" in part:
            raise RepositoryError(f"{part!r}: is no name of a file")
        if part.startswith("/") or ".." in PurePosixPath(part).parts:
            raise RepositoryError(f"{part}: lies outside of the repository")
        names.extend(name for name in PurePosixPath(part).parts if name != ".")
    return "/".join(names)


def below(root: str, files: Collection[str]) -> list[str]:
    """Those files that lie below a folder, relative to it, sorted."""
    prefix = f"{root}/" if root else ""
    return sorted(file.removeprefix(prefix) for file in files if file.startswith(prefix))


async def read_lock(source: Source, commit: str, file: str) -> bytes | None:
    """The lock of the packages of a driver that lies beside its file; None without one."""
    try:
        return await source.read(commit, f"{file}.lock")
    except NotThere:
        return None
