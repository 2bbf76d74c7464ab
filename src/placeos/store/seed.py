"""The first content of an empty database: a domain, its administrator and an API key."""

from __future__ import annotations

import asyncio
import secrets

import msgspec

from placeos.model.api_key import ApiKey, Permissions
from placeos.model.authority import Authority
from placeos.model.passwords import hash_password
from placeos.model.tokens import hash_api_key
from placeos.model.user import User, email_digest
from placeos.model.validation import check
from placeos.store import records
from placeos.store.database import Database, Session


class FirstUser(msgspec.Struct, frozen=True):
    """What was found or made. `api_key` is set only when it was made (or given)."""

    authority_id: str
    user_id: str
    api_key: str | None
    created: bool


async def ensure_first_user(
    database: Database,
    domain: str,
    email: str,
    password: str,
    *,
    name: str = "Administrator",
    api_key: str | None = None,
    key_name: str = "administrator",
) -> FirstUser:
    """Make the authority, an administrator and an API key where they are missing.

    `api_key` (`<32 hex>.<secret>`) is stored as given, so that who starts the platform may
    keep it; otherwise one is made for a new user. An existing user keeps their password.
    Several processes may call it at once.
    """
    digest = await asyncio.to_thread(hash_password, password)
    async with database.transaction() as session:
        await session.execute("LOCK TABLE authority IN SHARE ROW EXCLUSIVE MODE")
        authority_id = await _authority(session, domain)
        row = await session.fetch_row(
            'SELECT id FROM "user" WHERE authority_id = $1 AND email_digest = $2',
            authority_id,
            email_digest(email),
        )
        if row is None:
            user = User(
                authority_id=authority_id,
                name=name,
                email=email,
                sys_admin=True,
                support=True,
                password_digest=digest,
            )
            check(user)
            user_id = (await records.insert(session, user)).id
        else:
            user_id = row["id"]
        key = api_key or (new_api_key() if row is None else None)
        if key is not None:
            await _api_key(session, key, key_name, user_id, authority_id)
    return FirstUser(authority_id, user_id, key, created=row is None)


def new_api_key() -> str:
    """A new API key: `<32 hex>.<secret>`."""
    return f"{secrets.token_hex(16)}.{secrets.token_urlsafe(32)}"


async def _authority(session: Session, domain: str) -> str:
    authority = Authority(name=domain, domain=domain)
    check(authority)
    row = await session.fetch_row(
        "SELECT id FROM authority WHERE lower(domain) = $1", authority.domain
    )
    return row["id"] if row is not None else (await records.insert(session, authority)).id


async def _api_key(session: Session, key: str, name: str, user_id: str, authority_id: str) -> None:
    key_id, _, secret = key.partition(".")
    record = ApiKey(
        id=key_id,
        name=name.lower(),
        permissions=Permissions.ADMIN_SUPPORT,
        user_id=user_id,
        authority_id=authority_id,
        secret=hash_api_key(key_id, secret),
    )
    found = await session.fetch_row(
        "SELECT id FROM api_key WHERE id = $1 OR (authority_id = $2 AND name = $3)",
        key_id,
        authority_id,
        record.name,
    )
    if found is not None:
        await session.execute("DELETE FROM api_key WHERE id = $1", found["id"])
    await records.insert(session, record)
