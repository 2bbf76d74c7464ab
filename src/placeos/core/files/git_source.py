"""A git repository as a source of driver files: when to fetch, and what is deployed."""

from __future__ import annotations

import asyncio
import functools
import logging
import random
from typing import Final

from placeos.core.files import mirror as mirrors
from placeos.core.files.git import Git, Remote
from placeos.core.files.listing import releases
from placeos.core.files.mirror import HASH, Damaged, Mirror
from placeos.core.files.sources import HEAD, NotThere, Order, RepositoryError, below, inside
from placeos.core.jobs import Job, JobCancelled, Jobs
from placeos.model.driver import UpdateInfo
from placeos.model.repository import Repository
from placeos.wire.repositories import Commit

log = logging.getLogger("placeos.core")

BACKOFF: Final = (5.0, 300.0)  # seconds: first and longest pause after a failed fetch
AGAIN: Final = 2.0  # seconds between two fetches that nobody waits for
ANY_BRANCH: Final = ("", HEAD)  # the one that the server calls its default
FULL: Final = (40, 64)  # digits of a whole hash


class GitSource:
    """One repository at one address.

    It is fetched when somebody waits for it, every `poll` seconds where this core leads, and
    when something is wanted that the mirror lacks. What cannot be fetched leaves the mirror, and
    with it all that runs, as it was; `problem` says why.
    """

    immutable = True

    def __init__(self, remote: Remote, mirror: Mirror, git: Git, jobs: Jobs, poll: float) -> None:
        self._remote = remote
        self._mirror = mirror
        self._git = git
        self._jobs = jobs
        self._poll = poll
        self._repository: Repository
        self._head: str | None = None
        self._resolved: dict[str, str] = {}
        self._sought: set[str] = set()  # commits that the last fetch did not bring
        self._fetched: float | None = None  # loop time
        self._fetched_for = ""  # the branch that was asked for then
        self._failures = 0
        self._not_before = 0.0  # loop time of the next try after a failure
        self._due: float | None = None
        self._damaged = False
        self.problem: str | None = None

    def due(self) -> float | None:
        """Loop time of the next poll or try."""
        return self._due

    # -- having what is wanted ------------------------------------------------------------------

    async def prepare(self, order: Order) -> None:
        """Fetch if need be, and decide what is deployed."""
        self._repository = order.repository
        loop = asyncio.get_running_loop()
        if await self._should_fetch(order, loop.time()):
            await self._try_to_fetch(order)
        now = loop.time()
        if self._failures:
            self._due = self._not_before
        elif order.leads:
            self._due = (now if self._fetched is None else self._fetched) + self._poll
        else:
            self._due = None
        if self._mirror.origin() != self._remote.uri:
            raise RepositoryError(self.problem or "it was not fetched yet")
        try:
            self._head = await self._target(order)
        except Damaged:
            await self._fetch_anew(order)
            self._head = await self._target(order)
        await self._pin(order)

    async def _should_fetch(self, order: Order, now: float) -> bool:
        if order.pull:
            return True
        if now < self._not_before:
            return False
        if self._damaged or self._mirror.origin() != self._remote.uri:
            return True
        try:
            if await self._lacks(order):
                return True
        except Damaged:
            self._damaged = True
            return True
        if not order.leads:
            return False
        if order.repository.deployed_commit_hash is None:
            changed = self._fetched_for != order.repository.branch
            return changed or self._fetched is None or now - self._fetched >= AGAIN
        return self._fetched is None or now - self._fetched >= self._poll

    async def _lacks(self, order: Order) -> bool:
        """Whether something is wanted that may be had by fetching."""
        for name in _wanted(order) - self._sought:
            try:
                await self._mirror.commit(name)
            except NotThere:
                return True
        return False

    async def _try_to_fetch(self, order: Order) -> None:
        loop = asyncio.get_running_loop()
        repository = order.repository
        try:
            title = f"pull {repository.name}"
            work = functools.partial(self._fetch, order)
            await self._jobs.run("pull", repository.id, title, work)
        except (RepositoryError, JobCancelled, OSError) as error:  # OSError: of this disk
            self.problem = str(error)
            pause = min(BACKOFF[0] * 2 ** min(self._failures, 10), BACKOFF[1])
            if isinstance(error, JobCancelled):  # somebody did not want it: not at once again
                pause = BACKOFF[1]
            self._failures += 1
            self._not_before = loop.time() + pause * random.uniform(0.8, 1.2)  # noqa: S311 - jitter
            extra = {"id": repository.id, "reason": self.problem}
            log.warning("repository not fetched", extra=extra)
            return
        self.problem = None
        self._failures = 0
        self._not_before = 0.0
        self._fetched = loop.time()
        self._fetched_for = repository.branch
        self._damaged = False

    async def _fetch_anew(self, order: Order) -> None:
        self._damaged = True
        await self._try_to_fetch(order)
        if self.problem is not None:
            raise RepositoryError(self.problem)

    async def _fetch(self, order: Order, job: Job) -> None:
        job.branch = order.repository.branch
        await self._mirror.fetch(self._remote, job.say, anew=self._damaged)
        if order.repository.branch in ANY_BRANCH:
            await self._mirror.set_default(await self.default_branch())
        self._resolved.clear()
        self._sought.clear()
        for name in _wanted(order):
            await self._seek(name, job)
        await self._mirror.pack()
        try:
            job.commit = await self._target(order)
        except NotThere as error:
            job.say(str(error))

    async def _seek(self, name: str, job: Job) -> None:
        """Have a commit, even one that only its hash leads to."""
        try:
            await self._mirror.commit(name)
        except NotThere as error:
            self._sought.add(name)
            if not (HASH.fullmatch(name) and len(name) in FULL):
                job.say(str(error))
                return
            try:
                await self._mirror.fetch_commit(self._remote, name, job.say)
            except RepositoryError as refusal:
                job.say(f"commit {name[:12]}: {refusal}")

    async def _target(self, order: Order) -> str:
        """The commit that is deployed: the leader finds it, others follow the record."""
        repository = order.repository
        if not order.leads:
            deployed = repository.deployed_commit_hash
            if deployed is not None and await self._mirror.has(deployed):
                return deployed
            if self._head is not None:
                return self._head
        if repository.commit_hash not in ("", HEAD):
            return await self._mirror.commit(repository.commit_hash)
        if repository.release:
            newest = releases(list(await self._mirror.refs("tags")))
            if not newest:
                raise NotThere("the repository has no release: no tag is a version number")
            return await self._mirror.tag(newest[0])
        return await self._mirror.branch(self._branch_name(repository.branch))

    def _branch_name(self, branch: str) -> str:
        return self._mirror.default() if branch in ANY_BRANCH else branch

    async def _pin(self, order: Order) -> None:
        for name in order.pins:
            try:
                await self._mirror.pin(await self.commit(name))
            except NotThere:
                continue  # its driver says so

    # -- what is there --------------------------------------------------------------------------

    async def deployed(self) -> str:
        """The commit that `HEAD` means."""
        if self._head is None:
            raise RepositoryError(self.problem or "it was not fetched yet")
        return self._head

    async def commit(self, name: str) -> str:
        """The full hash of `HEAD`, a hash, the beginning of one, or a tag."""
        if name == HEAD:
            return await self.deployed()
        known = self._resolved.get(name)
        if known is None:
            known = self._resolved[name] = await self._mirror.commit(name)
        return known

    async def read(self, commit: str, file: str) -> bytes:
        """A file below the root path. Raises RepositoryError; Damaged: ask for it again."""
        path = self._path(file)
        try:
            return await self._mirror.read(await self.commit(commit), path)
        except Damaged:
            self._damaged = True
            raise

    async def update(self, pinned: str, file: str) -> UpdateInfo | None:
        """The newest commit of a file if it differs from, and follows, the pinned one."""
        head, commit, path = await self.deployed(), await self.commit(pinned), self._path(file)
        try:
            if await self._mirror.blob(head, path) == await self._mirror.blob(commit, path):
                return None
        except NotThere:
            return None
        newest = (await self._mirror.log(head, path, 1))[0]
        if await self._mirror.is_ancestor(newest.commit, commit):
            return None
        return UpdateInfo(newest.commit, newest.subject, newest.author, newest.date)

    async def drivers(self) -> list[str]:
        """Files with a driver, relative to the root path."""
        return below(self._path(""), await self._mirror.drivers(await self.deployed()))

    async def folders(self) -> list[str]:
        """All folders, relative to the repository."""
        return await self._mirror.folders(await self.deployed())

    async def commits(self, branch: str, file: str, limit: int) -> list[Commit]:
        """The newest commits of a branch (empty: what is deployed), or of one file on it."""
        if branch:
            start = await self._mirror.branch(self._branch_name(branch))
        else:
            start = await self.deployed()
        return await self._mirror.log(start, self._path(file) if file else "", limit)

    async def branches(self) -> list[str]:
        """Names of all branches, as the server tells them now."""
        return await mirrors.listed(self._git, self._remote, "heads")

    async def tags(self) -> list[str]:
        """Names of all tags, as the server tells them now."""
        return await mirrors.listed(self._git, self._remote, "tags")

    async def default_branch(self) -> str:
        """The branch that its server names."""
        return await mirrors.default_branch(self._git, self._remote)

    def _path(self, file: str) -> str:
        return inside(self._repository.root_path or "", file)


def _wanted(order: Order) -> set[str]:
    """Commits that have to be at hand."""
    repository = order.repository
    wanted = set(order.pins)
    if repository.commit_hash not in ("", HEAD):
        wanted.add(repository.commit_hash)
    if not order.leads and repository.deployed_commit_hash is not None:
        wanted.add(repository.deployed_commit_hash)
    return wanted
