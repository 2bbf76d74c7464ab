"""How this project connects to Redis: explicit time-outs, bounded retries, health checks."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

import redis.asyncio
from redis.asyncio.retry import Retry
from redis.backoff import ExponentialBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError
from redis.exceptions import TimeoutError as RedisTimeoutError

from placeos.state.servers import Servers, client

CONNECT_TIMEOUT: Final = 1.0  # seconds
COMMAND_TIMEOUT: Final = 2.0  # seconds without an answer before a command fails
HEALTH_CHECK: Final = 5  # seconds of idleness after which a connection is probed before use
MAX_CONNECTIONS: Final = 64

UNAVAILABLE: Final = (RedisError, OSError, TimeoutError)
"""What a command raises while Redis is away."""


class StateUnavailable(Exception):
    """Redis is away and memory does not know the answer either."""


def checkpoint() -> None:
    """End the present task if it was cancelled; for loops that talk to Redis.

    Until Python 3.12 `asyncio.wait_for`, which redis-py sends with, swallows a cancellation
    that comes in the moment the write completes: a loop would go on for ever. Not to be
    called inside of `asyncio.timeout`, nor in a task in which a TaskGroup has failed.
    """
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise asyncio.CancelledError


def connect(redis_url: str) -> redis.asyncio.Redis:
    """A client for the address of a server, or of the Sentinels that know the master.

    `redis://`, `rediss://` (TLS), `unix://`, `redis+sentinel://host:port,host:port/master-name`
    or `rediss+sentinel://…`; connects at its first command. A command is tried twice, the second
    time on a new connection: one that went stale while idle is not worth an error. A server that
    is, or became, a replica is left. Close it with `aclose()`. Raises ValueError.
    """
    return client(
        redis_url,
        Servers(),
        protocol=2,
        decode_responses=False,
        socket_connect_timeout=CONNECT_TIMEOUT,
        socket_timeout=COMMAND_TIMEOUT,
        health_check_interval=HEALTH_CHECK,
        max_connections=MAX_CONNECTIONS,
        retry=Retry(
            ExponentialBackoff(cap=0.2, base=0.05),
            1,
            supported_errors=(RedisConnectionError, RedisTimeoutError),
        ),
    )


def on_other_server(client: redis.asyncio.Redis, listener: Callable[[], None]) -> None:
    """Call `listener` on the loop whenever a new connection of a client reaches another server.

    That is another process or another history: after a restart or a fail-over, writes that were
    acknowledged may be missing. It is called before the first command on that connection, and
    must not block. A client must come from `connect`.
    """
    servers: Servers = client.connection_pool.connection_kwargs["servers"]
    servers.listeners.append(listener)
