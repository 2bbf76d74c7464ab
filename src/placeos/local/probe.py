"""Small questions that tell whether a server is up. All answer within a second or two."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from pathlib import Path
from urllib.parse import urlsplit

Answer = Coroutine[object, object, bool]


async def http(url: str, *, below: int = 500) -> bool:
    """Whether a GET is answered with a status lower than `below`. Plain http only."""
    parts = urlsplit(url)
    path = parts.path or "/"
    request = f"GET {path} HTTP/1.1\r\nHost: {parts.netloc}\r\nConnection: close\r\n\r\n"
    answer = await _exchange(
        asyncio.open_connection(parts.hostname, parts.port or 80), request.encode()
    )
    words = answer.split()
    return len(words) >= 2 and words[1].isdigit() and int(words[1]) < below


async def tcp(host: str, port: int) -> bool:
    """Whether a TCP connection is accepted."""
    try:
        async with asyncio.timeout(1):
            _, writer = await asyncio.open_connection(host, port)
    except (OSError, TimeoutError):
        return False
    writer.close()
    return True


async def redis(socket: Path) -> bool:
    """Whether Redis answers PING (while loading its file it does not yet)."""
    answer = await _exchange(asyncio.open_unix_connection(str(socket)), b"PING\r\n")
    return answer.startswith(b"+PONG")


async def _exchange(
    opening: Coroutine[object, object, tuple[asyncio.StreamReader, asyncio.StreamWriter]],
    request: bytes,
) -> bytes:
    """Send a request, return the first line of the answer, or nothing if there is none."""
    try:
        async with asyncio.timeout(2):
            reader, writer = await opening
            try:
                writer.write(request)
                return await reader.readline()
            finally:
                writer.close()
    except (OSError, TimeoutError, ValueError):
        return b""
