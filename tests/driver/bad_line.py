"""A device that misbehaves, the module that has to live with it, and a good one beside it."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec

from placeos.driver.testing import ScriptedDevice, TestedModule, drive
from placeos.wire.frame import Clearance, Command, Header
from placeos.wire.messages import ModuleStart

METER = """
    import asyncio
    import os
    import time

    from placeos.driver import TCP, Driver

    class Meter(Driver):
        transport = TCP(port=9, ends_with=b"\\r")
        times = 0
        lost = 0
        busy = False
        gap = 0.0
        news = ()  # the latest

        async def connected(self):
            self.times += 1

        async def disconnected(self):
            self.lost += 1

        async def received(self, data: bytes):
            if not data:
                await asyncio.sleep(0.01)
            self.news = (*self.news, data.decode(errors="replace")[:20])[-20:]

        async def ask(self, what: str, timeout: float = 1, retries: int = 0,
                      expected: str = "", name: str = "") -> str:
            def match(data: bytes) -> bool:
                return data.startswith(expected.encode())
            reply = await self.send(what, timeout=timeout, retries=retries, name=name,
                                    match=match if expected else None)
            return reply.decode(errors="replace")[:20]

        async def pour(self, megabytes: int):
            for _ in range(megabytes):
                await self.send(b"x" * 1_000_000, wait=False)

        async def watch_the_clock(self):
            if not self.busy:
                self.busy = True
                self.spawn(self._watch())

        async def _watch(self):
            before = time.monotonic()
            while True:
                await asyncio.sleep(0.01)
                now = time.monotonic()
                self.gap, before = max(self.gap, now - before), now

        async def facts(self) -> dict:
            return {"times": self.times, "lost": self.lost, "news": self.news,
                    "gap": self.gap, "pid": os.getpid()}
"""

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
MIB = 1024 * 1024
GAP = 1.0  # seconds a neighbour may have to wait for its turn, on a loaded machine
PATIENCE = 30.0  # seconds


class Line:
    """A device, the module that has to live with it, and a good one of the same driver."""

    def __init__(self) -> None:
        self.module: TestedModule
        self.connections = 0

    async def ask(
        self,
        what: str,
        timeout: float = 1,
        retries: int = 0,
        *,
        expected: str = "",
        name: str = "",
    ) -> str:
        args = (what, timeout, retries, expected, name)
        return str(await self.module.exec("ask", *args, timeout=PATIENCE))

    async def facts(self) -> dict[str, Any]:
        return dict(await self.module.exec("facts", timeout=PATIENCE))

    async def until(self, **wanted: object) -> dict[str, Any]:
        """Wait for these facts."""
        async with asyncio.timeout(PATIENCE):
            while True:
                facts = await self.facts()
                if all(facts[key] == value for key, value in wanted.items()):
                    return facts
                await asyncio.sleep(0.05)

    async def lost(self, reason: str) -> None:
        """The connection was dropped, and the log says why."""
        await self.module.expect_log(f"disconnected: {reason}", PATIENCE)

    async def neighbour(self, function: str, *args: object) -> Any:
        header = Header(
            Command.EXECUTE,
            module="mod-good",
            function=function,
            clearance=Clearance.ADMINISTRATOR,
        )
        return await self.module.core.ask(header, msgspec.json.encode(args), PATIENCE)

    async def start_neighbour(self) -> None:
        """It has a device of its own, which answers `ping`, and it notes how long it waits."""
        device = self.module.device
        assert isinstance(device, ScriptedDevice)
        device.answers(b"ping\r", b"pong\r")
        good = ModuleStart(id="mod-good", name="G", role=1, ip="127.0.0.1", port=device.port)
        await self.module.core.ask(Header(Command.START), msgspec.json.encode(good), PATIENCE)
        await device.expect_connection(1, PATIENCE)
        await self.neighbour("watch_the_clock")

    async def neighbour_is_well(self) -> None:
        assert await self.neighbour("ask", "ping") == "pong"
        facts = dict(await self.neighbour("facts"))
        assert (facts["times"], facts["lost"]) == (1, 0)
        assert facts["gap"] < GAP


@asynccontextmanager
async def line_to(file: Path, serve: Serve) -> AsyncIterator[Line]:
    """A module of `file` and a device that behaves as `serve` says."""
    line = Line()

    async def accepted(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        line.connections += 1
        with contextlib.suppress(ConnectionError, EOFError):
            await serve(reader, writer)
        writer.close()

    server = await asyncio.start_server(accepted, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with server, drive(file, port=port, connected=False) as line.module:
        yield line


def reset(writer: asyncio.StreamWriter) -> None:
    """Hang up by a reset."""
    sock: socket.socket = writer.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


def memory(pid: int, what: str) -> int:
    """Bytes of a process: `VmRSS` now, `VmHWM` at most so far."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    found = next(line for line in lines if line.startswith(f"{what}:"))
    return int(found.split()[1]) * 1024


async def until_eof(reader: asyncio.StreamReader) -> None:
    while await reader.read(65536):
        pass
