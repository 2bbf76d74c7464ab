"""Repositories of driver files."""

from __future__ import annotations

import asyncio
from typing import Any

from placeos.api import errors
from placeos.api.call import Call, Reply, reply
from placeos.api.resource import Change, Resource, Roles
from placeos.api.routes import Role, Route
from placeos.model.ids import new_id
from placeos.model.repository import Repository
from placeos.model.secrecy import encrypt
from placeos.model.settings import EncryptionLevel

ONE = "/repositories/{id}"
PULL_TIMEOUT = 60.0  # seconds
POLL = 0.1  # seconds between looks at the record while core pulls


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
        getattr(before, field) != getattr(repository, field)
        for field in ("uri", "branch", "commit_hash", "root_path")
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
    common: dict[str, Any] = {"tag": "Repositories", "role": Role.ADMIN}
    return [
        *resource.routes(),
        Route(method="POST", path=f"{ONE}/pull", handler=pull, returns=dict[str, str],
              summary="Fetch the newest commit and wait for it", **common),
    ]  # fmt: skip


async def pull(call: Call) -> Reply:
    """Clear the deployed commit, which asks core to pull, and wait for the new one."""
    repository = await resource.load(call)
    await call.database.execute(
        "UPDATE repo SET deployed_commit_hash = NULL WHERE id = $1", repository.id
    )
    try:
        async with asyncio.timeout(PULL_TIMEOUT):
            while True:
                found = await resource.load(call)
                if found.deployed_commit_hash is not None:
                    return reply({"commit_hash": found.deployed_commit_hash})
                await asyncio.sleep(POLL)
    except TimeoutError:
        message = f"no core pulled the repository within {PULL_TIMEOUT:g} s"
        raise errors.ApiError(408, {"error": message}) from None
