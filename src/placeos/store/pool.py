"""A small, bounded pool of asyncpg connections.

asyncpg's own pool shields every release in a task and asks the server to reset the session;
here a connection is used by one statement or one transaction at a time and left clean by it,
so handing it on costs nothing. What is cancelled or broken is dropped, never handed on.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, Final

import asyncpg

Connect = Callable[[], Awaitable[Any]]

_SERVER_LOST = (  # OSError: time-outs too
    OSError,
    asyncpg.PostgresConnectionError,
    asyncpg.AdminShutdownError,
    asyncpg.CrashShutdownError,
    asyncpg.CannotConnectNowError,
    asyncpg.ReadOnlySQLTransactionError,
)
_SUSPECT = (*_SERVER_LOST, asyncpg.InterfaceError, asyncpg.InternalClientError)

MAX_WAITING: Final = 1000  # callers waiting for a connection; more are refused


class PoolError(OSError):
    """No connection can be had."""


class Pool:
    """Connections are made when they are needed and kept while they work."""

    def __init__(self, connect: Connect, *, size: int, timeout: float) -> None:
        self._connect = connect
        self._size = size
        self._timeout = timeout
        self._idle: list[Any] = []
        self._used: set[Any] = set()
        self._opening = 0
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._closed = False

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[Any]:
        """A connection for the time of the block. Raises PoolError and what connecting raises."""
        connection = self._take() or await self._acquire()
        try:
            yield connection
        except BaseException as error:
            self._settle(connection, error)
            raise
        else:
            self.release(connection)

    async def fetch(self, sql: str, *args: Any) -> list[Any]:
        """All rows of one statement."""
        async with self.connection() as connection:
            rows: list[Any] = await connection.fetch(sql, *args)
            return rows

    async def fetch_row(self, sql: str, *args: Any) -> Any:
        """The first row of one statement, or None. The hot path: reading one record."""
        connection = self._take() or await self._acquire()
        try:
            row = await connection.fetchrow(sql, *args)
        except BaseException as error:
            self._settle(connection, error)
            raise
        self.release(connection)
        return row

    def _take(self) -> Any:
        """A connection that is idle and stands, or None."""
        while self._idle:
            connection = self._idle.pop()
            if not connection.is_closed():
                self._used.add(connection)
                return connection
        return None

    async def _acquire(self) -> Any:
        """A connection: one that becomes free, or a new one."""
        try:
            async with asyncio.timeout(self._timeout):
                while True:
                    if self._closed:
                        raise PoolError("the pool is closed")
                    if (connection := self._take()) is not None:
                        return connection
                    if len(self._used) + self._opening < self._size:
                        break
                    await self._turn()
        except TimeoutError:
            raise PoolError(f"no connection became free within {self._timeout:g} s") from None
        return await self._open()

    def _settle(self, connection: Any, error: BaseException) -> None:
        """After an error: keep the connection only if the error did not come from it.

        If the server is gone, hangs or became read-only (it is no primary any more), idle
        connections to it are left too: each would cost another caller the same.
        """
        if isinstance(error, Exception) and not isinstance(error, _SUSPECT):
            self.release(connection)
            return
        self._drop(connection)
        if isinstance(error, _SERVER_LOST):
            while self._idle:
                self._idle.pop().terminate()

    def release(self, connection: Any) -> None:
        """Give a connection back that is in order."""
        if self._closed or connection.is_closed() or connection.is_in_transaction():
            self._drop(connection)
            return
        self._used.discard(connection)
        self._idle.append(connection)
        if self._waiting:
            self._wake()

    def close(self) -> None:
        """Cut off all connections; whoever waits is refused."""
        self._closed = True
        for connection in (*self._idle, *self._used):
            connection.terminate()
        self._idle.clear()
        self._used.clear()
        while self._waiting:
            self._wake()

    async def _turn(self) -> None:
        """Wait until something was given back."""
        if self._closed or len(self._waiting) >= MAX_WAITING:
            raise PoolError("too many wait for a connection")
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(future)
        try:
            await future
        except BaseException:
            if future.cancelled():
                self._waiting.remove(future)
            else:
                self._wake()  # the turn was given to one who no longer wants it
            raise

    async def _open(self) -> Any:
        self._opening += 1
        try:
            connection = await self._connect()
        except BaseException:
            self._wake()
            raise
        finally:
            self._opening -= 1
        if self._closed:
            connection.terminate()
            raise PoolError("the pool is closed")
        self._used.add(connection)
        return connection

    def _drop(self, connection: Any) -> None:
        self._used.discard(connection)
        connection.terminate()
        self._wake()

    def _wake(self) -> None:
        """Give the turn to the first who waits."""
        while self._waiting:
            future = self._waiting.popleft()
            if not future.done():
                future.set_result(None)
                return
