"""Domains: authorities by name."""

from __future__ import annotations

from typing import Any

from placeos.api import errors
from placeos.api.call import Call, Reply, reply
from placeos.api.resource import Resource, Roles
from placeos.api.routes import Role, Route
from placeos.model.authority import Authority
from placeos.store import queries
from placeos.store.tables import authority


async def remember(call: Call, one: Authority) -> None:
    """Signing in through this process knows the change at once."""
    call.services.authenticator.changed("authority", one.id)
    await call.services.authenticator.refresh()


resource = Resource(
    kind=Authority,
    path="domains",
    tag="Domains",
    roles=Roles(Role.SUPPORT, Role.SUPPORT, Role.ADMIN, Role.ADMIN, Role.ADMIN),
    noun="domain",
    stored=remember,
    destroyed=remember,
)


def routes() -> list[Route]:
    """All routes of domains."""
    common: dict[str, Any] = {"tag": "Domains"}
    return [
        *resource.routes(),
        Route(method="GET", path="/domains/lookup/{email}", handler=lookup, role=Role.PUBLIC,
              returns=str, summary="The domain of an e-mail address", **common),
    ]  # fmt: skip


async def lookup(call: Call) -> Reply:
    """The domain whose users have e-mail addresses like this."""
    email_domain = call.path("email").rpartition("@")[2].strip().lower()
    found = await queries.listed(
        call.database, Authority, authority.c.email_domains.contains([email_domain]), limit=1
    )
    if not found:
        raise errors.not_found(f"no domain lists {email_domain!r}")
    return reply(found[0].domain)
