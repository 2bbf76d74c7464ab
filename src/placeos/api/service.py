"""The api process: REST and the control websocket in one event loop."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from granian.constants import Interfaces
from granian.server.embed import Server
from litestar.types import ASGIApp
from redis.asyncio import Redis

from placeos import __version__
from placeos.api import app
from placeos.api.authentication import Authenticator
from placeos.api.call import Services
from placeos.api.control.server import serving as control
from placeos.api.reading import StateReader
from placeos.cluster.etcd import Etcd
from placeos.cluster.hint import VIEW_HINT_KEY
from placeos.cluster.membership import Membership, new_incarnation
from placeos.cluster.registry import Registration
from placeos.cluster.routing import Router
from placeos.config import Config
from placeos.model.tokens import Verifier
from placeos.state.bindings import Bindings
from placeos.state.client import connect
from placeos.state.lookups import Lookups
from placeos.store import ChangeFeed, Database

log = logging.getLogger("placeos.api")

SHUTDOWN_GRACE = 1.0  # seconds for requests still running


async def main(config: Config) -> None:
    """Run until cancelled. On leaving: requests, sockets, tasks, then connections end."""
    async with _services(config) as (services, bindings), asyncio.TaskGroup() as group:
        authenticator = services.authenticator
        feed = ChangeFeed(config.database_url, authenticator.changed, authenticator.resync)
        group.create_task(feed.run(), name="feed")
        group.create_task(authenticator.run(), name="authenticator")
        group.create_task(bindings.run(), name="bindings")
        group.create_task(services.state.run(), name="state reader")
        group.create_task(services.router.run(), name="router")
        await authenticator.loaded.wait()
        group.create_task(_register(config, services.etcd), name="membership")
        async with control(
            config.control_listen,
            authenticator=authenticator,
            lookups=services.lookups,
            bindings=bindings,
            router=services.router,
        ):
            await serve_http(app.create(services), config.listen)


@asynccontextmanager
async def _services(config: Config) -> AsyncIterator[tuple[Services, Bindings]]:
    """What handlers work with, connected to the engines."""
    redis = connect(config.redis_url)
    lookups = Lookups(redis)
    database = Database(config.database_url)
    etcd = Etcd(config.etcd)
    services = Services(
        database=database,
        authenticator=Authenticator(database, Verifier(config.secret("jwt.pem"))),
        redis=redis,
        state=StateReader(redis),
        lookups=lookups,
        router=Router(
            config.etcd,
            secret=config.secret("cluster_secret"),
            service="api",
            identity=config.identity,
            tls=config.cluster_certificates(),
            view_hint=lambda: _read_hint(redis),
        ),
        etcd=etcd,
        server_secret=config.secret("server_secret"),
        production=config.production,
    )
    await database.connect()
    try:
        async with etcd:
            yield services, Bindings(redis, lookups)
    finally:
        await database.close()
        await redis.aclose()


async def _read_hint(redis: Redis) -> bytes | None:
    value = await redis.get(VIEW_HINT_KEY)
    return value if isinstance(value, bytes) else None


async def _register(config: Config, etcd: Etcd) -> None:
    host, port = config.listen
    registration = Registration(
        incarnation=new_incarnation(),
        address=f"{host}:{port}",
        version=__version__,
        zone=config.zone,
    )
    await Membership(etcd, service="api", identity=config.identity, registration=registration).run()


async def serve_http(application: ASGIApp, address: tuple[str, int]) -> None:
    """Serve until cancelled; requests still running get `SHUTDOWN_GRACE`."""
    host, port = address
    server = Server(
        application, address=host, port=port, interface=Interfaces.ASGINL, log_enabled=False
    )
    serving = asyncio.create_task(server.serve(), name="http")
    log.info("listening", extra={"address": f"{host}:{port}"})
    try:
        await asyncio.shield(serving)
        raise RuntimeError("the HTTP server ended by itself")
    finally:
        server.stop()  # type: ignore[no-untyped-call]
        _, late = await asyncio.wait([serving], timeout=SHUTDOWN_GRACE)
        if late:
            serving.cancel()
            with suppress(asyncio.CancelledError):
                await serving
