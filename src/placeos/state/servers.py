"""Which Redis server we talk to: by its address, or the master that Sentinels name.

Every new connection asks the server who it is. One that is a replica is left at once, as is one
that refuses a write because it became one; and when the answer differs from the last one, those
who keep something in Redis are told: the new server may lack what the old one acknowledged.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, Final
from urllib.parse import ParseResult, parse_qsl, unquote, urlparse

from redis.asyncio import Redis
from redis.asyncio.connection import (
    AbstractConnection,
    Connection,
    ConnectionPool,
    SSLConnection,
    UnixDomainSocketConnection,
)
from redis.asyncio.connection import parse_url as parse_redis_url
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import (
    Sentinel,
    SentinelConnectionPool,
    SentinelManagedConnection,
    SentinelManagedSSLConnection,
)
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import NoPermissionError, ReadOnlyError, ResponseError

log = logging.getLogger("placeos.state")

SENTINEL_TIMEOUT: Final = 0.5  # seconds for one Sentinel to answer; then the next is asked
SENTINEL_PORT: Final = 26379
_FIELDS: Final = (b"role:", b"run_id:", b"master_replid:")


class Servers:
    """What the connections of one client learn about the server behind them."""

    def __init__(self) -> None:
        self._last: object = None
        self._warned = False
        self.listeners: list[Callable[[], None]] = []

    def reached(self, identity: bytes) -> None:
        """A connection stands, to a server that calls itself so (empty: it does not say)."""
        last, self._last = self._last, identity or object()
        if last is None or last == self._last:
            return
        log.info("another redis server")
        for listener in tuple(self.listeners):
            listener()

    def refused(self) -> None:
        """We may not ask: each connection then counts as one to another server."""
        if not self._warned:
            self._warned = True
            log.warning("redis does not let us use INFO: state is written again more often")


class _Asking(AbstractConnection):
    """A connection that knows its server."""

    def __init__(self, *, servers: Servers, **options: Any) -> None:
        self._servers = servers
        super().__init__(**options)

    async def on_connect_check_health(self, check_health: bool = True) -> None:
        await super().on_connect_check_health(check_health=check_health)
        await self.send_command("INFO", check_health=False)
        try:
            info = await self.read_response(disable_decoding=True)
        except NoPermissionError:
            self._servers.refused()
            self._servers.reached(b"")
            return
        role, *identity = (_field(bytes(info), name) for name in _FIELDS)
        if role != b"master":
            raise RedisConnectionError("the redis server is a replica")
        self._servers.reached(b" ".join(identity))

    async def read_response(self, *args: Any, **options: Any) -> Any:
        try:
            return await super().read_response(*args, **options)
        except ResponseError as error:
            if _is_demoted(error):
                await self.disconnect(nowait=True)
                raise RedisConnectionError("the redis server takes no writes") from error
            raise


class _Tcp(_Asking, Connection):
    pass


class _Tls(_Asking, SSLConnection):
    pass


class _Unix(_Asking, UnixDomainSocketConnection):
    pass


class _Managed(_Asking, SentinelManagedConnection):
    pass


class _ManagedTls(_Asking, SentinelManagedSSLConnection):
    pass


class _MasterPool(SentinelConnectionPool):
    """Closes its connections to the Sentinels with its own."""

    async def disconnect(self, inuse_connections: bool = True) -> None:
        await super().disconnect(inuse_connections)
        if inuse_connections:
            await self.sentinel_manager.aclose()


def client(url: str, servers: Servers, **options: Any) -> Redis:
    """A client for an address; `options` are those of redis-py. Raises ValueError."""
    parsed = urlparse(url)
    if parsed.scheme in ("redis+sentinel", "rediss+sentinel"):
        return _master(parsed, servers, options)
    kinds: dict[str, type[AbstractConnection]] = {"redis": _Tcp, "rediss": _Tls, "unix": _Unix}
    if parsed.scheme not in kinds:
        raise ValueError(f"{parsed.scheme!r} is no scheme of an address of Redis")
    wanted: dict[str, Any] = options | dict(parse_redis_url(url))
    wanted["connection_class"] = kinds[parsed.scheme]
    return Redis.from_pool(ConnectionPool(servers=servers, **wanted))


def _master(parsed: ParseResult, servers: Servers, options: dict[str, Any]) -> Redis:
    """`redis+sentinel://[user:password@]host[:port][,host…]/master-name[?db=0&…]`."""
    name = unquote(parsed.path.strip("/"))
    credentials, _, hosts = parsed.netloc.rpartition("@")
    user, _, password = credentials.partition(":")
    if not name or "/" in name or not hosts:
        raise ValueError("an address with Sentinels is redis+sentinel://host:port,…/master-name")
    query = dict(parse_qsl(parsed.query))
    tls = parsed.scheme == "rediss+sentinel"
    certificates = {key: value for key, value in query.items() if key.startswith("ssl_")}
    sentinel_options: dict[str, Any] = {
        "username": query.get("sentinel_username") or None,
        "password": query.get("sentinel_password") or None,
        "socket_connect_timeout": SENTINEL_TIMEOUT,
        "socket_timeout": SENTINEL_TIMEOUT,
        "retry": Retry(NoBackoff(), 0),
        **({"ssl": True, **_ssl_options(certificates)} if tls else {}),
    }
    sentinel = Sentinel(  # type: ignore[no-untyped-call]
        [_host(host) for host in hosts.split(",")], 0, sentinel_options
    )
    pool = _MasterPool(  # type: ignore[no-untyped-call]
        name,
        sentinel,
        connection_class=_ManagedTls if tls else _Managed,
        servers=servers,
        username=unquote(user) or None,
        password=unquote(password) or None,
        db=int(query.get("db", "0")),
        **(_ssl_options(certificates) if tls else {}),
        **options,
    )
    return Redis.from_pool(pool)


def _ssl_options(given: dict[str, str]) -> dict[str, Any]:
    found: dict[str, Any] = dict(given)
    if "ssl_check_hostname" in found:
        found["ssl_check_hostname"] = given["ssl_check_hostname"].lower() in ("1", "true", "yes")
    return found


def _host(text: str) -> tuple[str, int]:
    parsed = urlparse(f"//{text}")
    if not parsed.hostname:
        raise ValueError("a Sentinel has no host name")
    return parsed.hostname, parsed.port or SENTINEL_PORT


def _is_demoted(error: ResponseError) -> bool:
    """A replica, or a master whose replicas are gone. Redis 6.2 wraps what a script met."""
    text = str(error)
    return isinstance(error, ReadOnlyError) or "READONLY" in text or "NOREPLICAS" in text


def _field(info: bytes, name: bytes) -> bytes:
    _, _, rest = info.partition(b"\n" + name)
    return rest.partition(b"\r")[0]
