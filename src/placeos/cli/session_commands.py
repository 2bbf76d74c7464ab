"""`placeos login` and `placeos logout`."""

from __future__ import annotations

from typing import Annotated

import typer

from placeos.cli import session as sessions
from placeos.cli.output import ASKED_WRONGLY, CliError
from placeos.cli.session import DEFAULT_URL, Session


def login(
    url: Annotated[
        str, typer.Argument(envvar="PLACEOS_URL", help="The platform's address.")
    ] = DEFAULT_URL,
    email: Annotated[
        str | None, typer.Option("--email", envvar="PLACEOS_EMAIL", help="Asked for if missing.")
    ] = None,
    password: Annotated[
        str | None,
        typer.Option(
            "--password",
            envvar="PLACEOS_PASSWORD",
            help="Asked for if missing; better so, or in the environment.",
        ),
    ] = None,
    api_key: Annotated[
        str | None,
        typer.Option("--api-key", envvar="PLACEOS_API_KEY", help="Keep this key instead."),
    ] = None,
) -> None:
    """Log in to a platform; the commands after this one use it."""
    from placeos.cli.client import Client, log_in

    url = _checked(url)
    if api_key:
        session = Session(url=url, api_key=api_key)
    else:
        email = email or typer.prompt("E-mail")
        password = password or typer.prompt("Password", hide_input=True)
        session = log_in(url, email, password)
    with Client(session) as client:
        who = client.get("/users/current", dict[str, object])
    sessions.save(session)
    name = who.get("name") or who.get("email") or "you"
    typer.echo(f"Logged in to {session.url} as {name}.")


def logout() -> None:
    """Forget the login kept on this machine."""
    typer.echo("Logged out." if sessions.forget() else "You were not logged in.")


def _checked(url: str) -> str:
    if "://" not in url:
        local = url.split(":")[0] in ("localhost", "127.0.0.1")
        url = f"{'http' if local else 'https'}://{url}"
    if not url.startswith(("http://", "https://")):
        raise CliError(
            f"{url} is no address of a platform",
            hint=f"It looks like {DEFAULT_URL}",
            exit_code=ASKED_WRONGLY,
        )
    return url.rstrip("/")
