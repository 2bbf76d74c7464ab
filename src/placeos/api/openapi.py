"""The API's description (OpenAPI 3.1), made from the routes themselves. Needs no server."""

from __future__ import annotations

import re
from typing import Any, get_args

import msgspec

from placeos import __version__
from placeos.api.routes import BASE, Parameter, Role, Route
from placeos.model.rules import Entity, Failure, fields
from placeos.store.tables import TABLES

Json = dict[str, Any]

_TEMPLATE = "#/components/schemas/{name}"
_TYPES = {str: "string", int: "integer", bool: "boolean"}
_ROLES = {
    Role.PUBLIC: "Needs no credential.",
    Role.USER: "Any user.",
    Role.SUPPORT: "Support and administrators.",
    Role.ADMIN: "Administrators.",
}


class ErrorBody(msgspec.Struct):
    """What an error looks like; 403 has an empty body."""

    error: str


class ValidationErrorBody(ErrorBody):
    """A record breaks its rules."""

    failures: list[Failure]


def document() -> Json:
    """The description as a JSON object."""
    from placeos.api.app import all_routes  # the application imports this module

    routes = all_routes()
    types = _types(routes)
    schemas, components = msgspec.json.schema_components(
        types, schema_hook=lambda _: {"description": "any JSON value"}, ref_template=_TEMPLATE
    )
    by_type = dict(zip(map(_key, types), schemas, strict=True))
    paths: Json = {}
    for route in routes:
        described = paths.setdefault(f"{BASE}{route.path}".rstrip("/"), {})
        described[route.method.lower()] = _operation(route, by_type)
    for kind in TABLES:
        _apply_rules(components[kind.__name__], kind)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "PlaceOS",
            "version": __version__,
            "description": "The technology of buildings: systems, modules, drivers, zones.",
        },
        "servers": [{"url": "/"}],
        "security": [{"bearer": []}, {"apiKey": []}],
        "tags": [{"name": tag} for tag in dict.fromkeys(route.tag for route in routes)],
        "paths": paths,
        "components": {
            "schemas": components,
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer", "bearerFormat": "JWT"},
                "apiKey": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
            },
        },
    }


def _types(routes: list[Route]) -> list[Any]:
    wanted = {_key(kind): kind for kind in (ErrorBody, ValidationErrorBody, *TABLES)}
    for route in routes:
        for kind in (route.body, route.returns):
            if kind is not None:
                wanted[_key(kind)] = kind
    return list(wanted.values())


def _key(kind: Any) -> str:
    return repr(kind)


def _operation(route: Route, schemas: dict[str, Any]) -> Json:
    described: Json = {
        "operationId": _operation_id(route),
        "summary": route.summary,
        "description": _description(route),
        "tags": [route.tag],
        "parameters": [*_path_parameters(route), *map(_parameter, route.query)],
        "responses": _responses(route, schemas),
    }
    if route.role == Role.PUBLIC:
        described["security"] = []
    if route.body is not None:
        content = {"application/json": {"schema": schemas[_key(route.body)]}}
        described["requestBody"] = {"required": True, "content": content}
    return described


def _description(route: Route) -> str:
    parts = [_ROLES[route.role]]
    if route.scopes:
        access = route.access.capitalize()
        parts.append("Scope: " + " or ".join(f"`{scope}.{access}`" for scope in route.scopes) + ".")
    return " ".join(parts)


def _operation_id(route: Route) -> str:
    words = re.sub(r"[^a-z0-9]+", "_", route.path.lower()).strip("_")
    return f"{route.method.lower()}_{words or 'root'}"


def _path_parameters(route: Route) -> list[Json]:
    return [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
        for name in re.findall(r"\{(\w+)\}", route.path)
    ]


def _parameter(parameter: Parameter) -> Json:
    described: Json = {
        "name": parameter.name,
        "in": "query",
        "required": parameter.required,
        "schema": {"type": _TYPES[parameter.type]},
    }
    if parameter.summary:
        described["description"] = parameter.summary
    return described


def _responses(route: Route, schemas: dict[str, Any]) -> Json:
    success: Json = {"description": "Done"}
    if route.returns is not None:
        success["content"] = {route.media_type: {"schema": schemas[_key(route.returns)]}}
    elif route.media_type != "application/json":
        success["content"] = {route.media_type: {"schema": {"type": "string"}}}
    if route.method == "GET" and any(one.name == "limit" for one in route.query):
        success["headers"] = _paging_headers()
    responses: Json = {str(route.status): success}
    if route.role != Role.PUBLIC:
        responses["401"] = _error("The credential is missing or refused.")
        responses["403"] = {"description": "Role or scope does not suffice; empty body."}
    if "{" in route.path:
        responses["404"] = _error("No such record.")
    if route.body is not None:
        responses["400"] = _error("The JSON is broken or of a wrong shape.")
        responses["413"] = _error("The body is too large.")
        responses["415"] = _error("The body is not JSON.")
        responses["422"] = _error("The record breaks its rules.", "ValidationErrorBody")
    return responses


def _error(description: str, schema: str = "ErrorBody") -> Json:
    reference = {"$ref": _TEMPLATE.format(name=schema)}
    return {"description": description, "content": {"application/json": {"schema": reference}}}


def _paging_headers() -> Json:
    texts = {
        "X-Total-Count": "How many records there are in all.",
        "Content-Range": "`<table> <from>-<to>/<total>`; the upper figure is exclusive.",
        "Link": "The next page, while there is one.",
    }
    return {
        name: {"description": text, "schema": {"type": "string"}} for name, text in texts.items()
    }


def _apply_rules(schema: Json, kind: type[Entity]) -> None:
    """Hide what is never shown, and say what cannot be written and what is bounded."""
    for field in fields(kind).values():
        if field.rule.hidden:
            schema["properties"].pop(field.name, None)
            continue
        described = schema["properties"][field.name]
        if field.rule.read_only:
            described["readOnly"] = True
        text = field.type is str or str in get_args(field.type)
        if text and not field.rule.read_only:
            described["maxLength"] = field.rule.max_length
