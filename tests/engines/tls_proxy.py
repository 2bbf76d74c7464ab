"""TLS in front of a server that was built without it."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

_POSTGRES_TLS = bytes.fromhex("0000000804d2162f")  # SSLRequest: length 8, code 80877103


@asynccontextmanager
async def tls_proxy(
    port: int, context: ssl.SSLContext, *, postgres: bool = False
) -> AsyncIterator[int]:
    """The port of a proxy to `port` of loopback; with `postgres` TLS starts as it asks there."""
    ways: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        ways.add(task)
        try:
            if postgres:
                assert await reader.readexactly(8) == _POSTGRES_TLS
                writer.write(b"S")
            await writer.start_tls(context)
            inner_reader, inner_writer = await asyncio.open_connection("127.0.0.1", port)
            await asyncio.wait(
                [
                    asyncio.create_task(_pump(reader, inner_writer)),
                    asyncio.create_task(_pump(inner_reader, writer)),
                ],
                return_when="FIRST_COMPLETED",
            )
        except (OSError, asyncio.IncompleteReadError):  # a client that does not trust us
            pass
        except asyncio.CancelledError:  # by ourselves, at the end: asyncio would log it
            pass
        finally:
            writer.close()
            ways.discard(task)

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for way in ways:
            way.cancel()
        await asyncio.gather(*ways, return_exceptions=True)


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    except OSError:
        return
    finally:
        writer.close()
