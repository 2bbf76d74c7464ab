"""Repositories of driver files. What is in them is asked of a core, which keeps the copies."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from placeos.api import errors
from placeos.api.call import Call, Reply, reply
from placeos.api.resource import Change, Resource, Roles
from placeos.api.routes import Parameter, Role, Route
from placeos.model.ids import new_id
from placeos.model.repository import Repository, RepositoryType
from placeos.model.secrecy import Unreadable, decrypt, encrypt
from placeos.model.settings import EncryptionLevel
from placeos.store import queries
from placeos.store.tables import repo
from placeos.wire.errors import CallError
from placeos.wire.frame import Command, Header
from placeos.wire.repositories import Commit, RepositoryQuery

ONE = "/repositories/{id}"
PULL_TIMEOUT = 60.0  # seconds
ASK_TIMEOUT = 60.0  # seconds
DETAILS_TIMEOUT = 300.0  # seconds: the driver's environment may have to be built first
MAX_COMMITS = 500
FIELDS_OF_PLACE = ("uri", "branch", "commit_hash", "root_path", "release")
READ = ("repositories",)
REMOTE = (
    Parameter("repository_url", str, "address of a git repository", required=True),
    Parameter("username", str),
    Parameter("password", str),
)
DRIVER = Parameter("driver", str, "path of a driver file in the repository")


async def prepare(change: Change[Repository]) -> None:
    """The password is kept encrypted for the repository's id and shown to nobody."""
    repository, before = change.after, change.before
    repository.id = repository.id or new_id("repo")
    password = repository.password
    if password and (before is None or password != before.password):
        if password.startswith("\x1b"):
            raise errors.invalid("password", "is invalid")
        repository.password = encrypt(
            password,
            secret=change.call.services.server_secret,
            parent_id=repository.id,
            level=EncryptionLevel.NEVER_DISPLAY,
        )
    moved = before is not None and any(
        getattr(before, field) != getattr(repository, field) for field in FIELDS_OF_PLACE
    )
    if moved:
        repository.deployed_commit_hash = None  # wanted again from the new place


resource = Resource(
    kind=Repository,
    path="repositories",
    tag="Repositories",
    roles=Roles(Role.SUPPORT, Role.SUPPORT, Role.ADMIN, Role.ADMIN, Role.ADMIN),
    prepare=prepare,
)


def routes() -> list[Route]:
    """All routes of repositories."""
    names = list[str]
    return [
        *resource.routes(),
        _get("/repositories/interfaces", interfaces, dict[str, str],
             "Interfaces that are served, with their commit"),
        _get("/repositories/remote_default_branch", remote_default_branch, str,
             "The branch that a repository's server calls its default", REMOTE),
        _get("/repositories/remote_branches", remote_branches, names,
             "Branches of a repository that is not stored", REMOTE),
        _get("/repositories/remote_tags", remote_tags, names,
             "Tags of a repository that is not stored", REMOTE),
        _get("/repositories/remote_commits", remote_commits, list[Commit],
             "Newest commits of a repository that is not stored",
             (*REMOTE, Parameter("branch", str), Parameter("depth", int, "how many, 50"))),
        _get(f"{ONE}/drivers", drivers, names, "Files with a driver"),
        _get(f"{ONE}/folders", folders, names, "Folders",
             (Parameter("include_dots", bool, "those whose name begins with a dot too"),)),
        _get(f"{ONE}/commits", commits, list[Commit], "Newest commits, or those of one driver",
             (DRIVER, Parameter("branch", str), Parameter("limit", int, "how many, 50")),
             scopes=READ),
        _get(f"{ONE}/branches", branches, names, "Branches", scopes=READ),
        _get(f"{ONE}/tags", tags, names, "Tags"),
        _get(f"{ONE}/releases", releases, names, "Tags that are version numbers, newest first"),
        _get(f"{ONE}/default_branch", default_branch, str,
             "The branch that the server calls its default"),
        _get(f"{ONE}/details", details, dict[str, object],
             "What a driver declares: defaults, settings, functions",
             (Parameter("driver", str, "path of its file", required=True),
              Parameter("commit", str, "hash, tag or HEAD", required=True))),
        Route(method="POST", path=f"{ONE}/pull", handler=pull, returns=dict[str, str],
              role=Role.ADMIN, tag="Repositories",
              summary="Fetch the newest commit and wait for it"),
    ]  # fmt: skip


def _get(
    path: str,
    handler: Any,
    returns: Any,
    summary: str,
    query: Sequence[Parameter] = (),
    scopes: tuple[str, ...] = (),
) -> Route:
    return Route(
        method="GET",
        path=path,
        handler=handler,
        returns=returns,
        summary=summary,
        query=tuple(query),
        scopes=scopes,
        role=Role.ADMIN,
        tag="Repositories",
    )


async def ask(call: Call, query: RepositoryQuery, *, timeout: float = ASK_TIMEOUT) -> Reply:
    """What a core says; preferably that which polls the repository. Raises ApiError."""
    header = Header(Command.REPOSITORY, module=query.repository or "remote", user=call.claims.sub)
    try:
        _, payload = await call.services.router.request(
            header, msgspec.json.encode(query), timeout=timeout
        )
    except CallError as error:
        status = error.code if 400 <= error.code <= 599 else 500
        body = {"error": error.message, "message": error.message}
        raise errors.ApiError(status, body) from error
    return Reply(payload)


async def interfaces(call: Call) -> Reply:
    """Folder and commit of every interface that is deployed."""
    found = await queries.listed(
        call.database, Repository, repo.c.repo_type == RepositoryType.INTERFACE.value
    )
    return reply({one.folder_name: one.deployed_commit_hash or "" for one in found})


async def pull(call: Call) -> Reply:
    """Have a core fetch what is newest; its commit. 408 after 60 s, while it goes on."""
    one = await _of_drivers(call)
    return await ask(call, RepositoryQuery("pull", one.id), timeout=PULL_TIMEOUT)


async def drivers(call: Call) -> Reply:
    """Paths of files with a driver."""
    one = await _of_drivers(call)
    return await ask(call, RepositoryQuery("drivers", one.id))


async def details(call: Call) -> Reply:
    """Defaults and metadata of a driver at a commit; 422 with the reason if it does not load."""
    one = await _of_drivers(call)
    query = RepositoryQuery("details", one.id, file=call.need("driver"), commit=call.need("commit"))
    return await ask(call, query, timeout=DETAILS_TIMEOUT)


async def folders(call: Call) -> Reply:
    """Paths of all folders."""
    one = await _of_drivers(call)
    return await ask(call, RepositoryQuery("folders", one.id, dots=call.flag("include_dots")))


async def commits(call: Call) -> Reply:
    """The newest commits of a branch, or those that changed a file."""
    query = await _of_any(call, "commits")
    query.file = call.text("driver") or ""
    query.branch = call.text("branch") or query.branch
    query.limit = call.number("limit", 50, highest=MAX_COMMITS)
    return await ask(call, query)


async def branches(call: Call) -> Reply:
    """Names of branches."""
    return await ask(call, await _of_any(call, "branches"))


async def tags(call: Call) -> Reply:
    """Names of tags."""
    return await ask(call, await _of_any(call, "tags"))


async def releases(call: Call) -> Reply:
    """Tags that are version numbers."""
    return await ask(call, await _of_any(call, "releases"))


async def default_branch(call: Call) -> Reply:
    """The name of the default branch."""
    return await ask(call, await _of_any(call, "default_branch"))


async def remote_branches(call: Call) -> Reply:
    """Names of branches."""
    return await ask(call, _remote(call, "branches"))


async def remote_tags(call: Call) -> Reply:
    """Names of tags."""
    return await ask(call, _remote(call, "tags"))


async def remote_default_branch(call: Call) -> Reply:
    """The name of the default branch."""
    return await ask(call, _remote(call, "default_branch"))


async def remote_commits(call: Call) -> Reply:
    """The newest commits of a branch."""
    query = _remote(call, "commits")
    query.branch = call.text("branch") or ""
    query.limit = call.number("depth", 50, highest=MAX_COMMITS)
    return await ask(call, query)


def _remote(call: Call, what: str) -> RepositoryQuery:
    return RepositoryQuery(
        what,
        uri=call.need("repository_url"),
        username=call.text("username") or "",
        password=call.text("password") or "",
    )


async def _of_any(call: Call, what: str) -> RepositoryQuery:
    """A question about the repository that the path names. Cores keep no copies of interfaces:
    about those their server is asked. Raises 404."""
    one = await resource.load(call)
    if one.repo_type == RepositoryType.DRIVER:
        return RepositoryQuery(what, one.id)
    try:
        password = decrypt(
            one.password or "",
            secret=call.services.server_secret,
            parent_id=one.id,
            level=EncryptionLevel.NEVER_DISPLAY,
        )
    except Unreadable as error:
        raise errors.bad_request("its password cannot be decrypted; enter it again") from error
    return RepositoryQuery(
        what, uri=one.uri, username=one.username or "", password=password, branch=one.branch
    )


async def _of_drivers(call: Call) -> Repository:
    """The repository that the path names. Raises 404, and 400 for one of an interface."""
    one = await resource.load(call)
    if one.repo_type != RepositoryType.DRIVER:
        message = "not a driver repository"
        raise errors.ApiError(400, {"error": message, "message": message})
    return one
