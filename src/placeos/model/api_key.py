"""An API key: a credential of a user for programs."""

from __future__ import annotations

from enum import IntEnum
from typing import Annotated

import msgspec

from placeos.model.rules import Entity, Int, Rule


class Permissions(IntEnum):
    """The most a key may do, whatever its user may."""

    USER = 0
    SUPPORT = 1
    ADMIN = 2
    ADMIN_SUPPORT = 3


class ApiKey(Entity, kw_only=True):
    """One key. `secret` is a hash; the key itself is shown once, when it is made."""

    name: Annotated[str, Rule(required=True, text=True, strip=True, lower=True, max_length=255)]
    description: Annotated[str, Rule(html=True, max_length=100_000)] = ""
    scopes: Annotated[list[str], Rule(required=True, max_length=255)] = msgspec.field(
        default_factory=lambda: ["public"]
    )
    permissions: Permissions = Permissions.USER
    expires_at: Annotated[Int | None, Rule(time=True)] = None
    user_id: Annotated[str, Rule(required=True, max_length=255)]
    authority_id: Annotated[str, Rule(read_only=True)] = ""
    secret: Annotated[str, Rule(read_only=True, hidden=True)] = ""
