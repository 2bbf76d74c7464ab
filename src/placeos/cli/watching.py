"""Follows values over the control websocket: binds, reconnects, binds again."""

from __future__ import annotations

import asyncio
import contextlib
import random
import ssl
import sys
import time
from collections.abc import AsyncIterator, Callable

import msgspec
import picows

from placeos.cli.client import Client
from placeos.cli.output import CliError, harmless, segment, show

_LOOK_AGAIN = 3.0
"""Seconds between looks for modules and values that are new."""
_LONGEST_PAUSE = 5.0

Place = tuple[str, str]
"""Module slug and key: ("Display_1", "power")."""


class _Meta(msgspec.Struct):
    mod: str = ""
    index: int = 1
    name: str = ""


class _Message(msgspec.Struct):
    type: str
    value: msgspec.Raw = msgspec.Raw(b"null")
    meta: _Meta = msgspec.field(default_factory=_Meta)
    msg: str = ""


class Change(msgspec.Struct):
    """One value of one module, as printed with --json."""

    time: float
    module: str
    key: str
    value: object


class Watcher:
    """What to follow in one system, and what is known of it."""

    def __init__(
        self, client: Client, system: str, *, module: str = "", keys: tuple[str, ...] = ()
    ) -> None:
        self.client = client
        self.system = system
        self.known_modules: list[str] = []
        self._module = module
        self._keys = keys

    def discover(self) -> list[Place]:
        """All places to follow now. Blocks on REST. Raises CliError."""
        types = self.client.get(f"/systems/{segment(self.system)}/types", dict[str, int])
        self.known_modules = [
            f"{name}_{index}" for name in sorted(types) for index in range(1, types[name] + 1)
        ]
        followed = [name for name in self.known_modules if self._module in ("", name)]
        return [(name, key) for name in followed for key in self._keys_of(name)]

    def _keys_of(self, module: str) -> list[str]:
        if self._keys:
            return list(self._keys)
        path = f"/systems/{segment(self.system)}/{segment(module)}"
        return sorted({"connected", *self.client.get(path, dict[str, object])})


def run(watcher: Watcher, *, seconds: float | None, as_json: bool) -> None:
    """Print changes until the time is over or Ctrl-C. Raises CliError."""
    printer = _Printer(as_json)

    async def follow() -> None:
        following = asyncio.create_task(_keep_following(watcher, printer))
        printer.on_broken = following.cancel
        with contextlib.suppress(TimeoutError, asyncio.CancelledError):
            async with asyncio.timeout(seconds):
                await following

    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(follow())
    if printer.broken is not None:
        raise printer.broken


class _Printer:
    """Prints a value when it is another than last time.

    When nobody reads any more (`| head`), `broken` says so and `on_broken` is called.
    """

    def __init__(self, as_json: bool) -> None:
        self.broken: OSError | None = None
        self.on_broken: Callable[[], object] = lambda: None
        self._as_json = as_json
        self._last: dict[Place, bytes] = {}

    def take(self, place: Place, raw: bytes) -> None:
        if self._last.get(place) == raw:
            return
        self._last[place] = raw
        module, key = place
        now, value = time.time(), msgspec.json.decode(raw)
        if self._as_json:
            text = msgspec.json.encode(Change(now, module, key, value)).decode()
        else:
            clock = time.strftime("%H:%M:%S", time.localtime(now))
            text = harmless(f"{clock}  {module}.{key} = {show(value)}")
        self._print(text)

    def _print(self, text: str) -> None:
        if self.broken is not None:
            return
        try:
            print(text, flush=True)
        except OSError as error:
            self.broken = error
            self.on_broken()

    def say(self, text: str) -> None:
        print(text, file=sys.stderr, flush=True)


class _Listener(picows.WSListener):
    """One connection."""

    def __init__(self, system: str, printer: _Printer) -> None:
        self._system = system
        self._printer = printer
        self._transport: picows.WSTransport | None = None
        self._bound: set[Place] = set()
        self._number = 0
        self._text = bytearray()

    def on_ws_connected(self, transport: picows.WSTransport) -> None:
        self._transport = transport

    def bind(self, places: list[Place]) -> None:
        """Bind those that are not bound on this connection yet."""
        for place in places:
            if place in self._bound or self._transport is None:
                continue
            self._bound.add(place)
            self._number += 1
            module, _, index = place[0].rpartition("_")
            request = {
                "id": self._number,
                "cmd": "bind",
                "sys": self._system,
                "mod": module,
                "index": int(index),
                "name": place[1],
            }
            self._transport.send(picows.WSMsgType.TEXT, msgspec.json.encode(request))

    def ping(self) -> None:
        """Keep proxies in between awake."""
        if self._transport is not None:
            self._transport.send(picows.WSMsgType.TEXT, b"ping")

    def on_ws_frame(self, transport: picows.WSTransport, frame: picows.WSFrame) -> None:
        if frame.msg_type not in (picows.WSMsgType.TEXT, picows.WSMsgType.CONTINUATION):
            return
        self._text += frame.get_payload_as_bytes()
        if frame.fin:
            text, self._text = bytes(self._text), bytearray()
            self._receive(text)

    def _receive(self, text: bytes) -> None:
        if text == b"pong":
            return
        message = msgspec.json.decode(text, type=_Message)
        meta = message.meta
        if message.type == "notify":
            self._printer.take((f"{meta.mod}_{meta.index}", meta.name), bytes(message.value))
        elif message.type == "error":
            self._printer.say(f"The platform refused to show a value: {message.msg}")


async def _keep_following(watcher: Watcher, printer: _Printer) -> None:
    failures = 0
    while True:
        try:
            async with _connected(watcher, printer) as listener:
                if failures:
                    printer.say("Connected again.")
                failures = 0
                await _look_for_new(watcher, listener)
        except _Lost as lost:
            if failures == 0:
                printer.say(f"Connection lost ({lost}); trying again …")
            failures += 1
            await asyncio.sleep(_pause(failures))


class _Lost(Exception):
    """The connection ended or could not be made."""


@contextlib.asynccontextmanager
async def _connected(watcher: Watcher, printer: _Printer) -> AsyncIterator[_Listener]:
    """A connection; leaving the block, or losing the connection, ends both."""
    try:
        headers = await asyncio.to_thread(watcher.client.credential)
    except CliError as error:
        if error.hint.startswith("Log in"):
            raise
        raise _Lost(str(error)) from error
    url = "ws" + watcher.client.url.removeprefix("http") + "/api/engine/v2/systems/control"
    try:
        transport, listener = await picows.ws_connect(
            lambda: _Listener(watcher.system, printer),
            url,
            extra_headers=headers,
            ssl_context=ssl.create_default_context() if url.startswith("wss") else None,
            enable_auto_ping=True,
        )
    except (OSError, TimeoutError, picows.WSError) as error:
        raise _Lost(str(error) or type(error).__name__) from error
    task = asyncio.current_task()
    assert task is not None
    ended = asyncio.create_task(transport.wait_disconnected(), name="websocket")
    lost = False

    def on_end(_: asyncio.Task[None]) -> None:
        nonlocal lost
        lost = True
        task.cancel()

    ended.add_done_callback(on_end)
    try:
        assert isinstance(listener, _Listener)
        yield listener
    except asyncio.CancelledError:
        if lost and task.uncancel() == 0:
            raise _Lost("the platform closed it") from None
        raise
    finally:
        ended.remove_done_callback(on_end)
        transport.disconnect()
        await asyncio.wait([ended], timeout=2)
        ended.cancel()


async def _look_for_new(watcher: Watcher, listener: _Listener) -> None:
    """Bind what there is, and every few seconds what is new."""
    while True:
        try:
            listener.bind(await asyncio.to_thread(watcher.discover))
        except CliError as error:
            if error.hint.startswith("Log in"):
                raise
        await asyncio.sleep(_LOOK_AGAIN)
        listener.ping()


def _pause(failures: int) -> float:
    longest = min(0.2 * 2.0 ** min(failures, 10), _LONGEST_PAUSE)
    return longest * random.uniform(0.5, 1.0)  # noqa: S311 - no secret
