"""REPOSITORY: what can be known of repositories and of the drivers in them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Final

import msgspec

from placeos.core.files import mirror as mirrors
from placeos.core.files.git import Git, Remote, remote
from placeos.core.files.inspection import Inspection, Unloadable
from placeos.core.files.listing import docstring, readme_name, releases
from placeos.core.files.repositories import Repositories, folder_of
from placeos.core.files.sources import HEAD, NotThere, RepositoryError, Source, read_lock
from placeos.core.jobs import JobCancelled
from placeos.wire.errors import CallError, Failure
from placeos.wire.frame import Header
from placeos.wire.messages import DriverDefaults
from placeos.wire.repositories import Commit, RepositoryQuery

log = logging.getLogger("placeos.core")

MAX_COMMITS: Final = 500

Answer = Callable[[RepositoryQuery], Awaitable[object]]


class Catalogue:
    """Answers every core can give. Nothing of a repository runs in core's own process."""

    def __init__(self, repositories: Repositories, git: Git, inspection: Inspection) -> None:
        self._repositories = repositories
        self._git = git
        self._inspection = inspection
        self._answers: dict[str, Answer] = {
            "pull": self._pull,
            "drivers": self._drivers,
            "folders": self._folders,
            "commits": self._commits,
            "branches": self._branches,
            "tags": self._tags,
            "releases": self._releases,
            "default_branch": self._default_branch,
            "details": self._details,
            "readme": self._readme,
        }

    async def answer(self, _: Header, payload: bytes) -> bytes:
        """REPOSITORY. Raises CallError: 400 with the reason, 404, 422 for a driver that cannot
        be loaded."""
        try:
            query = msgspec.json.decode(payload, type=RepositoryQuery)
        except msgspec.MsgspecError as error:
            raise CallError(Failure.BAD_REQUEST, f"unreadable query: {error}") from error
        ask = self._answers.get(query.ask)
        if ask is None:
            raise CallError(Failure.BAD_REQUEST, f"core knows no query {query.ask!r}")
        try:
            return msgspec.json.encode(await ask(query))
        except NotThere as error:
            raise CallError(Failure.BAD_REQUEST, str(error), code=404) from error
        except Unloadable as error:
            raise CallError(Failure.BAD_REQUEST, str(error), code=422) from error
        except (RepositoryError, JobCancelled) as error:
            raise CallError(Failure.BAD_REQUEST, str(error)) from error
        except OSError as error:  # of the disk of this core
            log.warning("query failed", extra={"query": query.ask, "reason": str(error)})
            raise CallError(Failure.BAD_REQUEST, str(error), code=500) from error

    # -- what is stored -------------------------------------------------------------------------

    async def _source(self, query: RepositoryQuery) -> Source:
        return await self._repositories.source(query.repository)

    async def _pull(self, query: RepositoryQuery) -> dict[str, str]:
        return {"commit_hash": await self._repositories.pull(query.repository)}

    async def _drivers(self, query: RepositoryQuery) -> list[str]:
        return await (await self._source(query)).drivers()

    async def _folders(self, query: RepositoryQuery) -> list[str]:
        found = await (await self._source(query)).folders()
        if query.dots:
            return found
        return [path for path in found if not any(one[0] == "." for one in path.split("/"))]

    async def _readme(self, query: RepositoryQuery) -> str:
        """The file beside the driver, or its docstring."""
        source = await self._source(query)
        commit = query.commit or HEAD
        try:
            text = await source.read(commit, readme_name(query.file))
            return text.decode("utf-8", "replace")
        except NotThere:
            content = await source.read(commit, query.file)
        found = await asyncio.to_thread(docstring, content)
        if found is None:
            raise NotThere(f"{query.file} has neither a {readme_name(query.file)} nor a docstring")
        return found

    async def _details(self, query: RepositoryQuery) -> dict[str, object]:
        """All that the driver declares: how modules of it are made, and what they can do."""
        source = await self._source(query)
        commit = query.commit or HEAD
        content = await source.read(commit, query.file)
        lock = await read_lock(source, commit, query.file)
        return _shown(await self._inspection.load(content, lock, query.file))

    # -- stored or not --------------------------------------------------------------------------

    async def _commits(self, query: RepositoryQuery) -> list[Commit]:
        limit = max(1, min(query.limit, MAX_COMMITS))
        if query.repository:
            source = await self._source(query)
            return await source.commits(query.branch, query.file, limit)
        address = await self._remote(query)
        if address is None:
            return []
        branch = query.branch or await mirrors.default_branch(self._git, address)
        return await mirrors.remote_log(self._git, address, branch, limit)

    async def _branches(self, query: RepositoryQuery) -> list[str]:
        if query.repository:
            return await (await self._source(query)).branches()
        return await self._listed(query, "heads")

    async def _tags(self, query: RepositoryQuery) -> list[str]:
        if query.repository:
            return await (await self._source(query)).tags()
        return await self._listed(query, "tags")

    async def _releases(self, query: RepositoryQuery) -> list[str]:
        return releases(await self._tags(query))

    async def _default_branch(self, query: RepositoryQuery) -> str:
        if query.repository:
            return await (await self._source(query)).default_branch()
        address = await self._remote(query)
        return HEAD if address is None else await mirrors.default_branch(self._git, address)

    async def _listed(self, query: RepositoryQuery, kind: str) -> list[str]:
        address = await self._remote(query)
        return [] if address is None else await mirrors.listed(self._git, address, kind)

    async def _remote(self, query: RepositoryQuery) -> Remote | None:
        """The address that a query names; None: a local folder, which has no history."""
        if await asyncio.to_thread(folder_of, query.uri) is not None:
            return None
        return remote(query.uri, query.username, query.password, self._git.protocols)


def _shown(defaults: DriverDefaults) -> dict[str, object]:
    """Defaults and metadata as one object."""
    found: dict[str, object] = msgspec.to_builtins(defaults)
    metadata = found.pop("metadata", None)
    found.pop("isolation", None)
    return {**metadata, **found} if isinstance(metadata, dict) else found
