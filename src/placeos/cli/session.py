"""Who we are to which platform: kept in the user's configuration folder, for nobody else."""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import typer

from placeos.cli.output import ASKED_WRONGLY, CliError

DEFAULT_URL = "http://localhost:8080"
CLIENT_ID = "placeos-cli"
_LOGIN = "Log in with: placeos login"


class Session(msgspec.Struct, kw_only=True):
    """One login. Either an API key, or tokens (`expires_at` in unix seconds)."""

    url: str
    email: str = ""
    api_key: str = ""
    access_token: str = ""
    refresh_token: str = ""
    expires_at: float = 0

    @property
    def credential(self) -> dict[str, str]:
        """The header that proves who we are."""
        if self.api_key:
            return {"X-API-Key": self.api_key}
        return {"Authorization": f"Bearer {self.access_token}"}

    @property
    def stale(self) -> bool:
        """Whether the token ends within a minute."""
        return not self.api_key and time.time() > self.expires_at - 60


def file() -> Path:
    """Where the session is kept."""
    return Path(typer.get_app_dir("placeos")) / "session.json"


def load() -> Session | None:
    """The session kept, or None. Raises CliError if it cannot be read."""
    try:
        return msgspec.json.decode(file().read_bytes(), type=Session)
    except FileNotFoundError:
        return None
    except (OSError, msgspec.DecodeError) as error:
        raise CliError(
            f"the login kept in {file()} cannot be read: {error}",
            hint=_LOGIN,
            exit_code=ASKED_WRONGLY,
        ) from error


def save(session: Session) -> None:
    """Keep the session for the next command."""
    place = file()
    place.parent.mkdir(parents=True, exist_ok=True)
    draft = place.with_name(f".session.{os.getpid()}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as stream:
        stream.write(msgspec.json.encode(session))
    draft.replace(place)


def forget() -> bool:
    """Remove the session. Says whether there was one."""
    try:
        file().unlink()
    except FileNotFoundError:
        return False
    return True


def current(url: str | None, api_key: str | None) -> Session:
    """The session to use: an API key given now, else the login kept. Raises CliError."""
    if api_key:
        kept = None if url else load()
        return Session(url=url or (kept.url if kept else DEFAULT_URL), api_key=api_key)
    session = load()
    if session is None:
        raise CliError("you are not logged in", hint=_LOGIN, exit_code=ASKED_WRONGLY)
    if url and url.rstrip("/") != session.url:
        raise CliError(
            f"you are logged in to {session.url}, not to {url}",
            hint=f"Log in with: placeos login {url}",
            exit_code=ASKED_WRONGLY,
        )
    return session


@contextlib.contextmanager
def changing() -> Iterator[None]:
    """Hold the session while it is renewed: a refresh token may be used once only."""
    place = file()
    place.parent.mkdir(parents=True, exist_ok=True)
    with place.with_name("session.lock").open("w") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        yield
