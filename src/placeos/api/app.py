"""The REST application."""

from __future__ import annotations

from typing import Any

from litestar import Litestar, Request, Response
from litestar.types import ASGIApp

from placeos.api import (
    api_keys,
    cluster,
    cluster_orders,
    cluster_view,
    domains,
    drivers,
    errors,
    modules,
    repositories,
    root,
    settings,
    systems,
    users,
    zones,
)
from placeos.api import build as jobs
from placeos.api.call import Services
from placeos.api.http import MAX_DRAIN, Front
from placeos.api.routes import Route, build

_PARTS = (
    root,
    systems,
    modules,
    drivers,
    zones,
    settings,
    repositories,
    users,
    domains,
    api_keys,
    cluster,
    cluster_view,
    cluster_orders,
    jobs,
)


def all_routes() -> list[Route]:
    """Every route of the API."""
    return [route for part in _PARTS for route in part.routes()]


def create(services: Services) -> ASGIApp:
    """The ASGI application."""

    def answer(request: Request[Any, Any, Any], error: Exception) -> Response[bytes]:
        return errors.answer(request, error, production=services.production)

    litestar = Litestar(
        build(all_routes(), services),
        exception_handlers={Exception: answer},
        openapi_config=None,
        logging_config=None,
        request_max_body_size=MAX_DRAIN,
    )
    return Front(litestar)
