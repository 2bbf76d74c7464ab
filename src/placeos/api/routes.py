"""Routes as data, and the one function that builds Litestar's handlers from them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

from litestar import Request
from litestar.handlers import HTTPRouteHandler
from litestar.types import ASGIApp

from placeos.api import errors
from placeos.api.call import Call, Reply, Services, parse_query
from placeos.model.tokens import GUEST, Access, Claims, allows

BASE = "/api/engine/v2"

Handler = Callable[[Call], Awaitable[Reply]]


class Role(IntEnum):
    """The least a caller must be. Checked from the token."""

    PUBLIC = -1  # no credential needed
    USER = 0
    SUPPORT = 1
    ADMIN = 2


@dataclass(frozen=True, slots=True)
class Parameter:
    """A parameter of the query, for the API description."""

    name: str
    type: type = str
    summary: str = ""
    required: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """One route. `scopes` empty: no scope gate; `path` is below `/api/engine/v2`."""

    method: str
    path: str
    handler: Handler
    role: Role
    summary: str
    tag: str
    scopes: tuple[str, ...] = ()
    query: tuple[Parameter, ...] = ()
    body: Any = None  # type of the JSON body
    returns: Any = None  # type of the JSON answer
    status: int = 200
    media_type: str = errors.JSON

    @property
    def access(self) -> Access:
        """Reading or writing, for the scope gate."""
        return "read" if self.method == "GET" else "write"


def build(routes: Sequence[Route], services: Services) -> list[HTTPRouteHandler]:
    """Litestar's handlers. The order of filters is credential, scope, role; the record and
    what depends on it are the handler's."""
    return [_build(route, services) for route in routes]


def _build(route: Route, services: Services) -> HTTPRouteHandler:
    authenticate = services.authenticator.authenticate
    public = route.role == Role.PUBLIC

    async def handle(request: Request[Any, Any, Any]) -> ASGIApp:
        headers = request.scope["headers"]
        found = {name.decode("latin-1"): value.decode("latin-1") for name, value in headers}
        check_accept(found.get("accept"), route)
        query = parse_query(request.scope["query_string"])
        claims: Claims | None = None
        if not public:
            claims = authenticate(
                headers=found,
                query=query,
                cookies=cookies(found.get("cookie", "")),
                host=host_name(found.get("host", "")),
            )
            admit(route, claims)
        return await route.handler(Call(services, request, route, query, claims))

    return HTTPRouteHandler(
        f"{BASE}{route.path}".rstrip("/").replace("}", ":str}"),
        http_method=[route.method],  # type: ignore[list-item]
        status_code=route.status,
        include_in_schema=False,
        name=f"{route.method} {route.path}",
    )(handle)


def admit(route: Route, claims: Claims) -> None:
    """The scope gate, then the role gate. Raises 403."""
    if claims.is_guest and GUEST not in route.scopes:
        raise errors.forbidden()
    if route.scopes and not allows(claims, route.scopes, route.access):
        raise errors.forbidden()
    if route.role > claims.clearance:
        raise errors.forbidden()


def check_accept(accept: str | None, route: Route) -> None:
    """Whether the client takes what the route gives. Raises 406."""
    if not accept or route.media_type != errors.JSON:
        return
    if "json" in accept or "*/*" in accept:
        return
    if not any(_takes_json(part) for part in accept.split(",")):
        raise errors.not_acceptable()


def _takes_json(part: str) -> bool:
    return part.partition(";")[0].strip().lower() in ("application/json", "application/*", "*/*")


def host_name(host: str) -> str:
    """The name in a Host header, without the port."""
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.partition(":")[0]


def cookies(header: str) -> dict[str, str]:
    """The cookies of a request; of a name given twice the first counts."""
    found: dict[str, str] = {}
    for part in header.split(";") if header else ():
        name, separator, value = part.strip().partition("=")
        if separator:
            found.setdefault(name, value.strip('"'))
    return found
