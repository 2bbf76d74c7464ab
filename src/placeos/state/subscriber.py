"""One pub/sub connection to Redis that comes back by itself."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Final, cast

from redis.asyncio import Redis
from redis.asyncio.connection import AbstractConnection

from placeos.state.client import UNAVAILABLE, checkpoint

log = logging.getLogger("placeos.state")

PROBE: Final = 2.0  # seconds of silence before a ping; twice that without an answer is a loss
BACKOFF: Final = (0.05, 1.0)  # seconds: first and longest pause between connections
BATCH: Final = 500  # channels in one command


class _Channel:
    """`unconfirmed` counts SUBSCRIBE commands whose confirmation has not come yet."""

    __slots__ = ("unconfirmed", "wanted")

    def __init__(self) -> None:
        self.wanted = True
        self.unconfirmed = 0


class Subscriber:
    """Follows channels; the owner runs `run()` in a task.

    `on_message(channel, data)` for every message; `on_live(channels)` once a subscription is
    confirmed – from then on nothing published there is missed, so what was published before
    should be read now; `on_up()` after each (re)connection, before any `on_live`; `on_down()`.
    All are called on the loop and must not block.
    """

    def __init__(
        self,
        redis: Redis,
        *,
        on_message: Callable[[bytes, bytes], None],
        on_live: Callable[[bytes], None],
        on_up: Callable[[], None],
        on_down: Callable[[], None],
    ) -> None:
        self._redis = redis
        self._on_message = on_message
        self._on_live = on_live
        self._on_up = on_up
        self._on_down = on_down
        self._channels: dict[bytes, _Channel] = {}
        self._changed: dict[bytes, None] = {}  # channels whose wish differs from the last word
        self._wake = asyncio.Event()
        self._connection: AbstractConnection | None = None
        self.is_up = False

    def follow(self, channel: bytes) -> None:
        """Begin to follow a channel; `on_live` tells when it is so."""
        known = self._channels.get(channel)
        if known is None:
            self._channels[channel] = _Channel()
        else:
            known.wanted = True
        self._changed[channel] = None
        self._wake.set()

    def forget(self, channel: bytes) -> None:
        """Stop following a channel."""
        known = self._channels.get(channel)
        if known is not None:
            known.wanted = False
            self._changed[channel] = None
            self._wake.set()

    async def run(self) -> None:
        """Stay connected until cancelled."""
        pause = BACKOFF[0]
        while True:
            try:
                await self._session()
            except UNAVAILABLE as error:
                log.warning("subscriptions lost", extra={"reason": str(error)})
            if self.is_up:
                self.is_up = False
                pause = BACKOFF[0]
                self._on_down()
            await asyncio.sleep(pause * random.uniform(0.7, 1.3))  # noqa: S311 - jitter
            pause = min(pause * 2, BACKOFF[1])

    async def _session(self) -> None:
        pool = self._redis.connection_pool
        connection = cast(AbstractConnection, pool.make_connection())  # type: ignore[no-untyped-call]
        # Retries inside one try would hide how long Redis has been away.
        connection.health_check_interval = 0
        self._connection = connection
        try:
            await connection.connect()  # type: ignore[no-untyped-call]
            checkpoint()
            self.is_up = True
            for channel in [key for key, state in self._channels.items() if not state.wanted]:
                del self._channels[channel]
            for state in self._channels.values():
                state.unconfirmed = 0
            self._changed = dict.fromkeys(self._channels)
            self._wake.set()
            self._on_up()
            await self._serve(connection)
        finally:
            self._connection = None
            await connection.disconnect(nowait=True)

    async def _serve(self, connection: AbstractConnection) -> None:
        """Read and write until either fails."""
        # No TaskGroup: until Python 3.13 a task stays marked as cancelled after one that
        # failed, which `checkpoint` would take for the end.
        tasks = [
            asyncio.create_task(self._read(connection), name="subscriptions: read"),
            asyncio.create_task(self._write(connection), name="subscriptions: write"),
        ]
        try:
            done, _ = await asyncio.wait(tasks, return_when="FIRST_COMPLETED")
            for task in done:
                task.result()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _write(self, connection: AbstractConnection) -> None:
        while True:
            checkpoint()
            await self._wake.wait()
            self._wake.clear()
            changed, self._changed = self._changed, {}
            follow: list[bytes] = []
            forget: list[bytes] = []
            for channel in changed:
                state = self._channels[channel]
                if state.wanted:
                    state.unconfirmed += 1
                    follow.append(channel)
                else:
                    forget.append(channel)
                    del self._channels[channel]
            for word, channels in ((b"UNSUBSCRIBE", forget), (b"SUBSCRIBE", follow)):
                for part in _chunks(channels, BATCH):
                    await self._send(connection, word, *part)

    async def _send(self, connection: AbstractConnection, *words: bytes) -> None:
        if not connection.is_connected:  # else sending would connect anew, without our channels
            raise ConnectionError("the connection was lost")
        await connection.send_packed_command(connection.pack_command(*words), check_health=False)

    async def _read(self, connection: AbstractConnection) -> None:
        silent = 0
        while True:
            checkpoint()
            answer = await connection.read_response(disable_decoding=True, timeout=PROBE)
            if answer is None:
                silent += 1
                if silent > 2:
                    raise TimeoutError("no answer to a ping")
                await self._send(connection, b"PING")
                continue
            silent = 0
            kind = answer[0]
            if kind == b"message":
                self._on_message(answer[1], answer[2])
            elif kind == b"subscribe":
                state = self._channels.get(answer[1])
                if state is not None and state.unconfirmed:
                    state.unconfirmed -= 1
                    if not state.unconfirmed and state.wanted:
                        self._on_live(answer[1])


def _chunks(items: Iterable[bytes], size: int) -> Iterator[list[bytes]]:
    iterator = iter(items)
    while part := list(islice(iterator, size)):
        yield part
