"""The routes of the auth service.

The browser sign-in (`/auth/login`, `/auth/signin`), the authorisation code flow and the
providers of single sign-on belong here as well, one file each.
"""

from __future__ import annotations

import logging
import re
import uuid
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import parse_qs, quote, urlsplit

import msgspec
from litestar import Litestar, Request, Response, get, post, route
from litestar.exceptions import HTTPException
from litestar.types import ASGIApp, Message, Receive, Scope, Send

from placeos.auth import requests
from placeos.auth.directory import Directory
from placeos.auth.grants import Asker, Grants
from placeos.auth.oauth import OAuthError, profile
from placeos.auth.requests import HTTPRequest
from placeos.model.authority import Authority
from placeos.model.tokens import Claims, key_set
from placeos.model.user import User
from placeos.store import Unavailable

VERSION: Final = "v2.0.0"
"""What clients look for to tell the API's generation; not the version of this software."""

JSON: Final = "application/json"
_NO_STORE: Final = {"Cache-Control": "no-store", "Pragma": "no-cache"}

_SKIPPED: Final = re.compile(r"[\x00-\x1f\x7f]")
"""What browsers drop from addresses: with it `/<tab>/other.site` names another site."""
_URL_CHARACTERS: Final = "!#$%&'()*+,/:;=?@[]~"

log = logging.getLogger("placeos.auth")


class Auth:
    """What the handlers work with."""

    def __init__(
        self, directory: Directory, grants: Grants, signing_key: bytes, *, production: bool
    ) -> None:
        self.directory = directory
        self.grants = grants
        self.keys = key_set(signing_key)
        self.production = production

    def authority(self, request: HTTPRequest) -> Authority:
        """The domain a request is for. Raises OAuthError if there is none."""
        found = self.directory.find(requests.host_name(request.headers))
        if found is None:
            raise OAuthError("invalid_request", "no authority for this host name")
        return found

    async def caller(self, request: HTTPRequest) -> tuple[Claims, User] | None:
        """Who the access token of a request belongs to."""
        token = requests.bearer(request.headers, request.query_params, request.cookies)
        return await self.grants.user(token, self.authority(request)) if token else None


def _auth(request: HTTPRequest) -> Auth:
    auth: Auth = request.app.state.auth
    return auth


# -- the domain -------------------------------------------------------------------------------


@route("/auth/authority", http_method=["GET", "HEAD"])
async def authority(request: Request[Any, Any, Any]) -> Response[bytes]:
    """The domain of the host name, for clients that are about to sign in."""
    auth = _auth(request)
    found = auth.directory.find(requests.host_name(request.headers))
    if found is None:
        return _empty(200 if "health" in request.query_params else 404)
    token = requests.bearer(request.headers, request.query_params, request.cookies)
    valid = await _is_valid(auth, token, found)
    return _json(
        {
            "id": found.id,
            "name": found.name,
            "description": found.description,
            "domain": found.domain,
            "login_url": found.login_url,
            "logout_url": found.logout_url,
            "config": found.config,
            "email_domains": found.email_domains,
            "updated_at": found.updated_at,
            "version": VERSION,
            "session": False,
            "token_valid": valid,
            "production": auth.production,
        }
    )


async def _is_valid(auth: Auth, token: str, found: Authority) -> bool:
    """Clients read the domain before anything else, so that works without the database."""
    try:
        return bool(token) and await auth.grants.user(token, found) is not None
    except Unavailable:
        return False


# -- tokens -----------------------------------------------------------------------------------


@post(["/auth/oauth/token", "/auth/token"], status_code=200)
async def token(request: Request[Any, Any, Any]) -> Response[bytes]:
    """Issue tokens. With `token` and no `grant_type` it revokes, as old clients ask it to."""
    auth = _auth(request)
    given = await requests.parameters(request)
    if given.get("token") and not given.get("grant_type"):
        await auth.grants.revoke(given["token"])
        return _json({}, headers=_NO_STORE)
    asker = Asker(
        auth.authority(request),
        requests.origin(request.headers),
        requests.address(request),
        requests.client_id(request.headers, given),
    )
    return _json(await auth.grants.token(asker, given), headers=_NO_STORE)


@post("/auth/oauth/revoke", status_code=200)
async def revoke(request: Request[Any, Any, Any]) -> Response[bytes]:
    """Revoke a token (RFC 7009). One that is unknown counts as revoked."""
    given = await requests.parameters(request)
    if not given.get("token"):
        raise OAuthError("invalid_request", "token is missing")
    await _auth(request).grants.revoke(given["token"])
    return _json({}, headers=_NO_STORE)


@route("/auth/oauth/token/info", http_method=["GET", "HEAD"])
async def token_info(request: Request[Any, Any, Any]) -> Response[bytes]:
    """What the access token of the request says."""
    caller = await _auth(request).caller(request)
    if caller is None:
        return _invalid_token()
    claims, _ = caller
    return _json(
        {
            "resource_owner_id": claims.sub,
            "scope": claims.scope,
            "expires_in": claims.exp - claims.iat,
            "expires_at": claims.exp,
            "created_at": claims.iat,
        },
        headers=_NO_STORE,
    )


@route("/auth/oauth/userinfo", http_method=["GET", "HEAD", "POST"])
async def userinfo(request: Request[Any, Any, Any]) -> Response[bytes]:
    """The profile of the user (OpenID Connect Core, 5.3)."""
    caller = await _auth(request).caller(request)
    return _invalid_token() if caller is None else _json(profile(caller[1]), headers=_NO_STORE)


@route("/auth/oauth/discovery/keys", http_method=["GET", "HEAD"])
async def keys(request: Request[Any, Any, Any]) -> Response[bytes]:
    """The public key that tokens are signed with (RFC 7517)."""
    return _json(_auth(request).keys, headers={"Cache-Control": "public, max-age=300"})


# -- signing out ------------------------------------------------------------------------------


@get("/auth/logout")
async def logout(request: Request[Any, Any, Any]) -> Response[bytes]:
    """End all of the user's tokens, then send the browser on."""
    auth = _auth(request)
    caller = await auth.caller(request)
    if caller is not None:
        await auth.grants.sign_out(*caller)
    target = after_logout(
        request.query_params.get("continue", ""), auth.authority(request).logout_url
    )
    response = _empty(303, headers={"Location": target, **_NO_STORE})
    for cookie, path in (("user", "/auth"), ("verified", "/"), ("bearer_token", "/")):
        response.delete_cookie(cookie, path=path)
    return response


def after_logout(wish: str, logout_url: str) -> str:
    """Where to go after signing out: a path of this domain, else where the domain says."""
    wish = _SKIPPED.sub("", wish)
    if wish.startswith("/") and not wish.startswith(("//", "/\\")):
        return quote(wish, safe=_URL_CHARACTERS)
    parts = urlsplit(logout_url)
    if parts.path == "/auth/logout":  # that is where we are
        return parse_qs(parts.query).get("continue", ["/"])[0]
    return logout_url or "/"


# -- answers ----------------------------------------------------------------------------------


def _json(
    content: object, *, status: int = 200, headers: Mapping[str, str] | None = None
) -> Response[bytes]:
    body = msgspec.json.encode(content)
    return Response(body, status_code=status, media_type=JSON, headers=dict(headers or {}))


def _empty(status: int, *, headers: Mapping[str, str] | None = None) -> Response[bytes]:
    return Response(b"", status_code=status, media_type=JSON, headers=dict(headers or {}))


def _invalid_token() -> Response[bytes]:
    description = "the access token is missing, expired or revoked"
    challenge = f'Bearer error="invalid_token", error_description="{description}"'
    body = {"error": "invalid_token", "error_description": description}
    return _json(body, status=401, headers={"WWW-Authenticate": challenge})


def _refused(_: HTTPRequest, error: OAuthError) -> Response[bytes]:
    headers = dict(_NO_STORE)
    if error.retry_after:
        headers["Retry-After"] = str(error.retry_after)
    if error.status == 401:
        headers["WWW-Authenticate"] = "Basic"
    body = {"error": error.error, "error_description": error.description}
    return _json(body, status=error.status, headers=headers)


def _unavailable(_: HTTPRequest, error: Unavailable) -> Response[bytes]:
    log.warning("database unavailable", extra={"why": str(error)})
    description = "sign-in is not possible at present: the database does not answer"
    body = {"error": "temporarily_unavailable", "error_description": description}
    return _json(body, status=503, headers={"Retry-After": "1", **_NO_STORE})


def _http_error(_: HTTPRequest, error: HTTPException) -> Response[bytes]:
    return _json({"error": error.detail}, status=error.status_code, headers=error.headers)


def _unexpected(_: HTTPRequest, error: Exception) -> Response[bytes]:
    log.error("request failed", exc_info=error)
    return _json({}, status=500)


class _RequestId:
    """Every answer carries `X-Request-ID`: the request's own or a new one."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        given = next((v for n, v in scope.get("headers", ()) if n == b"x-request-id"), b"")
        known = given[:128] or str(uuid.uuid4()).encode()

        async def sending(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], (b"x-request-id", known)]
            await send(message)

        await self._app(scope, receive, sending)


def create_app(auth: Auth) -> ASGIApp:
    """The ASGI application."""
    app = Litestar(
        [authority, token, revoke, token_info, userinfo, keys, logout],
        exception_handlers={
            OAuthError: _refused,
            Unavailable: _unavailable,
            HTTPException: _http_error,
            Exception: _unexpected,
        },
        openapi_config=None,
        logging_config=None,
    )
    app.state.auth = auth
    return _RequestId(app)
