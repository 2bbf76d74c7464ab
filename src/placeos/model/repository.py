"""A repository: a git URL or a local folder with driver files."""

from __future__ import annotations

from collections.abc import Iterator
from enum import StrEnum
from typing import Annotated
from urllib.parse import urlsplit

from placeos.model.rules import Entity, Failure, Rule


class RepositoryType(StrEnum):
    """What a repository holds."""

    DRIVER = "driver"
    INTERFACE = "interface"


class Repository(Entity, kw_only=True):
    """One repository. `deployed_commit_hash` is null while a pull is wanted."""

    name: Annotated[str, Rule(required=True, text=True, max_length=255)]
    description: Annotated[str, Rule(html=True, max_length=100_000)] = ""
    folder_name: Annotated[
        str,
        Rule(required=True, strip=True, lower=True, pattern=r"[a-zA-Z0-9_+\-().]+", max_length=255),
    ]
    uri: Annotated[str, Rule(required=True, strip=True, max_length=2048)]
    commit_hash: Annotated[str, Rule(max_length=255)] = "HEAD"
    branch: Annotated[str, Rule(max_length=255)] = "master"
    deployed_commit_hash: Annotated[str | None, Rule(read_only=True)] = None
    release: bool = False
    username: Annotated[str | None, Rule(max_length=255)] = None
    password: str | None = None
    repo_type: RepositoryType = RepositoryType.DRIVER
    root_path: str | None = None
    has_runtime_error: Annotated[bool, Rule(read_only=True)] = False
    error_message: Annotated[str | None, Rule(read_only=True)] = None

    def failures(self) -> Iterator[Failure]:
        """The URI needs a scheme, and a host unless it is a local folder; no name is an option."""
        if self.folder_name in (".", ".."):
            yield Failure("folder_name", "is invalid")
        for field in ("branch", "commit_hash"):
            if getattr(self, field).startswith("-"):
                yield Failure(field, "is invalid")
        try:
            parts = urlsplit(self.uri)
        except ValueError:
            yield Failure("uri", "is an invalid URI")
            return
        if parts.password is not None:
            yield Failure("uri", "should not hold a password: there is a field for it")
        if parts.scheme == "file":
            if not parts.path.startswith("/"):
                yield Failure("uri", "is an invalid URI")
        elif not (parts.scheme and parts.hostname):
            yield Failure("uri", "is an invalid URI")
