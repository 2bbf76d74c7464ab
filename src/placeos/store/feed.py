"""The change feed: which record changed, told by PostgreSQL's LISTEN/NOTIFY.

A notification only says "look again"; the reader re-reads the truth. Nothing is lost for long:
after every reconnect and once a minute the reader is told to look at everything.
No transaction-pooling proxy may stand between this connection and PostgreSQL.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable
from typing import Any

import asyncpg

from placeos.store.connecting import Primary

CHANNEL = "placeos_changes"
PROBE_EVERY = 5.0  # seconds
RESYNC_EVERY = 60.0  # seconds
CONNECT_TIMEOUT = 5.0  # seconds
BACK_OFF = (0.1, 5.0)  # seconds: first and longest pause between tries

log = logging.getLogger("placeos.store")


class ChangeFeed:
    """Follows the changes of all tables for ever; run it in a task of its owner.

    `on_change(table, id)` and `on_resync()` are called on the loop and must not block.
    """

    def __init__(
        self,
        database_url: str,
        on_change: Callable[[str, str], None],
        on_resync: Callable[[], None],
    ) -> None:
        self._primary = Primary(database_url)
        self._on_change = on_change
        self._on_resync = on_resync
        self.connected = False

    async def run(self) -> None:
        """Connect, listen, reconnect; until cancelled."""
        pause = BACK_OFF[0]
        while True:
            try:
                await self._follow()
            except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, TimeoutError) as error:
                if self.connected:
                    pause = BACK_OFF[0]
                log.warning("change feed lost", extra={"why": str(error) or repr(error)})
            finally:
                self.connected = False
            await asyncio.sleep(pause * random.uniform(0.75, 1.25))  # noqa: S311 - jitter
            pause = min(pause * 2, BACK_OFF[1])

    async def _follow(self) -> None:
        """One connection, until it is lost (raises)."""
        connection = await self._primary.connect(
            timeout=CONNECT_TIMEOUT, command_timeout=CONNECT_TIMEOUT
        )
        lost = asyncio.Event()
        try:
            connection.add_termination_listener(lambda _: lost.set())
            await connection.add_listener(CHANNEL, self._notified)
            self.connected = True
            log.info("change feed connected")
            await self._watch(connection, lost)
        finally:
            connection.terminate()

    async def _watch(self, connection: Any, lost: asyncio.Event) -> None:
        loop = asyncio.get_running_loop()
        resync_at = 0.0
        while True:
            if loop.time() >= resync_at:
                self._on_resync()
                resync_at = loop.time() + RESYNC_EVERY
            try:
                async with asyncio.timeout(PROBE_EVERY):
                    await lost.wait()
            except TimeoutError:
                if await connection.fetchval("SELECT pg_is_in_recovery()"):  # raises if it is away
                    raise ConnectionError("the server is a standby now") from None
            else:
                raise ConnectionError("the connection was closed")

    def _notified(self, _connection: Any, _pid: int, _channel: str, payload: object) -> None:
        table, _, id = str(payload).partition(" ")
        self._on_change(table, id)
