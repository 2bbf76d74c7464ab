"""PostgreSQL: tables, queries, migrations and the change feed."""

from placeos.store.database import Database, Session
from placeos.store.errors import Refused, Unavailable
from placeos.store.feed import ChangeFeed

__all__ = ["ChangeFeed", "Database", "Refused", "Session", "Unavailable", "migrate"]


def migrate(database_url: str, revision: str = "head") -> None:
    """Run the migrations that are missing. Several processes may call it at once.

    Blocks: it has an event loop of its own in a thread, so it may be called from anywhere.
    """
    from placeos.store.migrating import upgrade  # Alembic is slow to import, and rarely needed

    upgrade(database_url, revision)
