"""A user: somebody of one authority."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Annotated

from placeos.model.rules import Entity, Failure, Rule
from placeos.model.text import is_email

ADMIN_ATTRIBUTES = frozenset(
    {"sys_admin", "support", "login_name", "staff_id", "card_number", "groups"}
)
"""What only administrators may change."""

PUBLIC = [
    "id",
    "email_digest",
    "email",
    "nickname",
    "name",
    "first_name",
    "last_name",
    "groups",
    "country",
    "building",
    "image",
    "created_at",
    "authority_id",
    "deleted",
    "department",
    "preferred_language",
    "staff_id",
    "phone",
    "work_preferences",
    "work_overrides",
    "login_count",
    "last_login",
    "photo_upload_id",
    "locatable",
]
"""What everybody sees of a user."""

ADMIN = [*PUBLIC, "sys_admin", "support", "misc", "login_name", "card_number", "ui_theme"]
"""What administrators and the user see."""

_Short = Annotated[str | None, Rule(text=True, max_length=255)]


class User(Entity, kw_only=True):  # what is hidden never leaves the services
    """One user."""

    authority_id: Annotated[str, Rule(required=True, max_length=255)]
    name: Annotated[str, Rule(required=True, text=True, max_length=255)] = ""
    nickname: _Short = None
    email: Annotated[str, Rule(required=True, strip=True, max_length=254)] = ""
    email_digest: Annotated[str, Rule(read_only=True)] = ""
    phone: _Short = None
    country: _Short = None
    image: Annotated[str | None, Rule(text=True, max_length=4096)] = None
    ui_theme: _Short = "light"
    misc: Annotated[str | None, Rule(html=True, max_length=100_000)] = None
    login_name: Annotated[str | None, Rule(strip=True, max_length=255)] = None
    staff_id: Annotated[str | None, Rule(strip=True, max_length=255)] = None
    first_name: _Short = None
    last_name: _Short = None
    building: _Short = None
    department: _Short = None
    preferred_language: Annotated[
        str | None, Rule(pattern=r"[A-Za-z]{2,3}(-[A-Za-z]{2})?", max_length=16)
    ] = None
    card_number: Annotated[str | None, Rule(strip=True, max_length=255)] = None
    groups: list[str] = []
    sys_admin: bool = False
    support: bool = False
    password_digest: Annotated[str | None, Rule(read_only=True, hidden=True)] = None
    deleted: Annotated[bool, Rule(read_only=True)] = False
    access_token: Annotated[str | None, Rule(read_only=True, hidden=True)] = None
    refresh_token: Annotated[str | None, Rule(read_only=True, hidden=True)] = None
    expires_at: Annotated[int | None, Rule(read_only=True, hidden=True)] = None
    expires: Annotated[bool, Rule(read_only=True, hidden=True)] = False
    locatable: bool = True
    login_count: Annotated[int, Rule(read_only=True)] = 0
    last_login: Annotated[int | None, Rule(read_only=True)] = None
    logged_out_at: Annotated[int | None, Rule(read_only=True)] = None
    work_preferences: Annotated[list[dict[str, object]], Rule(max_length=100_000)] = []
    work_overrides: Annotated[dict[str, object], Rule(max_length=100_000)] = {}
    photo_upload_id: Annotated[str | None, Rule(max_length=255)] = None

    def tidy(self) -> None:
        """Rebuild the name from its parts and the digest from the e-mail address."""
        if self.first_name:
            self.name = f"{self.first_name} {self.last_name or ''}".strip()
        self.email_digest = email_digest(self.email)
        self.groups = list(dict.fromkeys(self.groups))

    def failures(self) -> Iterator[Failure]:
        """The e-mail address must be one."""
        if not is_email(self.email):
            yield Failure("email", "is invalid")


def email_digest(email: str) -> str:
    """MD5 hex of the address in lower case: the unique key of a user inside an authority."""
    return hashlib.md5(email.strip().lower().encode(), usedforsecurity=False).hexdigest()
