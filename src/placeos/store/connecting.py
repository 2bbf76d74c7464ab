"""Finding the PostgreSQL server that takes writes.

An address may name several servers: `postgresql://user@one,two:5433/db`, or the same with
`?host=`. Each is asked in turn, beginning with the one that was right last time, each for its own
time: asyncpg would give a frozen one the whole of it. Unless the address says otherwise by
`target_session_attrs`, of several servers only a primary will do.
"""

from __future__ import annotations

from typing import Any, Final
from urllib.parse import parse_qsl, quote, urlencode, urlsplit, urlunsplit

import asyncpg

SEVERAL_TIMEOUT: Final = 2.0  # seconds for one of several servers

_NEXT: Final = (OSError, asyncpg.PostgresError, asyncpg.InternalClientError)


class NoPrimaryError(ConnectionError):
    """Servers answer, but none of them is what the address asks for (a primary)."""


class Primary:
    """Connects to the primary among the servers of an address."""

    def __init__(self, database_url: str) -> None:
        self._urls = single_urls(database_url)
        self._last = 0

    async def connect(self, *, timeout: float, command_timeout: float | None = None) -> Any:
        """A connection of asyncpg. Raises what that raises, and NoPrimaryError.

        `timeout` in seconds is for a single server; of several each has two at most.
        """
        count = len(self._urls)
        if count > 1:
            timeout = min(timeout, SEVERAL_TIMEOUT)
        problem: Exception | None = None
        for turn in range(self._last, self._last + count):
            number = turn % count
            try:
                connection = await asyncpg.connect(
                    self._urls[number], timeout=timeout, command_timeout=command_timeout
                )
            except asyncpg.TargetServerAttributeNotMatched:
                problem = problem or NoPrimaryError("none of the servers is a primary at present")
            except _NEXT as error:
                if problem is None or isinstance(problem, NoPrimaryError):
                    problem = error
            else:
                self._last = number
                return connection
        assert problem is not None
        raise problem


def single_urls(database_url: str) -> list[str]:
    """One address for each server of an address; that itself if it names one."""
    parts = urlsplit(database_url)
    user, at, hosts = parts.netloc.rpartition("@")
    query = dict(parse_qsl(parts.query, keep_blank_values=True))
    named = query.get("host", "").split(",")
    if len(named) > 1:
        ports = query.get("port", "").split(",")
        places = [{"host": host} for host in named]
        for number, place in enumerate(places):
            port = ports[min(number, len(ports) - 1)]
            if port:
                place["port"] = port
        return [_url(parts._asdict(), parts.netloc, query | place) for place in places]
    if "," not in hosts:
        return [database_url]
    return [_url(parts._asdict(), f"{user}{at}{host}", query) for host in hosts.split(",")]


def _url(parts: dict[str, str], netloc: str, query: dict[str, str]) -> str:
    words = urlencode({"target_session_attrs": "primary"} | query, quote_via=quote, safe="/")
    return urlunsplit((parts["scheme"], netloc, parts["path"], words, parts["fragment"]))
