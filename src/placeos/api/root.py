"""Health, version, scopes and the description of the API."""

from __future__ import annotations

from functools import cache
from typing import Any

import msgspec
from redis.asyncio import Redis

from placeos import __version__
from placeos.api import errors
from placeos.api.call import Call, Reply, nothing, reply
from placeos.api.docs import page
from placeos.api.routes import Role, Route
from placeos.model.scopes import RESOURCES
from placeos.state.client import UNAVAILABLE
from placeos.store import Unavailable


def routes() -> list[Route]:
    """All routes that belong to no resource."""
    common: dict[str, Any] = {"tag": "Root"}
    return [
        Route(method="GET", path="/", handler=health, role=Role.PUBLIC,
              summary="Whether the API works", **common),
        Route(method="GET", path="/version", handler=version, role=Role.USER,
              returns=dict[str, str], summary="Version of this service", **common),
        Route(method="GET", path="/platform", handler=platform_info, role=Role.USER,
              returns=dict[str, str], summary="Version of the platform", **common),
        Route(method="GET", path="/scopes", handler=scopes, role=Role.USER, returns=list[str],
              summary="Names of scopes", **common),
        Route(method="GET", path="/openapi.json", handler=openapi, role=Role.PUBLIC,
              returns=dict[str, object], summary="This description", **common),
        Route(method="GET", path="/docs", handler=docs, role=Role.PUBLIC,
              media_type="text/html; charset=utf-8", summary="This description to read", **common),
    ]  # fmt: skip


async def health(call: Call) -> Reply:
    """Empty when PostgreSQL and Redis answer, else a 500."""
    redis: Redis = call.services.redis
    try:
        await call.database.fetch_row("SELECT 1")
        await redis.ping()
    except (Unavailable, *UNAVAILABLE) as error:
        raise errors.ApiError(500, {"error": str(error)}) from error
    return nothing()


async def version(call: Call) -> Reply:
    """Version of this service."""
    return reply(
        {
            "service": "api",
            "commit": "",
            "version": f"v{__version__}",
            "build_time": "",
            "platform_version": f"v{__version__}",
        }
    )


async def platform_info(call: Call) -> Reply:
    """Version of the platform."""
    return reply({"version": f"v{__version__}", "changelog": ""})


async def scopes(call: Call) -> Reply:
    """What a token can be limited to."""
    return reply(RESOURCES)


async def openapi(call: Call) -> Reply:
    """The description as JSON."""
    return Reply(msgspec.json.encode(_document()))


async def docs(call: Call) -> Reply:
    """The description as a page."""
    return Reply(_page(), media_type=call.route.media_type)


@cache
def _document() -> dict[str, object]:
    from placeos.api.openapi import document  # it describes this module too

    return document()


@cache
def _page() -> bytes:
    return page(_document()).encode()
