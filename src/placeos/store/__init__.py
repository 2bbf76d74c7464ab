"""PostgreSQL: tables, queries, migrations and the change feed."""

from placeos.store.database import Database, Session
from placeos.store.errors import Refused, Unavailable
from placeos.store.feed import ChangeFeed
from placeos.store.migrate import migrate

__all__ = ["ChangeFeed", "Database", "Refused", "Session", "Unavailable", "migrate"]
