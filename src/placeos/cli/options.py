"""Options that the client's commands share, and the way from them to a connection.

What is heavy is imported only when a command runs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from placeos.cli.client import Client

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
Url = Annotated[
    str | None,
    typer.Option("--url", envvar="PLACEOS_URL", help="The platform's address.", metavar="URL"),
]
ApiKey = Annotated[
    str | None,
    typer.Option(
        "--api-key",
        envvar="PLACEOS_API_KEY",
        help="Use this key instead of the login.",
        metavar="KEY",
    ),
]


def connect(url: str | None, api_key: str | None) -> Client:
    """A client for the session that the options name. Raises CliError when not logged in."""
    from placeos.cli.client import Client
    from placeos.cli.session import current

    return Client(current(url, api_key))
