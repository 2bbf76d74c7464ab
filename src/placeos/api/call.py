"""One request, as handlers see it: who calls, the parameters, the body."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl

import msgspec
from litestar import Request
from litestar.types import Receive, Scope, Send
from redis.asyncio import Redis

from placeos.api import errors
from placeos.api.authentication import Authenticator
from placeos.api.http import SLASH, read_body
from placeos.api.reading import StateReader
from placeos.cluster.etcd import Etcd
from placeos.cluster.routing import Router
from placeos.model.tokens import Claims, UserClaims
from placeos.state.lookups import Lookups
from placeos.store import Database

if TYPE_CHECKING:
    from placeos.api.routes import Route

MAX_PARAMETERS = 200  # of a query string
_UINT32 = 2**32


@dataclass(frozen=True, slots=True)
class Services:
    """What handlers work with."""

    database: Database
    authenticator: Authenticator
    redis: Redis
    state: StateReader
    lookups: Lookups
    router: Router
    etcd: Etcd
    server_secret: bytes
    production: bool = True


class Call:
    """One authenticated request. Parameters raise the error that the contract asks for."""

    __slots__ = ("_query", "claims", "request", "route", "services")

    def __init__(
        self,
        services: Services,
        request: Request[Any, Any, Any],
        route: Route,
        query: dict[str, str],
        claims: Claims | None,
    ) -> None:
        self.services = services
        self.request = request
        self.route = route
        self._query = query
        self.claims: Claims = claims or NOBODY

    @property
    def database(self) -> Database:
        """The configuration plane."""
        return self.services.database

    def path(self, name: str) -> str:
        """A segment of the path, decoded."""
        value: str = self.request.scope["path_params"][name]
        value = value.replace(SLASH, "/")
        if "\0" in value:
            raise errors.not_found(f"no such {name}")
        return value

    def text(self, name: str) -> str | None:
        """A parameter of the query; None when absent or empty."""
        value = self._query.get(name)
        if value and "\0" in value:
            raise errors.bad_parameter(name, "String")
        return value or None

    def need(self, name: str) -> str:
        """A required parameter of the query."""
        value = self.text(name)
        if value is None:
            raise errors.missing(name, "String")
        return value

    def words(self, name: str) -> list[str]:
        """A comma list: split, trimmed, without empties and doubles."""
        parts = (part.strip() for part in (self.text(name) or "").split(","))
        return list(dict.fromkeys(part for part in parts if part))

    def flag(self, name: str, default: bool = False) -> bool:
        """A boolean: `true` in any case is true, anything else given is false."""
        value = self._query.get(name)
        return default if value is None else value.strip().lower() == "true"

    def optional_flag(self, name: str) -> bool | None:
        """A boolean that may be absent."""
        return self.flag(name) if name in self._query else None

    def number(self, name: str, default: int, *, highest: int) -> int:
        """A number that is not negative, clamped to `highest`; anything else is a 400."""
        value = self._query.get(name)
        if value is None:
            return default
        value = value.strip()
        if not (value.isascii() and value.isdigit()) or len(value) > 10 or int(value) >= _UINT32:
            raise errors.bad_parameter(name, "UInt32")
        return min(int(value), highest)

    def optional_number(self, name: str) -> int | None:
        """A number that may be absent; one that cannot be read is ignored."""
        try:
            value = int(self._query.get(name, ""))
        except ValueError:
            return None
        return value if abs(value) < 2**53 else None

    def need_number(self, name: str) -> int:
        """A required number."""
        if not self._query.get(name):
            raise errors.missing(name, "Int32")
        value = self.optional_number(name)
        if value is None:
            raise errors.bad_parameter(name, "Int32")
        return value

    async def json(self, what: str) -> object:
        """The JSON of the body. `what` names it when it is missing."""
        content_type = self.request.headers.get("content-type", "")
        body = await read_body(self.request)
        if not body.strip():
            raise errors.missing("body", what)
        media_type = content_type.partition(";")[0].strip().lower()
        if media_type not in ("", errors.JSON):
            raise errors.unsupported(media_type)
        return decode_json(body)

    async def object(self, what: str) -> dict[str, object]:
        """The JSON object of the body; of a name given twice the last counts."""
        value = await self.json(what)
        if not isinstance(value, dict):
            raise errors.bad_request(f"expected a JSON object ({what}), got {kind_of(value)}")
        return value


NOBODY = Claims(iat=0, exp=0, aud="", sub="", scope=[], u=UserClaims())
"""Who calls a public route."""


def decode_json(body: bytes) -> object:
    """A JSON text as Python values. Raises a 400 that says what is wrong with it."""
    try:
        return msgspec.json.decode(body)
    except msgspec.MsgspecError as error:
        raise errors.bad_request(f"invalid JSON: {error}") from None
    except UnicodeDecodeError as error:
        raise errors.bad_request(f"invalid JSON: not UTF-8 at byte {error.start}") from None
    except RecursionError:
        raise errors.bad_request("invalid JSON: nested too deeply") from None


def kind_of(value: object) -> str:
    """What a JSON value is, in words."""
    if value is None:
        return "null"
    names = {list: "an array", dict: "an object", str: "a string", bool: "a boolean"}
    return names.get(type(value), "a number")


def parse_query(raw: bytes) -> dict[str, str]:
    """The parameters of a query string; of a name given twice the last counts."""
    if not raw:
        return {}
    try:
        pairs = parse_qsl(
            raw.decode("latin-1"),
            keep_blank_values=True,
            errors="replace",
            max_num_fields=MAX_PARAMETERS,
        )
    except ValueError as error:
        raise errors.bad_request(f"too many parameters: {error}") from None
    return dict(pairs)


class Reply:
    """An answer that sends itself: a tenth of what Litestar's own response costs."""

    __slots__ = ("body", "headers", "media_type", "status")

    def __init__(
        self,
        body: bytes,
        status: int = 200,
        headers: Mapping[str, str] | None = None,
        media_type: str = errors.JSON,
    ) -> None:
        self.body = body
        self.status = status
        self.headers = headers
        self.media_type = media_type

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The ASGI application of this one answer."""
        headers = [
            (b"content-type", self.media_type.encode("latin-1")),
            (b"content-length", b"%d" % len(self.body)),
        ]
        if self.headers:
            headers += [
                (name.lower().encode("latin-1"), value.encode("latin-1"))
                for name, value in self.headers.items()
            ]
        await send({"type": "http.response.start", "status": self.status, "headers": headers})
        await send({"type": "http.response.body", "body": self.body, "more_body": False})


def reply(value: object, status: int = 200, headers: Mapping[str, str] | None = None) -> Reply:
    """An answer with a JSON body."""
    return Reply(msgspec.json.encode(value), status, headers)


def nothing(status: int = 200) -> Reply:
    """An answer without a body."""
    return Reply(b"", status)
