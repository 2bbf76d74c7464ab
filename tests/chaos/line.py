"""A bad line: a proxy that delays, loses and swallows what passes. There is no netem here.

TCP makes a lost segment a stall: what is lost here arrives after a retransmission's time-out, and
everything behind it too. A line that swallows is a half-open one: it says nothing, to nobody.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]
WAITING = 64  # pieces on their way in one direction; more wait in the sender's kernel
PIECE = 1400  # bytes: about one segment
LEAST_STALL = 0.2  # seconds: the kernel's shortest retransmission time-out


@dataclass
class Line:
    """How bad it is; may be changed at any time."""

    delay: float = 0.0  # seconds, one way
    loss: float = 0.0  # share of segments
    swallow: bool = False

    def travel(self, chance: random.Random) -> float:
        """Seconds for one segment."""
        lost = chance.random() < self.loss
        return self.delay + (max(LEAST_STALL, 3 * self.delay) if lost else 0.0)


class Proxy:
    """Listens on an address and carries connections to where `connect` leads. `start`, `close`."""

    def __init__(self, connect: Callable[[], Awaitable[Streams]], line: Line | None = None) -> None:
        self.line = line or Line()
        self._connect = connect
        self._chance = random.Random(1)
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server

    async def start(self, host: str, port: int) -> int:
        """Listen; the port."""
        self._server = await asyncio.start_server(self._accepted, host, port)
        return int(self._server.sockets[0].getsockname()[1])

    async def close(self) -> None:
        """End all connections."""
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _accepted(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(self._carry(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        ends = [writer]
        try:
            there, back = await self._connect()
            ends.append(back)
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._one_way(reader, back))
                tasks.create_task(self._one_way(there, writer))
        except* OSError:
            pass  # one end is gone: so is the other
        finally:
            for end in ends:
                end.transport.abort()

    async def _one_way(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        loop = asyncio.get_running_loop()
        on_its_way: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(WAITING)

        async def arrive() -> None:
            holes = False  # something was swallowed: when the line is whole again, it is reset
            while True:
                due, data = await on_its_way.get()
                await asyncio.sleep(due - loop.time())
                while self.line.swallow and not data:
                    await asyncio.sleep(0.05)  # an end is not told before the line is whole again
                if not data:
                    raise ConnectionResetError("the other end closed")
                if self.line.swallow:
                    holes = True
                    continue
                if holes:
                    raise ConnectionResetError("bytes were lost")
                writer.write(data)
                await writer.drain()

        async def depart() -> None:
            due = 0.0
            data = b"-"
            while data:
                data = await _read(reader)
                due = max(due, loop.time() + self.line.travel(self._chance))
                await on_its_way.put((due, data))

        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(depart())
            tasks.create_task(arrive())  # ends with an error, whichever end closed


async def _read(reader: asyncio.StreamReader) -> bytes:
    try:
        return await reader.read(PIECE)
    except OSError:
        return b""
