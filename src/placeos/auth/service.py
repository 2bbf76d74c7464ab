"""The auth service as a process: everything it owns, started and stopped in order."""

from __future__ import annotations

import asyncio
import logging

from granian.constants import HTTPModes, Interfaces
from granian.server.embed import Server
from litestar.types import ASGIApp

from placeos.auth.app import Auth, create_app
from placeos.auth.directory import Directory
from placeos.auth.grants import Grants
from placeos.auth.passwords import PasswordChecker
from placeos.config import Config
from placeos.store import ChangeFeed, Database

STOP_TIMEOUT = 3.0  # seconds that requests under way may take when the service stops

log = logging.getLogger("placeos.auth")


async def main(config: Config) -> None:
    """Serve until cancelled."""
    signing_key = config.secret("jwt.pem")
    database = Database(config.database_url, size=5)
    checker = PasswordChecker()
    directory = Directory(database)
    grants = Grants(database, signing_key, checker)
    app = create_app(Auth(directory, grants, signing_key, production=config.production))
    feed = ChangeFeed(config.database_url, directory.changed, directory.resync)
    await database.connect()
    try:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(feed.run(), name="change feed")
            tasks.create_task(directory.run(), name="directory")
            tasks.create_task(serve(app, *config.listen), name="http")
    finally:
        checker.close()
        await database.close()


async def serve(app: ASGIApp, host: str, port: int) -> None:
    """Serve HTTP until cancelled. Raises RuntimeError if the server ends by itself."""
    server = Server(
        app,
        address=host,
        port=port,
        interface=Interfaces.ASGINL,
        http=HTTPModes.http1,
        websockets=False,
        log_enabled=False,
        log_access=False,
    )
    serving = asyncio.create_task(server.serve(), name="granian")
    log.info("serving", extra={"address": f"{host}:{port}"})
    try:
        await asyncio.shield(serving)
    except asyncio.CancelledError:
        server.stop()  # type: ignore[no-untyped-call]
        await asyncio.wait([serving], timeout=STOP_TIMEOUT)
        serving.cancel()
        raise
    raise RuntimeError("the HTTP server ended")
