"""The client's REST calls: credentials, renewal of tokens, and errors in words."""

from __future__ import annotations

import time
from types import TracebackType
from typing import Any, Self, TypeVar

import httpx
import msgspec

from placeos.cli import session as sessions
from placeos.cli.output import ASKED_WRONGLY, CliError
from placeos.cli.session import CLIENT_ID, Session

TIMEOUT = 35.0  # seconds
_BASE = "/api/engine/v2"
_LOG_IN_AGAIN = "Log in again with: placeos login"
_T = TypeVar("_T")


class _Tokens(msgspec.Struct):
    access_token: str
    expires_in: float = 7200
    refresh_token: str = ""


class _Refusal(msgspec.Struct):
    error: str = ""
    error_description: str = ""
    message: str | None = None
    failures: list[dict[str, str]] = []


class Client:
    """Calls to one platform as one session. Use as a context manager."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._http = httpx.Client(base_url=session.url, timeout=TIMEOUT)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._http.close()

    @property
    def url(self) -> str:
        """The platform's address."""
        return self._session.url

    def get(self, path: str, type: type[_T], **query: object) -> _T:
        """GET below the API's base path, decoded. Raises CliError."""
        answer = self._send("GET", path, query=query)
        try:
            return msgspec.json.decode(answer.content, type=type)
        except msgspec.DecodeError as error:
            raise CliError(f"{self.url} answered something unexpected: {error}") from error

    def post(self, path: str, body: object, *, timeout: float = TIMEOUT) -> bytes:
        """POST, returning the raw answer. Raises CliError."""
        return self._send("POST", path, body=msgspec.json.encode(body), timeout=timeout).content

    def patch(self, path: str, body: object) -> None:
        """PATCH some members of a record. Raises CliError."""
        self._send("PATCH", path, body=msgspec.json.encode(body))

    def put(self, path: str) -> None:
        """PUT without a body. Raises CliError."""
        self._send("PUT", path)

    def delete(self, path: str) -> None:
        """DELETE. Raises CliError."""
        self._send("DELETE", path)

    def credential(self) -> dict[str, str]:
        """A header that is valid for at least a minute. Raises CliError."""
        if self._session.stale:
            self._renew()
        return self._session.credential

    def _send(
        self,
        method: str,
        path: str,
        *,
        query: Any = None,
        body: bytes | None = None,
        timeout: float = TIMEOUT,
    ) -> httpx.Response:
        answer = self._once(method, path, query, body, timeout)
        if answer.status_code == 401 and self._session.refresh_token:
            self._renew()
            answer = self._once(method, path, query, body, timeout)
        if answer.is_success:
            return answer
        raise explain(answer)

    def _once(
        self, method: str, path: str, query: Any, body: bytes | None, timeout: float
    ) -> httpx.Response:
        headers = {**self.credential(), "Content-Type": "application/json"}
        try:
            return self._http.request(
                method,
                f"{_BASE}{path}",
                params=query,
                content=body,
                headers=headers,
                timeout=timeout,
            )
        except httpx.TransportError as error:
            raise unreachable(self.url, error) from error

    def _renew(self) -> None:
        """Exchange the refresh token; another command may have done so a moment ago."""
        with sessions.changing():
            kept = sessions.load()
            if kept is not None and kept.access_token != self._session.access_token:
                self._session = kept
                return
            self._session = fetch_tokens(
                self._http,
                self._session,
                grant_type="refresh_token",
                refresh_token=self._session.refresh_token,
            )
            sessions.save(self._session)


def log_in(url: str, email: str, password: str) -> Session:
    """Exchange e-mail and password for a session. Raises CliError."""
    session = Session(url=url.rstrip("/"), email=email)
    with httpx.Client(base_url=session.url, timeout=TIMEOUT) as http:
        return fetch_tokens(
            http, session, grant_type="password", username=email, password=password, scope="public"
        )


def fetch_tokens(http: httpx.Client, session: Session, **form: str) -> Session:
    """Ask the token endpoint. Raises CliError: exit code 2 when the credential is refused."""
    try:
        answer = http.post("/auth/oauth/token", data={"client_id": CLIENT_ID, **form})
    except httpx.TransportError as error:
        raise unreachable(session.url, error) from error
    if answer.status_code in (400, 401):
        refused = form["grant_type"] == "password"
        what = "e-mail or password is wrong" if refused else "the login has ended"
        raise CliError(what, hint="" if refused else _LOG_IN_AGAIN, exit_code=ASKED_WRONGLY)
    if not answer.is_success:
        raise explain(answer)
    try:
        tokens = msgspec.json.decode(answer.content, type=_Tokens)
    except msgspec.DecodeError as error:
        raise CliError(f"{session.url} does not answer like PlaceOS: {error}") from error
    return Session(
        url=session.url,
        email=session.email,
        access_token=tokens.access_token,
        refresh_token=tokens.refresh_token,
        expires_at=time.time() + tokens.expires_in,
    )


def unreachable(url: str, error: Exception) -> CliError:
    """Nobody answers there."""
    reason = str(error) or type(error).__name__
    return CliError(
        f"cannot reach {url}: {reason}",
        hint="Is it running? Start one here with: placeos up",
    )


def explain(answer: httpx.Response) -> CliError:
    """An error answer in words."""
    try:
        refusal = msgspec.json.decode(answer.content, type=_Refusal)
    except (msgspec.DecodeError, UnicodeDecodeError):
        refusal = _Refusal()
    words = refusal.message or refusal.error or refusal.error_description
    status = answer.status_code
    if status == 401 and not answer.request.url.path.count("/systems/"):
        return CliError(
            f"not let in: {words or 'the credential is not valid'}",
            hint=_LOG_IN_AGAIN,
            exit_code=ASKED_WRONGLY,
        )
    if status == 403:
        return CliError("you may not do that: it needs more rights than this login has")
    details = "; ".join(
        f"{failure.get('field', '')} {failure.get('reason', '')}" for failure in refusal.failures
    )
    text = f"{words}: {details}" if details else words
    return CliError(text or f"the platform answered {status} {answer.reason_phrase}", status=status)
