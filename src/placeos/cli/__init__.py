"""The command line: `placeos up` for a platform on this machine, services, and a client."""

from __future__ import annotations

import sys


def main() -> None:
    """Entry point. Exit codes: 0 done, 1 the platform could not do it, 2 asked wrongly."""
    from placeos.cli.app import app
    from placeos.cli.output import CliError, complain

    try:
        app()
    except CliError as error:
        complain(error)
        sys.exit(error.exit_code)


__all__ = ["main"]
