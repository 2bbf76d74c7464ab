"""A running REST application: real PostgreSQL and Redis, cores replaced by a scripted router."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import msgspec
import pytest

from placeos.api import app
from placeos.api.authentication import Authenticator
from placeos.api.call import Services
from placeos.api.reading import StateReader
from placeos.cluster.etcd import Etcd
from placeos.cluster.registry import PREFIX, NodeInfo
from placeos.cluster.view import View
from placeos.local.engines import Engines
from placeos.model.tokens import Claims, UserClaims, Verifier, sign
from placeos.state.bindings import Bindings
from placeos.state.client import connect
from placeos.state.lookups import Lookups
from placeos.store import ChangeFeed, Database
from placeos.store.seed import FirstUser, ensure_first_user
from placeos.wire.errors import CallError
from placeos.wire.frame import Command, Header

BASE = "/api/engine/v2"


@dataclass
class Cores:
    """Stands for the router and all cores behind it: answers as a test says."""

    answer: Callable[[Header, bytes], tuple[int, bytes] | CallError] = lambda *_: (200, b"null")
    asked: list[tuple[Header, bytes]] = field(default_factory=list)
    stats: dict[str, bytes] = field(default_factory=dict)
    waited: int = 0

    async def request(
        self, header: Header, payload: bytes = b"", *, timeout: float
    ) -> tuple[Header, bytes]:
        self.asked.append((header, payload))
        answer = self.answer(header, payload)
        if isinstance(answer, CallError):
            raise answer
        return Header(Command.REPLY, code=answer[0], waited=self.waited), answer[1]

    async def ask(
        self, identity: str, header: Header, payload: bytes = b"", *, timeout: float
    ) -> tuple[Header, bytes]:
        return Header(Command.REPLY, code=200), self.stats[identity]

    def nodes(self) -> list[NodeInfo]:
        return [
            msgspec.convert(
                {
                    "service": "core",
                    "identity": identity,
                    "incarnation": "1",
                    "address": "127.0.0.1:1",
                },
                NodeInfo,
            )
            for identity in self.stats
        ]

    view: View | None = None

    def owner(self, module_id: str) -> str | None:
        return next(iter(self.stats), None)


@dataclass
class Platform:
    """What a test of the API works with."""

    services: Services
    application: object
    cores: Cores
    first: FirstUser
    private_key: bytes
    database_url: str
    clients: list[httpx.AsyncClient] = field(default_factory=list)

    def client(self, **headers: str) -> httpx.AsyncClient:
        """A client with these headers (names with `_` for `-`)."""
        transport = httpx.ASGITransport(self.application, raise_app_exceptions=False)  # type: ignore[arg-type]
        client = httpx.AsyncClient(
            transport=transport,
            base_url=f"http://localhost{BASE}",
            headers={name.replace("_", "-"): value for name, value in headers.items()},
        )
        self.clients.append(client)
        return client

    def token(
        self,
        user_id: str,
        permissions: int = 0,
        *scopes: str,
        iat: int = 2_000_000_000,
        **extra: object,
    ) -> str:
        """A signed token of a user."""
        claims = Claims(
            iat=iat,
            exp=4_000_000_000,
            aud=str(extra.get("aud", "localhost")),
            sub=user_id,
            scope=list(scopes) or ["public"],
            u=UserClaims("n", "e", permissions, list(extra.get("roles", []))),  # type: ignore[call-overload]
        )
        return sign(claims, self.private_key)

    def bearer(self, *args: object, **kwargs: object) -> httpx.AsyncClient:
        """A client with a token."""
        return self.client(authorization=f"Bearer {self.token(*args, **kwargs)}")  # type: ignore[arg-type]


@pytest.fixture
async def platform(
    engines: Engines, database_url: str, secrets_folder: Path
) -> AsyncIterator[Platform]:
    """The application on a fresh database with its first administrator."""
    database = Database(database_url)
    await database.connect()
    first = await ensure_first_user(database, "localhost", "admin@example.com", "secret")
    redis = connect(engines.redis_url)
    await redis.flushall()
    lookups = Lookups(redis)
    bindings = Bindings(redis, lookups)
    private_key = (secrets_folder / "jwt.pem").read_bytes()
    authenticator = Authenticator(database, Verifier(private_key))
    cores = Cores()
    etcd = Etcd(engines.etcd_endpoints)
    services = Services(
        database=database,
        authenticator=authenticator,
        redis=redis,
        state=StateReader(redis),
        lookups=lookups,
        router=cores,  # type: ignore[arg-type]
        etcd=etcd,
        server_secret=b"server secret",
    )
    feed = ChangeFeed(database_url, authenticator.changed, authenticator.resync)
    tasks = [
        asyncio.create_task(work)
        for work in (feed.run(), authenticator.run(), bindings.run(), services.state.run())
    ]
    async with asyncio.timeout(30):
        await authenticator.loaded.wait()
        while not (bindings.is_up and feed.connected):
            await asyncio.sleep(0.01)
    running = Platform(services, app.create(services), cores, first, private_key, database_url)
    try:
        async with etcd:
            for item in (await etcd.list(PREFIX)).items:
                await etcd.delete(item.key)
            yield running
    finally:
        for client in running.clients:
            await client.aclose()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await redis.aclose()
        await database.close()


@pytest.fixture
def admin(platform: Platform) -> httpx.AsyncClient:
    """A client with the administrator's API key."""
    return platform.client(x_api_key=str(platform.first.api_key))
