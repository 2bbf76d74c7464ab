"""The services as commands, for running them against engines of one's own."""

from __future__ import annotations

import runpy

from placeos.cli.output import ASKED_WRONGLY, CliError


def core() -> None:
    """Run a core: the service that runs modules. Configured by PLACEOS_* variables."""
    run("core")


def auth() -> None:
    """Run the sign-in service. Configured by PLACEOS_* variables."""
    run("auth")


def run(name: str) -> None:
    """Run a service in this process, as `python -m placeos.<name>` does."""
    try:
        import placeos.service  # noqa: F401
    except ImportError as error:
        raise CliError(
            f"this installation has no services ({error.name or error} is missing)",
            hint="Install them with: pip install 'placeos[server]'",
            exit_code=ASKED_WRONGLY,
        ) from error
    runpy.run_module(f"placeos.{name}", run_name="__main__", alter_sys=True)
