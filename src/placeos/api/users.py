"""Users. No answer ever holds a password digest or a single sign-on token."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from sqlalchemy import func, or_

from placeos.api import errors, grants
from placeos.api.call import Call, Reply, nothing, reply
from placeos.api.grants import Verb
from placeos.api.resource import Change, Filter, Resource, Roles, View
from placeos.api.routes import Parameter, Role, Route
from placeos.model.authority import Authority
from placeos.model.passwords import hash_password
from placeos.model.text import is_email
from placeos.model.user import ADMIN, ADMIN_ATTRIBUTES, PUBLIC, User, email_digest
from placeos.store import queries, records
from placeos.store.tables import user

ONE = "/users/{id}"
MAX_PASSWORD = 1024  # characters


def public_view(one: User) -> View:
    """What everybody sees."""
    return _pick(one, PUBLIC)


def admin_view(one: User) -> View:
    """What administrators and the user see."""
    return _pick(one, ADMIN)


def _pick(one: User, names: Sequence[str]) -> View:
    return {name: value for name in names if (value := getattr(one, name)) is not None}


async def views(call: Call, users: Sequence[User]) -> list[View]:
    """Administrators see more."""
    picked = admin_view if call.claims.is_admin else public_view
    return [picked(one) for one in users]


async def show_view(call: Call, one: User) -> View:
    """Users see all of themselves."""
    own = call.claims.is_admin or call.claims.sub == one.id
    return admin_view(one) if own else public_view(one)


async def find(call: Call, id: str) -> User | None:
    """By id (the prefix may be missing), login name or staff id; by e-mail address."""
    authority_id = _authority_of(call)
    if is_email(id):
        condition = or_(user.c.email_digest == email_digest(id), user.c.login_name == id)
    else:
        one = await call.database.get(User, id)
        if one is None and not id.startswith("user-"):
            one = await call.database.get(User, f"user-{id}")
        if one is not None:
            return one
        condition = or_(user.c.login_name == id, user.c.staff_id == id)
    found = await queries.listed(
        call.database, User, condition, user.c.authority_id == authority_id, limit=10
    )
    by_email = [one for one in found if one.email_digest == email_digest(id)]
    by_login = [one for one in found if one.login_name == id]
    return next(iter([*by_email, *by_login, *found]), None)


def _authority_of(call: Call) -> str:
    """The authority of the caller."""
    known = call.services.authenticator.user(call.claims.sub)
    return known.authority_id if known is not None else ""


def _authority_filter(call: Call) -> queries.Condition | None:
    """Only administrators see beyond their own authority."""
    wanted = call.text("authority_id")
    if not call.claims.is_admin:
        return user.c.authority_id == _authority_of(call)
    return None if wanted is None else user.c.authority_id == wanted


def _deleted_filter(call: Call) -> queries.Condition | None:
    condition: queries.Condition | None = None
    if not call.flag("include_deleted"):
        condition = user.c.deleted.is_(False)
    return condition


async def prepare(change: Change[User]) -> None:
    """Administrators' attributes, password, and the limits of those who are none."""
    call, before, after = change.call, change.before, change.after
    if not call.claims.is_admin:
        if before is None:  # nobody gives what they do not have
            after.sys_admin = False
            after.support = after.support and call.claims.is_support
            after.authority_id = _authority_of(call)
    elif before is not None and before.sys_admin and not after.sys_admin:
        await _keep_an_admin(change)
    if "password" in change.body:
        after.password_digest = await _digest(change.body["password"])


async def _keep_an_admin(change: Change[User]) -> None:
    await change.session.execute('LOCK TABLE "user" IN SHARE ROW EXCLUSIVE MODE')
    other = await change.session.fetch_row(
        'SELECT 1 FROM "user" WHERE sys_admin AND NOT deleted AND id <> $1', change.after.id
    )
    if other is None:
        raise errors.invalid("sys_admin", "at least one admin must remain")


async def _digest(password: object) -> str | None:
    """The digest of a new password; an empty one removes local sign-in."""
    if password is None or password == "":
        return None
    if not isinstance(password, str):
        raise errors.bad_request("password: expected `str`")
    if len(password) > MAX_PASSWORD:
        raise errors.invalid("password", f"is too long (maximum is {MAX_PASSWORD} characters)")
    return await asyncio.to_thread(hash_password, password)


async def remember(call: Call, one: User) -> None:
    """Rights changed here count through this process at once."""
    call.services.authenticator.changed("user", one.id)
    await call.services.authenticator.refresh()


resource = Resource(
    kind=User,
    path="users",
    tag="Users",
    roles=Roles(Role.USER, Role.USER, Role.SUPPORT, Role.USER, Role.SUPPORT),
    granted=True,
    filters=(
        Filter("authority_id", str, _authority_filter),
        Filter("include_deleted", bool, _deleted_filter),
    ),
    without=frozenset({"update", "destroy"}),
    views=views,
    show_view=show_view,
    find=find,
    prepare=prepare,
    stored=remember,
)


def routes() -> list[Route]:
    """All routes of users."""
    common: dict[str, Any] = {"tag": "Users", "role": Role.USER}
    gated = {"scopes": ("users",), **common}
    force = Parameter("force_removal", bool, "remove even where the domain keeps deleted users")
    return [
        *resource.routes(),
        *(
            Route(method=method, path=ONE, handler=update, body=User, returns=User,
                  summary="Change a user", **gated)
            for method in ("PUT", "PATCH")
        ),
        Route(method="DELETE", path=ONE, handler=destroy, status=202, query=(force,),
              summary="Destroy a user", **gated),
        Route(method="GET", path="/users/current", handler=current, returns=User,
              summary="The user who calls", **common),
        Route(method="GET", path="/users/groups", handler=groups, returns=list[dict[str, object]],
              query=(Parameter("emails", str, "comma list", required=True),),
              summary="Groups of users by e-mail address", **common),
        Route(method="POST", path=f"{ONE}/revive", handler=revive,
              summary="Undo a soft deletion", **gated),
    ]  # fmt: skip


async def current(call: Call) -> Reply:
    """The caller's own record."""
    one = await call.database.get(User, call.claims.sub)
    if one is None:
        raise resource.missing(call.claims.sub)
    return reply(admin_view(one) | {"associated_metadata": {}, "subsystem_access": []})


async def groups(call: Call) -> Reply:
    """`[{id, groups}]`."""
    call.need("emails")
    emails = call.words("emails")
    wrong = [email for email in emails if not is_email(email)]
    if wrong:
        raise errors.invalid("emails", f"{wrong[0]} is invalid")
    found = await queries.listed(
        call.database,
        User,
        func.lower(user.c.email).in_([email.lower() for email in emails]),
        user.c.authority_id == _authority_of(call),
    )
    return reply([{"id": one.id, "groups": one.groups} for one in found])


async def update(call: Call) -> Reply:
    """Change a user: oneself, as administrator, or as support of the same authority."""
    one = await resource.load(call)
    ignore = {"email", "authority_id"}
    claims = call.claims
    if not claims.is_admin:
        ignore |= ADMIN_ATTRIBUTES
        same = one.authority_id == _authority_of(call)
        if claims.sub != one.id and not (same and claims.is_support):
            await grants.require(call, Role.ADMIN, Verb.UPDATE)
        if claims.sub != one.id and one.sys_admin:
            raise errors.forbidden()  # support may not take over an administrator
    # A null attribute of administrators is ignored rather than cleared.
    body = await call.object("User")
    ignore |= {name for name in ADMIN_ATTRIBUTES if name in body and body[name] is None}
    changed = await resource.change(call, one.id, body, ignore=frozenset(ignore))
    return reply(await show_view(call, changed))


async def destroy(call: Call) -> Reply:
    """Soft where the domain says so, else for good."""
    one = await resource.load(call)
    await grants.require(call, Role.SUPPORT, Verb.DELETE)
    if one.sys_admin and not call.claims.is_admin:
        raise errors.forbidden()
    authority = await call.database.get(Authority, one.authority_id)
    soft = authority is not None and authority.internals.get("soft_delete") is True
    if soft and not call.flag("force_removal"):
        await call.database.execute('UPDATE "user" SET deleted = true WHERE id = $1', one.id)
    else:
        async with call.database.transaction() as session:
            await records.destroy(session, one)
    await remember(call, one)
    return nothing(202)


async def revive(call: Call) -> Reply:
    """A deleted user is back."""
    one = await resource.load(call)
    await grants.require(call, Role.SUPPORT, Verb.CREATE)
    await call.database.execute('UPDATE "user" SET deleted = false WHERE id = $1', one.id)
    await remember(call, one)
    return nothing()
