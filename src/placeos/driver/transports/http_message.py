"""Requests and responses as authors see them, and how a request's URL is made. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypedDict, TypeVar, overload
from urllib.parse import quote, unquote_plus, urlsplit, urlunsplit

import msgspec

from placeos.driver.errors import DriverError

T = TypeVar("T")
Scalar = str | int | float | bool | None
Params = Mapping[str, Scalar | Iterable[Scalar]]


class HTTPError(DriverError):
    """An answer that was not expected; `response` is the whole of it."""

    code = 502

    def __init__(self, message: str, response: Response) -> None:
        super().__init__(message)
        self.response = response


class Options(TypedDict, total=False):
    """What a request may be given besides method and path.

    One of `json` (any JSON value), `data` (a form), `files` (a form with files: name → bytes,
    or name → (file name, bytes)) and `content` (text or bytes) is its body. `name`, `priority`,
    `delay` (seconds after it) mean what they do for `Driver.send`. `timeout` is how long the
    whole answer may take, in seconds; `retries` how often it is sent again when its connection
    fails, whatever the method. `follow`: follow redirects.
    """

    params: Params | None
    headers: Mapping[str, str] | None
    json: Any
    data: Mapping[str, Any] | None
    files: Mapping[str, Any] | None
    content: bytes | str | None
    name: str
    priority: int
    timeout: float | None
    retries: int | None
    delay: float | None
    follow: bool


@dataclass
class Request:
    """A request before it is sent; `before_request` may change it."""

    method: str
    path: str
    params: dict[str, Any] = field(default_factory=dict)
    headers: dict[str, str] = field(default_factory=dict)
    content: bytes | str | None = None

    def __str__(self) -> str:
        """Method and path, for errors: a query may hold a secret."""
        path = self.path.partition("?")[0].partition("#")[0]
        if is_absolute(path):
            return f"{self.method} {path.partition('//')[2].rpartition('@')[2]}"
        return f"{self.method} /{path.lstrip('/')}"


@dataclass(frozen=True, slots=True)
class Response:
    """The answer to a request. `headers` takes names in any spelling."""

    request: str  # method and path
    status: int
    reason: str
    headers: Mapping[str, str]
    content: bytes = field(repr=False)
    charset: str = "utf-8"

    @property
    def ok(self) -> bool:
        """Whether the status is 2xx."""
        return 200 <= self.status < 300

    @property
    def text(self) -> str:
        """The body as text; what cannot be decoded is replaced."""
        try:
            return self.content.decode(self.charset, "replace")
        except LookupError:  # a charset that does not exist
            return self.content.decode(errors="replace")

    @overload
    def json(self) -> Any: ...
    @overload
    def json(self, type: type[T]) -> T: ...
    def json(self, type: Any = Any) -> Any:
        """The body as JSON, checked and converted if a `type` is given (a class derived from
        `msgspec.Struct`, for instance). Raises HTTPError."""
        try:
            return msgspec.json.decode(self.content, type=type, strict=type is Any)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            what = str(error) if self.content else "an empty body is no JSON"
            raise HTTPError(f"{self.request} answered {self.status}: {what}", self) from error

    def expect(self, *statuses: int) -> Response:
        """The response itself if its status is among these (2xx, if none are given).
        Raises HTTPError else."""
        if self.status in statuses or (not statuses and self.ok):
            return self
        what = f"{self.status} {self.reason}".strip()
        raise HTTPError(f"{self.request} answered {what}", self)


def is_absolute(path: str) -> bool:
    """Whether it is a whole URL."""
    return path[:8].lower().startswith(("http://", "https://"))


def origin_of(url: str) -> tuple[str, str, int]:
    """Scheme, host and port. Raises DriverError for what is no URL."""
    try:
        parts = urlsplit(url)
        port = parts.port or (443 if parts.scheme == "https" else 80)
    except ValueError:
        raise DriverError("the URL of a request is not valid", code=400) from None
    return parts.scheme, parts.hostname or "", port


def url_of(base: str, path: str, params: Params | None, *, below: bool) -> str:
    """Where a request goes. Its path is appended to that of `base`, or takes its place
    unless `below`. A query in `path` wins over the one of `base`, which wins over `params`.
    """
    if is_absolute(path):
        own = urlsplit(path)
        theirs = urlsplit(base)
        query = theirs.query if origin_of(path) == origin_of(base) else ""
        scheme, place, where = own.scheme, own.netloc.rpartition("@")[2], own.path
        return urlunsplit((scheme, place, where or "/", _query(params, query, own.query), ""))
    where, _, own_query = path.partition("#")[0].partition("?")
    parts = urlsplit(base)
    if not below:
        where = "/" + where.lstrip("/")
    elif where:
        where = parts.path.rstrip("/") + "/" + where.lstrip("/")
    else:
        where = parts.path or "/"
    query = _query(params, parts.query, own_query)
    return urlunsplit((parts.scheme, parts.netloc, where, query, ""))


def _query(params: Params | None, *texts: str) -> str:
    """Queries put together; a later one replaces equal names. Texts stay as they are written,
    for not every device takes every way of quoting."""
    pairs = [
        (name, f"{quote(name, '')}={quote(_text(value), '')}")
        for name, values in (params or {}).items()
        for value in _values(values)
    ]
    for text in texts:
        given = [(_name(part), part) for part in text.split("&") if part]
        names = {name for name, _ in given}
        pairs = [pair for pair in pairs if pair[0] not in names] + given
    return "&".join(part for _, part in pairs)


def _name(part: str) -> str:
    return unquote_plus(part.partition("=")[0])


def _values(value: Scalar | Iterable[Scalar]) -> list[Scalar]:
    values = [value] if isinstance(value, str | int | float | None) else list(value)
    return [one for one in values if one is not None]


def _text(value: Scalar) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
