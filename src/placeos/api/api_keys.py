"""API keys. The key itself is in the answer to its creation and nowhere else."""

from __future__ import annotations

import secrets
import time
from collections.abc import Sequence
from typing import Any

from placeos.api import errors
from placeos.api.call import Call, Reply, reply
from placeos.api.resource import Change, Filter, Resource, Roles, View, view
from placeos.api.routes import Role, Route
from placeos.api.users import public_view
from placeos.model.api_key import ApiKey
from placeos.model.authority import Authority
from placeos.model.tokens import Claims, InvalidScope, hash_api_key, normalise_scope
from placeos.model.user import User
from placeos.model.validation import check, draft
from placeos.store import queries, records
from placeos.store.tables import api_key


def _authority(call: Call) -> queries.Condition | None:
    wanted = call.text("authority_id")
    return None if wanted is None else api_key.c.authority_id == wanted


async def views(call: Call, keys: Sequence[ApiKey]) -> list[View]:
    """Permissions by name, with user and authority."""
    users = {one.id: one for one in await call.database.some(User, [key.user_id for key in keys])}
    authorities = {
        one.id: one
        for one in await call.database.some(Authority, [key.authority_id for key in keys])
    }
    shown = []
    for key in keys:
        one = view(key) | {"permissions": key.permissions.name.lower()}
        if key.user_id in users:
            one["user"] = public_view(users[key.user_id])
        if key.authority_id in authorities:
            one["authority"] = view(authorities[key.authority_id])
        shown.append(one)
    return shown


async def prepare(change: Change[ApiKey]) -> None:
    """The authority is always the user's; `ttl` seconds become a moment, the sooner wins."""
    key = change.after
    user = await change.session.get(User, key.user_id)
    if user is None:
        raise errors.invalid("user_id", "does not exist")
    key.authority_id = user.authority_id
    try:
        key.scopes = list(dict.fromkeys(normalise_scope(scope) for scope in key.scopes))
    except InvalidScope as error:
        raise errors.invalid("scopes", str(error)) from None
    now = int(time.time())
    if change.before is None and change.body.get("ttl") is not None:
        ttl = change.body["ttl"]
        if not isinstance(ttl, int) or isinstance(ttl, bool) or not 1 <= ttl < 2**32:
            raise errors.invalid("ttl", "must be greater than 0")
        key.expires_at = min(key.expires_at or now + ttl, now + ttl)
    given = "expires_at" in change.body
    if given and key.expires_at is not None and key.expires_at <= now:
        raise errors.invalid("expires_at", "must be in the future")


async def remember(call: Call, key: ApiKey) -> None:
    """The key works (or no longer works) through this process at once."""
    call.services.authenticator.changed("api_key", key.id)
    await call.services.authenticator.refresh()


resource = Resource(
    kind=ApiKey,
    path="api_keys",
    tag="ApiKeys",
    roles=Roles(Role.ADMIN, Role.ADMIN, Role.ADMIN, Role.ADMIN, Role.ADMIN),
    noun="API key",
    filters=(Filter("authority_id", str, _authority),),
    without=frozenset({"create"}),
    views=views,
    prepare=prepare,
    stored=remember,
    destroyed=remember,
)


def routes() -> list[Route]:
    """All routes of API keys."""
    common: dict[str, Any] = {"tag": "ApiKeys"}
    return [
        *resource.routes(),
        Route(method="POST", path="/api_keys", handler=create, role=Role.ADMIN, body=ApiKey,
              scopes=("api_keys",), returns=ApiKey, status=201, summary="Create an API key",
              **common),
        Route(method="GET", path="/api_keys/inspect", handler=inspect, role=Role.USER,
              returns=Claims, summary="The claims of the credential used", **common),
    ]  # fmt: skip


async def create(call: Call) -> Reply:
    """Make a key and show it, once."""
    body = await call.object("ApiKey")
    secret = secrets.token_urlsafe(32)
    key = draft(ApiKey, body)
    key.id = secrets.token_hex(16)
    key.secret = hash_api_key(key.id, secret)
    async with call.database.transaction() as session:
        change = Change(call, session, body, None, key)
        await prepare(change)
        check(change.after)
        key = await records.insert(session, change.after)
    await remember(call, key)
    [shown] = await views(call, [key])
    return reply(shown | {"x_api_key": f"{key.id}.{secret}"}, 201)


async def inspect(call: Call) -> Reply:
    """What the credential says."""
    return reply(call.claims)
