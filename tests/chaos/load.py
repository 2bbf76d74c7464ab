"""A steady load from the outside: calls with unique tokens, and subscribers of final values.

Half of the calls go over REST and half over the control websocket, to modules in turn; one
subscriber is bound to the last mark of every module. All that was said is kept for the checker.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
from history import Call, Outcome
from picows import WSError, WSFrame, WSListener, WSMsgType, WSTransport, ws_connect
from rig import Site

TIMEOUT = 10.0  # seconds a call may take, not counting a hand-over
PATIENCE = 25.0  # seconds after which a call that nobody answered is given up
SLOW = 7  # one of so many calls is slow
_rounds = itertools.count(1)


class Load:
    """Made by `running`; `calls` and `told` are for the checker once it has stopped."""

    def __init__(self, site: Site, rate: float, slow: float) -> None:
        self.calls: list[Call] = []
        self.told: dict[int, str] = {}  # by device, the last mark the subscriber was told of
        self.reconnects = -1  # of the subscriber
        self._site = site
        self._rate = rate
        self._slow = slow
        self._numbers = itertools.count(1)
        self._prefix = f"r{next(_rounds)}x{time.monotonic_ns():x}"
        self._tasks: set[asyncio.Task[None]] = set()
        self._socket: _Socket | None = None
        self._bound = asyncio.Event()

    async def call_all(self, client: httpx.AsyncClient) -> None:
        """One call after the other, whatever becomes of those before."""
        pause = 1 / self._rate
        following = time.monotonic()
        for number in itertools.count():
            device = number % len(self._site.modules)
            over_rest = (number // len(self._site.modules) + number) % 2 == 0
            how, more = ("mark", []) if number % SLOW or not self._slow else self._slowly()
            if over_rest:
                job = self._by_rest(client, device, how, more)
            else:
                job = self._by_socket(device, how, more)
            task = asyncio.create_task(job, name=f"call {number}")
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
            following += pause
            await asyncio.sleep(max(0.0, following - time.monotonic()))

    async def finish(self) -> None:
        """Wait for the calls under way; all end by themselves."""
        if self._tasks:
            await asyncio.wait(set(self._tasks), timeout=PATIENCE + 5)
        await asyncio.sleep(0.5)  # what the last of them set reaches the subscriber

    def _slowly(self) -> tuple[str, list[float]]:
        return "slow_mark", [self._slow]

    async def _by_rest(
        self, client: httpx.AsyncClient, device: int, how: str, more: list[float]
    ) -> None:
        token = self._token(device)
        sent = time.monotonic_ns()
        path = f"/modules/{self._site.modules[device]}/exec/{how}"
        try:
            answer = await client.post(
                path, json=[token, *more], headers={"X-Timeout": f"{TIMEOUT:g}"}, timeout=PATIENCE
            )
        except httpx.HTTPError as error:
            self._note(token, device, sent, Outcome.FAILED, repr(error))
            return
        if answer.status_code == 200:
            self._note(token, device, sent, Outcome.DONE)
            return
        words = answer.text[:300]
        outcome = Outcome.NOT_RUN if '"not run"' in words else Outcome.FAILED
        self._note(token, device, sent, outcome, words)

    async def _by_socket(self, device: int, how: str, more: list[float]) -> None:
        token = self._token(device)
        sent = time.monotonic_ns()
        system, index = self._site.places[device]
        request = {"cmd": "exec", "sys": system, "mod": "Marker", "index": index}
        request |= {"name": how, "args": [token, *more]}
        try:
            async with asyncio.timeout(PATIENCE):
                await self._bound.wait()
                sent = time.monotonic_ns()
                assert self._socket is not None
                answer = await self._socket.ask(request)
        except (TimeoutError, OSError, WSError) as error:
            self._note(token, device, sent, Outcome.FAILED, repr(error))
            return
        done = answer["type"] == "success"
        outcome = Outcome.DONE if done else Outcome.FAILED
        self._note(token, device, sent, outcome, "" if done else json.dumps(answer))

    async def subscribe(self) -> None:
        """Stay bound to every module's last mark, through every loss of the websocket."""
        while True:
            try:
                socket = _Socket(self)
                transport, _ = await ws_connect(lambda: socket, self._site.control_url)  # noqa: B023
            except (WSError, OSError, TimeoutError):
                await asyncio.sleep(0.1)
                continue
            try:
                self._socket = socket
                self.reconnects += 1
                await socket.bind_all(self._site)
                self._bound.set()
                await socket.closed.wait()
            except (OSError, TimeoutError):
                pass  # it was lost while binding: the next one binds anew
            finally:
                self._bound.clear()
                transport.disconnect()
                await transport.wait_disconnected()

    async def bound(self, seconds: float = 20.0) -> None:
        """Wait until the subscriber is bound to everything."""
        async with asyncio.timeout(seconds):
            await self._bound.wait()

    def _token(self, device: int) -> str:
        return f"{self._prefix}.{next(self._numbers)}.{device}"

    def _note(self, token: str, device: int, sent: int, outcome: Outcome, words: str = "") -> None:
        self.calls.append(Call(token, device, sent, time.monotonic_ns(), outcome, words))


class _Socket(WSListener):  # type: ignore[misc]
    """One control websocket."""

    def __init__(self, load: Load) -> None:
        self.closed = asyncio.Event()
        self._load = load
        self._asked: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._numbers = itertools.count(1)
        self._devices: dict[tuple[str, int], int] = {}
        self._transport: WSTransport

    async def ask(self, request: dict[str, object]) -> dict[str, Any]:
        """Send a request; its answer. Raises ConnectionResetError when the socket is lost."""
        if self.closed.is_set():
            raise ConnectionResetError("the websocket was closed")
        number = next(self._numbers)
        future: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        self._asked[number] = future
        self._transport.send(WSMsgType.TEXT, json.dumps({"id": number, **request}).encode())
        try:
            return await future
        finally:
            self._asked.pop(number, None)

    async def bind_all(self, site: Site) -> None:
        """Bind to the last mark of every module."""
        self._devices = {place: device for device, place in enumerate(site.places)}
        request = {"cmd": "bind", "mod": "Marker", "name": "last_mark"}
        async with asyncio.timeout(20):
            answers = await asyncio.gather(
                *(self.ask({**request, "sys": sys, "index": index}) for sys, index in site.places)
            )
        refused = [answer for answer in answers if answer["type"] != "success"]
        if refused:
            raise ConnectionResetError(f"bind was refused: {refused[0]}")

    def on_ws_connected(self, transport: WSTransport) -> None:
        self._transport = transport

    def on_ws_disconnected(self, transport: WSTransport) -> None:
        self.closed.set()
        for future in self._asked.values():
            if not future.done():
                future.set_exception(ConnectionResetError("the websocket was closed"))

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        if frame.msg_type == WSMsgType.CLOSE:
            transport.disconnect()
        if frame.msg_type != WSMsgType.TEXT:
            return
        text = frame.get_payload_as_utf8_text()
        if text == "pong":  # it says so unasked, once in a while
            return
        message = json.loads(text)
        if message["type"] == "notify":
            meta = message["meta"]
            device = self._devices[meta["sys"], meta["index"]]
            if isinstance(message["value"], str):
                self._load.told[device] = message["value"]
        elif (future := self._asked.get(message.get("id"))) is not None and not future.done():
            future.set_result(message)


@asynccontextmanager
async def running(site: Site, *, rate: float = 20.0, slow: float = 0.0) -> AsyncIterator[Load]:
    """`rate` calls a second while this lasts; at the end all of them are answered. With `slow`
    a few of them take so many seconds."""
    load = Load(site, rate, slow)
    async with (
        httpx.AsyncClient(
            base_url=site.url,
            headers={"X-API-Key": site.api_key},
            limits=httpx.Limits(max_connections=500),
        ) as client,
        asyncio.TaskGroup() as tasks,
    ):
        subscriber = tasks.create_task(load.subscribe(), name="subscriber")
        await load.bound()
        caller = tasks.create_task(load.call_all(client), name="calls")
        try:
            yield load
        finally:
            caller.cancel()
            await load.finish()
            subscriber.cancel()
