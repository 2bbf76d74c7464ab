"""A bare copy of a git repository in the data folder; driver files are read out of it.

There is no work tree: nothing of a repository is ever checked out, so no hook, filter or link
of it takes effect. Names that git would interpret (`HEAD@{1}`, `:/text`) never reach it.
"""

from __future__ import annotations

import asyncio
import re
import shutil
import tempfile
from collections.abc import Callable, Collection, Coroutine
from pathlib import Path
from typing import Final

from placeos.core.files.git import FETCH_TIMEOUT, MAX_MIRROR, REMOTE_TIMEOUT, Git, GitError, Remote
from placeos.core.files.listing import IMPORTS, holds_driver, may_hold_driver
from placeos.core.files.sources import MAX_FILE, NotThere, RepositoryError
from placeos.wire.repositories import Commit

FSCK_TIMEOUT: Final = 120.0  # seconds for looking whether a mirror is whole
MAX_LISTED: Final = 2_000  # files that may be looked at for a driver
LOOK: Final = 1.0  # seconds between two looks at the size of what is fetched
MAX_PACKS: Final = 30  # packs from fetching after which they are made into one
LFS: Final = b"version https://git-lfs.github.com/spec/"
SHOWN: Final = 10  # branches that an error names
HASH: Final = re.compile(r"[0-9a-f]{4,64}")
_TAG: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_./+-]{0,200}")
_FORMAT: Final = "--format=%H%x1f%cI%x1f%an%x1f%s"
_REFS: Final = ("+refs/heads/*:refs/heads/*", "+refs/tags/*:refs/tags/*")
_FETCH: Final = (
    *("fetch", "--progress", "--prune", "--force", "--no-tags", "--no-write-fetch-head"),
    *("--no-auto-gc", "--no-recurse-submodules", "--update-head-ok"),
)
Say = Callable[[str], None]


class Damaged(RepositoryError):
    """The mirror lacks what it should hold: it has to be fetched anew."""


class Mirror:
    """One copy. Nothing is at hand before the first `fetch`."""

    def __init__(self, path: Path, git: Git) -> None:
        self.path = path
        self._git = git

    def origin(self) -> str | None:
        """The address it was last fetched from; None when there is no copy yet."""
        try:
            return (self.path / "origin").read_text()
        except (OSError, UnicodeDecodeError):
            return None

    # -- fetching -------------------------------------------------------------------------------

    async def fetch(self, remote: Remote, say: Say, *, anew: bool = False) -> None:
        """Copy what is new, or all of it into a new copy that then takes the place of this one.

        Raises GitError; what was there before stays. Commits that were pinned stay as well.
        """
        if not anew and self.origin() == remote.uri and await self._fetch_more(remote, say):
            return
        new = self.path.with_name(f"{self.path.name}.new")
        await asyncio.to_thread(shutil.rmtree, new, ignore_errors=True)
        await self._git.run("init", "--quiet", "--bare", "--template=", "--", str(new))
        await self._fetch(new, remote, say, *_REFS)
        await asyncio.to_thread(_replace, new, self.path, remote.uri)

    async def _fetch_more(self, remote: Remote, say: Say) -> bool:
        """Copy what is new. False: this copy is damaged."""
        await asyncio.to_thread(_tidy, self.path)
        try:
            await self._fetch(self.path, remote, say, *_REFS)
        except GitError as error:
            if error.known or await self._is_sound():
                raise
            say("the copy is damaged, all is fetched again")
            return False
        return True

    async def fetch_commit(self, remote: Remote, commit: str, say: Say) -> None:
        """Copy one commit that no branch or tag leads to any more, if the server gives it."""
        await self._fetch(self.path, remote, say, f"+{commit}:refs/pinned/{commit}")

    async def _fetch(self, folder: Path, remote: Remote, say: Say, *refs: str) -> None:
        await _bounded(
            folder,
            self._git.run(
                *(*_FETCH, "--", remote.uri, *refs),
                mirror=folder,
                remote=remote,
                timeout=FETCH_TIMEOUT,
                say=say,
            ),
        )

    async def pack(self) -> None:
        """Make one pack of many, once in a while."""
        packs = await asyncio.to_thread(lambda: len(list(self.path.glob("objects/pack/*.pack"))))
        if packs > MAX_PACKS:
            await self._git.run("gc", "--quiet", mirror=self.path, timeout=FETCH_TIMEOUT)

    async def remove(self) -> None:
        """Forget everything."""
        await asyncio.to_thread(shutil.rmtree, self.path, ignore_errors=True)

    async def _is_sound(self) -> bool:
        check = ("fsck", "--connectivity-only", "--no-dangling", "--no-progress")
        try:
            await self._git.run(*check, mirror=self.path, timeout=FSCK_TIMEOUT)
        except GitError as error:
            return error.known  # it took too long: no reason to doubt
        return True

    # -- names ----------------------------------------------------------------------------------

    async def commit(self, name: str) -> str:
        """The full hash of a hash, the beginning of one, or a tag. Raises NotThere."""
        if not HASH.fullmatch(name):
            return await self.tag(name)
        found = (await self._local("rev-parse", f"--disambiguate={name}")).decode().split()
        commits = [one for one in found[:20] if await self._is_commit(one)]
        if not commits:
            return await self.tag(name)
        if len(commits) > 1:
            raise NotThere(f"{name} is the beginning of several commits; write more of it")
        return commits[0]

    async def has(self, commit: str) -> bool:
        """Whether a commit with this full hash is at hand."""
        try:
            return await self.commit(commit) == commit
        except NotThere:
            return False

    async def branch(self, name: str) -> str:
        """The newest commit of a branch. Raises NotThere, naming those there are."""
        heads = await self.refs("heads")
        if name not in heads:
            known = ", ".join(sorted(heads)[:SHOWN]) or "none at all"
            raise NotThere(f"the repository has no branch {name!r}; there is {known}")
        return await self._existing(heads[name])

    async def tag(self, name: str) -> str:
        """The commit of a tag. Raises NotThere."""
        tags = await self.refs("tags") if _TAG.fullmatch(name) else {}
        if name not in tags:
            raise NotThere(f"there is no commit or tag {name!r} in the repository")
        # A tag may be one of a tag.
        peeled = await self._local("rev-parse", "--verify", f"{tags[name]}^{{}}")
        found = peeled.decode().strip()
        kind = (await self._local("cat-file", "-t", found)).decode().strip()
        if kind != "commit":
            raise NotThere(f"the tag {name!r} leads to a {kind} and not to a commit")
        return found

    async def set_default(self, branch: str) -> None:
        """Remember the branch that the server calls its default."""
        await self._local("symbolic-ref", "HEAD", f"refs/heads/{branch}")

    def default(self) -> str:
        """The branch that was remembered."""
        return (self.path / "HEAD").read_text().strip().removeprefix("ref: refs/heads/")

    async def refs(self, kind: str) -> dict[str, str]:
        """Names and commits of `heads` or `tags`."""
        form = "--format=%(refname:lstrip=2) %(objectname) %(*objectname)"
        listed = await self._local("for-each-ref", form, f"refs/{kind}/")
        lines = (line.split() for line in listed.decode("utf-8", "replace").splitlines())
        return {words[0]: words[-1] for words in lines}

    async def pin(self, commit: str) -> None:
        """Keep a commit, whatever becomes of its branch."""
        await self._local("update-ref", f"refs/pinned/{commit}", commit)

    async def _is_commit(self, name: str) -> bool:
        try:
            kind = await self._git.run("cat-file", "-t", name, mirror=self.path)
        except GitError:
            return False
        return kind.strip() == b"commit"

    async def _existing(self, commit: str) -> str:
        if not await self._is_commit(commit):
            raise Damaged(f"the copy of the repository lacks the commit {commit[:12]}")
        return commit

    # -- files ----------------------------------------------------------------------------------

    async def blob(self, commit: str, path: str) -> tuple[str, int]:
        """Object and size of a file. Raises NotThere or RepositoryError."""
        if not path:
            raise NotThere("no file is named")
        listed = await self._local("ls-tree", "-z", "-l", "--full-tree", commit, "--", path)
        for entry in listed.decode("utf-8", "replace").split("\0"):
            about, _, name = entry.partition("\t")
            if name == path:
                mode, kind, object_id, size = about.split()
                if kind != "blob" or mode not in ("100644", "100755"):
                    what = {"tree": "a folder", "commit": "a submodule"}.get(kind, "a link")
                    raise RepositoryError(f"{path}: is {what} and not a file")
                return object_id, int(size)
        raise NotThere(f"{path}: there is no such file at commit {commit[:12]}")

    async def read(self, commit: str, path: str) -> bytes:
        """Content of a file."""
        object_id, size = await self.blob(commit, path)
        if size > MAX_FILE:
            raise RepositoryError(f"{path}: is larger than {MAX_FILE} bytes")
        content = await self._local("cat-file", "blob", object_id)
        if content.startswith(LFS):
            raise RepositoryError(f"{path}: is in Git LFS, which is not fetched; commit the file")
        return content

    async def folders(self, commit: str) -> list[str]:
        """All folders."""
        listed = await self._local("ls-tree", "-r", "-d", "-z", "--name-only", commit)
        return _names(listed)

    async def drivers(self, commit: str) -> list[str]:
        """Files that look like a driver."""
        found = await self._git.run(
            *("grep", "--null", "-l", "-I", "-E", "-e", IMPORTS),
            *(commit, "--", "*.py"),
            mirror=self.path,
            literal=False,
            fails=(1,),  # nothing found
        )
        names = [name.removeprefix(f"{commit}:") for name in _names(found)]
        if len(names) > MAX_LISTED:
            raise RepositoryError(f"more than {MAX_LISTED} files use the SDK")
        return sorted([one for one in names if await self._holds_driver(commit, one)])

    async def _holds_driver(self, commit: str, name: str) -> bool:
        if not may_hold_driver(name):
            return False
        try:
            return holds_driver(name, await self.read(commit, name))
        except Damaged:
            raise
        except RepositoryError:  # a link, or larger than any driver
            return False

    # -- history --------------------------------------------------------------------------------

    async def log(self, commit: str, path: str, limit: int) -> list[Commit]:
        """The newest commits, or those that changed one file."""
        count = f"--max-count={limit}"
        where = ("--", path) if path else ()
        listed = await self._local("log", "-z", _FORMAT, count, commit, *where)
        return parse_log(listed)

    async def is_ancestor(self, older: str, newer: str) -> bool:
        """Whether `newer` builds on `older`."""
        found = await self._local("rev-list", "--max-count=1", older, f"^{newer}")
        return not found.strip()

    async def _local(self, *arguments: str) -> bytes:
        """Ask the mirror for what it must know. Raises Damaged."""
        try:
            return await self._git.run(*arguments, mirror=self.path)
        except GitError as error:
            if error.known:
                raise
            raise Damaged(f"the copy of the repository is damaged: {error}") from error


# -- of a repository that is not copied ---------------------------------------------------------


async def listed(git: Git, remote: Remote, kind: str) -> list[str]:
    """Names of `heads` or `tags`, as the server tells them now."""
    found = await git.run(
        *("ls-remote", "--refs", f"--{kind}", "--", remote.uri),
        remote=remote,
        timeout=REMOTE_TIMEOUT,
    )
    names = (line.partition("\t")[2] for line in found.decode("utf-8", "replace").splitlines())
    return sorted(name.removeprefix(f"refs/{kind}/") for name in names)


async def default_branch(git: Git, remote: Remote) -> str:
    """The branch that the server's HEAD names. Raises NotThere for an empty repository."""
    found = await git.run(
        *("ls-remote", "--symref", "--", remote.uri, "HEAD"), remote=remote, timeout=REMOTE_TIMEOUT
    )
    match = re.match(rb"ref: refs/heads/(\S+)\tHEAD", found)
    if match is None:
        raise NotThere(
            "the repository has no default branch: it is empty, or its HEAD leads to none"
        )
    return match[1].decode("utf-8", "replace")


async def remote_log(git: Git, remote: Remote, branch: str, depth: int) -> list[Commit]:
    """The newest commits of a branch, without its files where the server can do that."""
    names = await listed(git, remote, "heads")
    if branch not in names:
        raise NotThere(f"the repository has no branch {branch!r}")
    folder = await asyncio.to_thread(_scratch, git.folder / "calls")
    try:
        await git.run("init", "--quiet", "--bare", "--template=", "--", str(folder))
        fetch = (*_FETCH, f"--depth={depth}", "--filter=tree:0", "--", remote.uri)
        await _bounded(
            folder,
            git.run(
                *(*fetch, f"+refs/heads/{branch}:refs/heads/asked"),
                mirror=folder,
                remote=remote,
                timeout=REMOTE_TIMEOUT,
            ),
        )
        count = f"--max-count={depth}"
        return parse_log(await git.run("log", "-z", _FORMAT, count, "asked", mirror=folder))
    finally:
        await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)


def parse_log(output: bytes) -> list[Commit]:
    """Commits from what `git log` printed."""
    entries = (entry.split("\x1f", 3) for entry in _names(output))
    return [Commit(*words) for words in entries if len(words) == 4]


def _names(output: bytes) -> list[str]:
    return [name for name in output.decode("utf-8", "replace").split("\0") if name]


async def _bounded(folder: Path, work: Coroutine[object, object, bytes]) -> None:
    """Do it while the folder stays below MAX_MIRROR bytes. Raises GitError."""
    task = asyncio.get_running_loop().create_task(work)
    try:
        while not (await asyncio.wait([task], timeout=LOOK))[0]:
            if await asyncio.to_thread(_size, folder) > MAX_MIRROR:
                raise GitError(f"the repository is larger than {MAX_MIRROR} bytes")
        task.result()
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def _size(folder: Path) -> int:
    total = 0
    for path in folder.rglob("*"):
        try:
            total += path.lstat().st_size
        except OSError:
            continue  # it was a temporary one
    return total


def _scratch(folder: Path) -> Path:
    return Path(tempfile.mkdtemp(dir=folder))


def _tidy(mirror: Path) -> None:
    """Remove what a killed git left: only this core writes here, and one job at a time."""
    for pattern in ("**/*.lock", "objects/pack/tmp_*"):
        for path in mirror.glob(pattern):
            path.unlink(missing_ok=True)


def _replace(new: Path, old: Path, origin: str) -> None:
    (new / "origin").write_text(origin)
    shutil.rmtree(old, ignore_errors=True)
    new.rename(old)


def forget(mirrors: Path, known: Collection[str]) -> None:
    """Remove the copies of repositories that are no longer known."""
    for path in mirrors.iterdir():
        if path.name not in known:
            shutil.rmtree(path, ignore_errors=True)
