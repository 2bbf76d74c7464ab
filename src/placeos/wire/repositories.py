"""Payload of REPOSITORY: what api asks a core about a repository, as JSON."""

from __future__ import annotations

import msgspec


class RepositoryQuery(msgspec.Struct, omit_defaults=True):
    """What is asked: the name of a query in `placeos.core.files.catalogue`, and what it needs.

    `repository` is the id of a record; without one, `uri` (and its credentials) names a
    repository that is not stored. Answers are JSON: lists of texts, of `Commit`, a text or an
    object.
    """

    ask: str
    repository: str = ""
    uri: str = ""
    username: str = ""
    password: str = ""
    file: str = ""
    commit: str = ""
    branch: str = ""
    limit: int = 50
    dots: bool = False  # folders: those whose name begins with a dot too


class Commit(msgspec.Struct):
    """A commit. `hash` is `commit` again: both names are in use. `date` is ISO 8601."""

    commit: str
    date: str
    author: str
    subject: str
    hash: str = ""

    def __post_init__(self) -> None:
        self.hash = self.hash or self.commit
