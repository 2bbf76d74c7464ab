"""A client of the control websocket that keeps what it was told."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from picows import WSFrame, WSListener, WSMsgType, WSTransport


class Control(WSListener):
    """A client of the control websocket."""

    def __init__(self) -> None:
        self.values: dict[tuple[str, str, str], object] = {}
        self.history: list[tuple[tuple[str, str, str], object]] = []
        self.closed = asyncio.Event()
        self.close_code: int | None = None
        self._answers: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._next = 0
        self._changed = asyncio.Event()

    async def ask(
        self, cmd: str, system: str, module: str, name: str, args: list[object] | None = None
    ) -> dict[str, Any]:
        """Send a request and return the answer to it."""
        self._next += 1
        mod, _, index = module.rpartition("_")
        request: dict[str, object] = {"id": self._next, "cmd": cmd, "sys": system, "mod": mod}
        request |= {"index": int(index), "name": name}
        if args is not None:
            request["args"] = args
        future = asyncio.get_running_loop().create_future()
        self._answers[self._next] = future
        self.send(json.dumps(request).encode())
        return await asyncio.wait_for(future, 15)

    def send(self, data: bytes, kind: WSMsgType = WSMsgType.TEXT) -> None:
        """Send one frame as it is."""
        self._transport.send(kind, data)

    async def becomes(
        self, system: str, module: str, name: str, wanted: object, *, within: float = 20.0
    ) -> None:
        """Wait until the newest value told to us is the wanted one."""
        key = (system, module, name)
        try:
            async with asyncio.timeout(within):
                while self.values.get(key) != wanted or key not in self.values:
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            pytest.fail(f"{key} did not become {wanted!r} within {within:g} s: {self.values}")

    def on_ws_connected(self, transport: WSTransport) -> None:
        self._transport = transport

    def on_ws_disconnected(self, transport: WSTransport) -> None:
        self.closed.set()
        for future in self._answers.values():
            if not future.done():
                future.set_exception(ConnectionResetError("the websocket was closed"))
                future.exception()  # nobody may be waiting for it

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        if frame.msg_type == WSMsgType.CLOSE:
            self.close_code = int(frame.get_close_code())
            transport.disconnect()
        elif frame.msg_type == WSMsgType.TEXT:
            self._on_text(frame.get_payload_as_utf8_text())

    def _on_text(self, text: str) -> None:
        if text == "pong":
            return
        message = json.loads(text)
        if message["type"] == "notify":
            meta = message["meta"]
            key = (meta["sys"], f"{meta['mod']}_{meta['index']}", meta["name"])
            self.values[key] = message["value"]
            self.history.append((key, message["value"]))
            self._changed.set()
        elif (future := self._answers.pop(message.get("id"), None)) and not future.done():
            future.set_result(message)
