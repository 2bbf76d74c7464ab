"""A TCP line that can be held, slowed down and cut."""

from __future__ import annotations

import asyncio


class Line:
    """Bytes that are held wait and are not lost, as in a network that is cut and comes back."""

    def __init__(self, port: int) -> None:
        self.behind = port
        self.port = 0
        self.open = asyncio.Event()
        self.open.set()
        self.held = 0  # bytes that wait
        self.slow = 0.0  # seconds by which what comes back is later
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._writers: set[asyncio.StreamWriter] = set()

    async def __aenter__(self) -> Line:
        await self.join()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.cut()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def join(self) -> None:
        """Take connections (again)."""
        if self._server is None:
            self._server = await asyncio.start_server(self._connect, "127.0.0.1", self.port)
            self.port = self._server.sockets[0].getsockname()[1]

    async def cut(self) -> None:
        """Close all connections and refuse new ones."""
        if self._server is None:
            return
        self._server.close()
        self._server = None
        for task in list(self._tasks):
            task.cancel()
        for writer in list(self._writers):
            writer.transport.abort()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection("127.0.0.1", self.behind)
        for one, other, is_back in ((reader, back, False), (there, writer, True)):
            task = asyncio.create_task(self._pass_on(one, other, is_back))
            self._tasks.add(task)
            self._writers.add(other)
            task.add_done_callback(self._tasks.discard)

    async def _pass_on(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, is_back: bool
    ) -> None:
        try:
            while data := await reader.read(65536):
                if is_back and self.slow:
                    await asyncio.sleep(self.slow)
                if not self.open.is_set():
                    self.held += len(data)
                    await self.open.wait()
                writer.write(data)
        except OSError:
            pass
        finally:
            self._writers.discard(writer)
            writer.close()
