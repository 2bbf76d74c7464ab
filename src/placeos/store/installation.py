"""What outlives etcd of the cluster: its epoch, and the newest view that any core took.

By it a core that starts can tell a new installation from one whose etcd lost its data.
"""

from __future__ import annotations

from typing import Final

import msgspec

from placeos.store.database import Database

_FIRST: Final = """
INSERT INTO installation (epoch) VALUES ($1) ON CONFLICT DO NOTHING"""
_READ: Final = "SELECT epoch, progress, view::text AS view FROM installation"
_RECORD: Final = """
UPDATE installation SET progress = $1, view = $2::text::jsonb WHERE progress < $1"""


class Installation(msgspec.Struct, frozen=True):
    """`progress` grows with views; `view` is JSON, empty before the first."""

    epoch: str
    progress: int = 0
    view: bytes = b""


async def installation(database: Database, epoch: str) -> Installation:
    """What is known; `epoch` becomes that of an installation which has none yet. Raises
    Unavailable."""
    await database.execute(_FIRST, epoch)
    row = await database.fetch_row(_READ)
    assert row is not None
    view = row["view"]
    return Installation(row["epoch"], row["progress"], view.encode() if view else b"")


async def record(database: Database, progress: int, view: bytes) -> None:
    """A core took this view: keep it, unless a newer one is known. Raises Unavailable."""
    await database.execute(_RECORD, progress, view.decode())
