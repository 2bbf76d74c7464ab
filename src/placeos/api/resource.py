"""A resource of the API as a short description.

From it follow list, show, create, update and destroy with paging, search, filters, scopes,
roles and the API description. What is special about a resource is written out in its file,
by the hooks below or by routes of its own.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Generic, TypeVar
from urllib.parse import urlencode

from placeos.api import errors, grants
from placeos.api.call import Call, Reply, nothing, parse_query, reply
from placeos.api.grants import Verb
from placeos.api.routes import BASE, Parameter, Role, Route
from placeos.model.rules import Entity, fields
from placeos.model.validation import check, draft
from placeos.store import Session, queries, records
from placeos.store.queries import Condition
from placeos.store.tables import TABLES

E = TypeVar("E", bound=Entity)
View = dict[str, object]

DEFAULT_LIMIT = 100
MAX_LIMIT = 10_000
MAX_OFFSET = 1_000_000

PAGING = (
    Parameter("q", str, "free text: any of the words, the last as a prefix"),
    Parameter("limit", int, f"records per page, {DEFAULT_LIMIT} unless given"),
    Parameter("offset", int, "records to skip"),
)


@dataclass(frozen=True, slots=True)
class Filter:
    """A parameter of the list; `condition` gives None when it does not apply."""

    name: str
    type: type
    condition: Callable[[Call], Condition | None]
    summary: str = ""


@dataclass(frozen=True, slots=True)
class Roles:
    """The least role for each standard route."""

    index: Role
    show: Role
    create: Role
    update: Role
    destroy: Role


@dataclass(slots=True)
class Change(Generic[E]):
    """A record about to be stored, inside the transaction that stores it."""

    call: Call
    session: Session
    body: Mapping[str, object]
    before: E | None
    after: E


async def _unchanged(change: Change[Any]) -> None:
    return None


async def _no_effect(call: Call, entity: Any) -> None:
    return None


async def _no_zones(call: Call, entity: Any) -> Sequence[str]:
    return ()


async def _plain_views(call: Call, entities: Sequence[Any]) -> list[View]:
    return [view(entity) for entity in entities]


@dataclass(frozen=True, kw_only=True)
class Resource(Generic[E]):
    """The description. Hooks get what they need and may raise any error of `errors`."""

    kind: type[E]
    path: str
    tag: str
    roles: Roles
    granted: bool = False
    """Whether a grant on the record's zones can take the place of the role."""
    filters: tuple[Filter, ...] = ()
    show_query: tuple[Parameter, ...] = ()
    update_query: tuple[Parameter, ...] = ()
    ignore_on_update: frozenset[str] = frozenset()
    noun: str = ""
    without: frozenset[str] = field(default_factory=frozenset)
    """Standard routes that the resource's file writes itself (index, show, …)."""

    # hooks
    views: Callable[[Call, Sequence[E]], Awaitable[list[View]]] = _plain_views
    show_view: Callable[[Call, E], Awaitable[View]] | None = None
    find: Callable[[Call, str], Awaitable[E | None]] | None = None
    prepare: Callable[[Change[E]], Awaitable[None]] = _unchanged
    """May replace `change.after` before it is checked and stored."""
    stored: Callable[[Call, E], Awaitable[None]] = _no_effect
    """After the commit of a create or update."""
    destroyed: Callable[[Call, E], Awaitable[None]] = _no_effect
    """After the commit of a destroy."""
    zones: Callable[[Call, E], Awaitable[Sequence[str]]] = _no_zones
    """The zones whose grants decide."""

    @property
    def name(self) -> str:
        """The noun used in messages."""
        return self.noun or self.kind.__name__.lower()

    def routes(self) -> list[Route]:
        """The standard routes."""
        one, many = f"/{self.path}/{{id}}", f"/{self.path}"
        noun, kind, roles = self.name, self.kind, self.roles
        filters = tuple(Parameter(one.name, one.type, one.summary) for one in self.filters)
        wanted = {
            "index": [("GET", many, self.index, roles.index, f"List {self.path}", 200)],
            "show": [("GET", one, self.show, roles.show, f"One {noun}", 200)],
            "create": [("POST", many, self.create, roles.create, f"Create a {noun}", 201)],
            "update": [
                (method, one, self.update, roles.update, f"Change a {noun}", 200)
                for method in ("PUT", "PATCH")
            ],
            "destroy": [("DELETE", one, self.destroy, roles.destroy, f"Destroy a {noun}", 202)],
        }
        query = {
            "index": (*filters, *PAGING),
            "show": self.show_query,
            "update": self.update_query,
        }
        returns = {"index": list[kind], "destroy": None}  # type: ignore[valid-type]
        return [
            Route(
                method=method,
                path=path,
                handler=handler,
                role=Role.USER if self.granted and role > Role.USER else role,
                scopes=(self.path,),
                summary=summary,
                tag=self.tag,
                query=query.get(action, ()),
                body=kind if action in ("create", "update") else None,
                returns=returns.get(action, kind),
                status=status,
            )
            for action, described in wanted.items()
            if action not in self.without
            for method, path, handler, role, summary, status in described
        ]

    # -- handlers -------------------------------------------------------------------------

    async def index(self, call: Call) -> Reply:
        """A page of records."""
        conditions = [one for filter in self.filters if (one := filter.condition(call)) is not None]
        return await self.paged(call, conditions)

    async def paged(self, call: Call, conditions: Sequence[Condition]) -> Reply:
        """A page of the records that fulfil the conditions and `q`."""
        await self.permit(call, Verb.READ, self.roles.index)
        limit = call.number("limit", DEFAULT_LIMIT, highest=MAX_LIMIT)
        offset = call.number("offset", 0, highest=MAX_OFFSET)
        text = queries.search(self.kind, call.text("q") or "")
        if text is not None:
            conditions = [*conditions, text]
        found, total = await queries.page(
            call.database, self.kind, conditions, limit=limit, offset=offset
        )
        headers = page_headers(call, TABLES[self.kind].name, offset, len(found), total, limit)
        return reply(await self.views(call, found), headers=headers)

    async def show(self, call: Call) -> Reply:
        """One record."""
        entity = await self.load(call)
        await self.permit(call, Verb.READ, self.roles.show, entity)
        return reply(await self.shown(call, entity))

    async def create(self, call: Call) -> Reply:
        """Store a new record."""
        body = await call.object(self.kind.__name__)
        entity = draft(self.kind, body)
        await self.permit(call, Verb.CREATE, self.roles.create, entity)
        async with call.database.transaction() as session:
            change = Change(call, session, body, None, entity)
            await self.prepare(change)
            check(change.after)
            entity = await records.insert(session, change.after)
        await self.stored(call, entity)
        return reply((await self.views(call, [entity]))[0], 201)

    async def update(self, call: Call) -> Reply:
        """Change the members of a record that the body names."""
        id = (await self.load(call)).id
        body = await call.object(self.kind.__name__)
        entity = await self.change(call, id, body, ignore=self.ignore_on_update)
        return reply((await self.views(call, [entity]))[0])

    async def change(
        self, call: Call, id: str, body: Mapping[str, object], *, ignore: frozenset[str]
    ) -> E:
        """Assign a body to the record with this id, and store it."""
        async with call.database.transaction() as session:
            before = await session.get(self.kind, id, lock=True)
            if before is None:
                raise self.missing(id)
            await self.permit(call, Verb.UPDATE, self.roles.update, before)
            after = draft(self.kind, body, before, ignore=ignore)
            change = Change(call, session, body, before, after)
            await self.prepare(change)
            check(change.after)
            entity = await records.update(session, before, change.after)
        await self.stored(call, entity)
        return entity

    async def destroy(self, call: Call) -> Reply:
        """Remove a record and what hangs on it."""
        entity = await self.load(call)
        await self.permit(call, Verb.DELETE, self.roles.destroy, entity)
        async with call.database.transaction() as session:
            await records.destroy(session, entity)
        await self.destroyed(call, entity)
        return nothing(202)

    # -- parts ----------------------------------------------------------------------------

    async def load(self, call: Call, id: str | None = None) -> E:
        """The record that the path (or `id`) names. Raises 404."""
        wanted = call.path("id") if id is None else id
        if self.find is not None:
            entity = await self.find(call, wanted)
        else:
            entity = await call.database.get(self.kind, wanted)
        if entity is None:
            raise self.missing(wanted)
        return entity

    async def shown(self, call: Call, entity: E) -> View:
        """What a single record looks like."""
        if self.show_view is not None:
            return await self.show_view(call, entity)
        return (await self.views(call, [entity]))[0]

    async def permit(self, call: Call, verb: Verb, least: Role, entity: E | None = None) -> None:
        """Raises 403 unless the role or a grant suffices."""
        if self.granted and call.claims.clearance < least:
            zones = () if entity is None else await self.zones(call, entity)
            await grants.require(call, least, verb, zones)

    def missing(self, id: str) -> errors.ApiError:
        """The 404 for an id."""
        return errors.not_found(f"could not find {self.name} {id!r}")


def view(entity: Entity) -> View:
    """A record as JSON shows it: without nulls and hidden fields."""
    return {
        name: value
        for name in visible(type(entity))
        if (value := getattr(entity, name)) is not None
    }


@cache
def visible(kind: type[Entity]) -> tuple[str, ...]:
    """The fields of a record that may be shown."""
    return tuple(field.name for field in fields(kind).values() if not field.rule.hidden)


def page_headers(
    call: Call, table: str, offset: int, count: int, total: int, limit: int
) -> dict[str, str]:
    """X-Total-Count, Content-Range and, when there is more, Link."""
    end = offset + count
    headers = {
        "X-Total-Count": str(total),
        "Content-Range": f"{table} {offset}-{end}/{total}",
    }
    if count and end < total:
        query = parse_query(call.request.scope["query_string"])
        parameters = {"offset": end, "limit": limit}
        query = {name: value for name, value in query.items() if name not in parameters}
        path = call.request.scope["path"]
        headers["Link"] = f'<{path}?{urlencode(parameters | query)}>; rel="next"'
    return headers


def unpaged(table: str, views: Sequence[object]) -> Reply:
    """A whole list, with the headers that clients count by."""
    count = len(views)
    headers = {"X-Total-Count": str(count), "Content-Range": f"{table} 0-{count - 1}/{count}"}
    return reply(views, headers=headers)


__all__ = ["BASE", "Change", "Filter", "Resource", "Roles", "page_headers", "unpaged", "view"]
