"""`placeos driver`: what an author of drivers uses."""

from placeos.cli.driver.commands import app

__all__ = ["app"]
