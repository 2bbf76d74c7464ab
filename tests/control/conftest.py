"""A websocket client that can do wrong things, and the control service on real engines."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import struct
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest
import redis.asyncio

from placeos.api.authentication import Unauthorised
from placeos.api.control.server import serving
from placeos.local.engines import Engines
from placeos.model.tokens import Claims, UserClaims
from placeos.state import keys
from placeos.state.bindings import Bindings
from placeos.state.client import connect
from placeos.state.lookups import Lookups
from placeos.wire.errors import CallError, Failure
from placeos.wire.frame import Command, Header

TEXT, BINARY, CONTINUATION, CLOSE, PING, PONG = 1, 2, 0, 8, 9, 10
PATH = "/api/engine/v2/systems/control"


class Closed(Exception):
    def __init__(self, code: int | None, reason: str = "") -> None:
        super().__init__(f"closed: {code} {reason}")
        self.code = code
        self.reason = reason


class Refused(Exception):
    def __init__(self, status: int, headers: dict[str, str], body: bytes) -> None:
        super().__init__(f"refused: {status} {body!r}")
        self.status, self.headers, self.body = status, headers, body


class Client:
    """Frame by frame, after RFC 6455, on a plain socket."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer
        self.others: list[dict[str, Any]] = []

    @classmethod
    async def open(
        cls, address: tuple[str, int], target: str, headers: Mapping[str, str] | None = None
    ) -> Client:
        reader, writer = await asyncio.open_connection(*address)
        fields = {
            "Host": "localhost",
            "Upgrade": "websocket",
            "Connection": "Upgrade",
            "Sec-WebSocket-Version": "13",
            "Sec-WebSocket-Key": base64.b64encode(os.urandom(16)).decode(),
            **(headers or {}),
        }
        lines = "".join(f"{name}: {value}\r\n" for name, value in fields.items() if value)
        writer.write(f"GET {target} HTTP/1.1\r\n{lines}\r\n".encode())
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        status_line, *rest = head.strip().split("\r\n")
        answer = {name.lower(): value for name, _, value in (r.partition(": ") for r in rest)}
        status = int(status_line.split()[1])
        if status != 101:
            raise Refused(status, answer, await reader.read())
        return cls(reader, writer)

    def frame(
        self, kind: int, payload: bytes = b"", *, fin: bool = True, mask: bool = True, rsv: int = 0
    ) -> None:
        head = bytes([(0x80 if fin else 0) | rsv << 4 | kind])
        flag = 0x80 if mask else 0
        size = len(payload)
        if size < 126:
            head += bytes([flag | size])
        elif size < 65536:
            head += bytes([flag | 126]) + struct.pack(">H", size)
        else:
            head += bytes([flag | 127]) + struct.pack(">Q", size)
        if mask:
            key = os.urandom(4)
            stream = key * (size // 4 + 1)
            payload = (
                (int.from_bytes(payload) ^ int.from_bytes(stream[:size])).to_bytes(size)
                if size
                else b""
            )
            head += key
        self.writer.write(head + payload)

    def text(self, message: str | bytes) -> None:
        self.frame(TEXT, message.encode() if isinstance(message, str) else message)

    def send(self, **members: Any) -> None:
        self.text(
            json.dumps({"sys": "sys-1", "mod": "Display", "index": 1, "name": "power", **members})
        )

    async def receive(self, timeout: float = 5.0) -> tuple[int, bytes]:
        async with asyncio.timeout(timeout):
            try:
                first, second = await self.reader.readexactly(2)
            except (asyncio.IncompleteReadError, ConnectionError) as error:
                raise Closed(None) from error
            size = second & 0x7F
            if size == 126:
                (size,) = struct.unpack(">H", await self.reader.readexactly(2))
            elif size == 127:
                (size,) = struct.unpack(">Q", await self.reader.readexactly(8))
            payload = await self.reader.readexactly(size) if size else b""
        kind = first & 0xF
        if kind == CLOSE:
            code = struct.unpack(">H", payload[:2])[0] if payload else None
            raise Closed(code, payload[2:].decode())
        return kind, payload

    async def message(self, timeout: float = 5.0) -> Any:
        kind, payload = await self.receive(timeout)
        assert kind == TEXT
        return payload.decode() if payload == b"pong" else json.loads(payload)

    async def answer(self, id: int, timeout: float = 5.0) -> dict[str, Any]:
        """The success or error of a request; what else arrives is kept in `others`."""
        while True:
            message = await self.message(timeout)
            if (
                isinstance(message, dict)
                and message.get("id") == id
                and message["type"] in ("success", "error")
            ):
                return message
            self.others.append(message)

    async def ask(self, **members: Any) -> dict[str, Any]:
        self.send(**members)
        return await self.answer(members["id"])

    async def value(self, timeout: float = 5.0) -> Any:
        """The value of the next notify."""
        while True:
            message = self.others.pop(0) if self.others else await self.message(timeout)
            if isinstance(message, dict) and message["type"] == "notify":
                return message["value"]

    async def silent(self, seconds: float = 0.2) -> None:
        """Nothing but the answer to a ping comes."""
        await asyncio.sleep(seconds)
        self.text("ping")
        assert await self.message() == "pong"

    async def closed(self, timeout: float = 5.0) -> Closed:
        """Read until the close frame."""
        while True:
            try:
                await self.receive(timeout)
            except Closed as closed:
                return closed

    async def close(self) -> None:
        self.writer.close()


class FakeAuthenticator:
    """Tokens are names of users; rights are a dictionary that tests change."""

    def __init__(self) -> None:
        self.rights = {"user": 0, "support": 1, "admin": 3}
        self.lifetime = 3600.0
        self.scope = ["public"]
        self.callbacks: list[Callable[[], None]] = []

    def authenticate(
        self,
        *,
        headers: Mapping[str, str],
        query: Mapping[str, str],
        cookies: Mapping[str, str],
        host: str,
    ) -> Claims:
        if host != "localhost":
            raise Unauthorised("authority not found")
        token = headers.get("authorization", "").removeprefix("Bearer ")
        token = token or query.get("bearer_token") or cookies.get("bearer_token") or ""
        if token not in self.rights:
            raise Unauthorised("unknown token" if token else "")
        now = time.time()
        return Claims(
            iat=int(now),
            exp=int(now + self.lifetime),
            aud=host,
            sub=f"user-{token}",
            scope=self.scope,
            u=UserClaims(p=self.rights[token]),
        )

    def on_change(self, callback: Callable[[], None]) -> Callable[[], None]:
        self.callbacks.append(callback)
        return lambda: self.callbacks.remove(callback)

    def change(self, **rights: int | None) -> None:
        for name, value in rights.items():
            if value is None:
                self.rights.pop(name, None)
            else:
                self.rights[name] = value
        for callback in self.callbacks:
            callback()


class FakeRouter:
    """Cores that do as the function's name says."""

    def __init__(self) -> None:
        self.calls: list[tuple[Header, bytes]] = []
        self.cancelled = 0
        self.debugs: dict[str, list[Callable[[bytes], None]]] = {}

    def call(
        self, header: Header, payload: bytes, on_reply: Callable[[Header, bytes], None]
    ) -> Callable[[], None]:
        self.calls.append((header, payload))
        loop = asyncio.get_running_loop()
        function = header.function
        if function == "echo":
            loop.call_soon(on_reply, Header(Command.REPLY, code=201), payload)
        elif function == "at_once":
            on_reply(Header(Command.REPLY), b"true")
        elif function == "slow":
            loop.call_later(0.3, on_reply, Header(Command.REPLY, code=200), b'"slow"')
        elif function == "handed_over":
            loop.call_soon(on_reply, Header(Command.REPLY, code=200, waited=1234), b"1")
        elif function == "not_handed_over":
            error = CallError(Failure.NOT_RUN, "no core is running")
            frame = Header(Command.ERROR, code=503, error=error.failure, waited=8000)
            loop.call_soon(on_reply, frame, error.detail())
        elif function == "big":
            loop.call_soon(on_reply, Header(Command.REPLY, code=200), b'"' + b"x" * 100_000 + b'"')
        elif function == "garbled":
            loop.call_soon(on_reply, Header(Command.REPLY, code=200), b'"\xff\xfe"')
        elif function in ERRORS:
            error = ERRORS[function]
            frame = Header(Command.ERROR, code=error.code, error=error.failure)
            loop.call_soon(on_reply, frame, error.detail())

        def cancel() -> None:
            self.cancelled += 1

        return cancel

    def debug(self, module_id: str, on_line: Callable[[bytes], None]) -> Callable[[], None]:
        watchers = self.debugs.setdefault(module_id, [])
        watchers.append(on_line)
        return lambda: watchers.remove(on_line)


ERRORS = {
    "raise": CallError(Failure.RAISED, "lamp missing", code=418, kind="LampError"),
    "unknown": CallError(Failure.FUNCTION_NOT_FOUND, "could not find function unknown"),
    "secret": CallError(Failure.ACCESS_DENIED, "attempted to access privileged function secret"),
    "wrong": CallError(Failure.BAD_ARGUMENTS, "power: state should be a boolean"),
    "lost": CallError(Failure.MAY_HAVE_RUN, "the link was lost"),
}


class Control:
    """A running control service, and hands on what is behind it."""

    def __init__(self, store: redis.asyncio.Redis) -> None:
        self.address = ("", 0)
        self.store = store
        self.authenticator = FakeAuthenticator()
        self.router = FakeRouter()
        self.clients: list[Client] = []
        self.bindings: Bindings | None = None
        self.stack = AsyncExitStack()

    async def stop(self) -> None:
        """Stop the service, as its process does on SIGTERM."""
        await self.stack.aclose()

    async def client(
        self,
        user: str = "user",
        *,
        query: str | None = None,
        headers: Mapping[str, str] | None = None,
        path: str = PATH,
    ) -> Client:
        query = f"bearer_token={user}&fixed_device=true" if query is None else query
        client = await Client.open(self.address, f"{path}?{query}", headers)
        self.clients.append(client)
        return client

    async def place(self, system: str, modules: dict[str, str]) -> None:
        """Write a lookup table as core does, and announce it."""
        async with self.store.pipeline() as pipe:
            pipe.delete(keys.system(system))
            if modules:
                pipe.hset(keys.system(system), mapping=modules)
            pipe.publish(keys.LOOKUP_CHANGE, system)
            await pipe.execute()

    async def set(self, module: str, key: str, value: str | None) -> None:
        """Write a live value as core does."""
        async with self.store.pipeline() as pipe:
            if value is None:
                pipe.hdel(keys.status(module), key)
            else:
                pipe.hset(keys.status(module), key, value)
            pipe.publish(keys.status_channel(module, key), "null" if value is None else value)
            await pipe.execute()


@asynccontextmanager
async def running_control(engines: Engines) -> AsyncIterator[Control]:
    store = connect(engines.redis_url)
    await store.flushdb()
    control = Control(store)
    lookups = Lookups(store)
    bindings = control.bindings = Bindings(store, lookups)
    task = asyncio.create_task(bindings.run())
    try:
        serve = serving(
            ("127.0.0.1", 0),
            authenticator=control.authenticator,
            lookups=lookups,
            bindings=bindings,
            router=control.router,
        )
        control.address = await control.stack.enter_async_context(serve)
        await control.place("sys-1", {"Display/1": "mod-1", "Switcher/1": "mod-2"})
        yield control
    finally:
        for client in control.clients:
            client.writer.transport.abort()
        await control.stop()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await store.aclose()


@pytest.fixture
async def control(engines: Engines) -> AsyncIterator[Control]:
    async with running_control(engines) as running:
        yield running


def until(condition: Any, timeout: float = 20.0) -> Any:
    async def wait() -> None:
        async with asyncio.timeout(timeout):
            while not condition():
                await asyncio.sleep(0.01)

    return wait()


@pytest.fixture(name="until")
def until_fixture() -> Any:
    return until
