"""A simulated device: one TCP listener, its connections, a journal, and a plug to pull.

Beside the port of the device there is a second one, on loopback only, for those who want to do
the device harm. It takes one command a line and answers each with one line of JSON::

    unplug 20     no power for 20 s: connections are reset and new ones refused
    freeze 20     hung for 20 s: accepts and reads, answers nothing; then reboots
    half-open     forgets its connections without closing them; new ones work
    drop          closes all connections
    state         what it is at present

Devices add commands of their own (someone at the front panel).
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import signal
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from pathlib import Path

from placeos.local.demo.journal import Journal

MAX_PENDING = 1024  # bytes of an unfinished command, after which a connection is closed


class Options:
    """What every simulated device is told at its start; times in seconds, 0 is never."""

    def __init__(
        self,
        *,
        port: int,
        control_port: int = 0,
        host: str = "127.0.0.1",
        journal: Path | None = None,
        idle: float = 30.0,
        drop_every: float = 0.0,
        seed: int | None = None,
    ) -> None:
        self.port = port
        self.control_port = control_port
        self.host = host
        self.journal = journal
        self.idle = idle
        self.drop_every = drop_every
        self.seed = seed


class Device(ABC):
    """What all simulated devices share. `run` serves until it is cancelled."""

    def __init__(self, options: Options) -> None:
        self.options = options
        self.journal = Journal(options.journal)
        self.random = random.Random(options.seed)  # noqa: S311 - imperfection, not secrecy
        self.sessions: set[Session] = set()
        self.frozen = False
        self.port = options.port
        self.control_port = options.control_port
        self._connections = 0
        self._plugged = asyncio.Event()
        self._unplugged = asyncio.Event()
        self._plugged.set()
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self.ready = asyncio.Event()

    @abstractmethod
    def session(self) -> Session:
        """A protocol for a new connection."""

    @abstractmethod
    def state(self) -> Mapping[str, object]:
        """What the device is at present, for the control port."""

    def panel(self, words: list[str]) -> bool:
        """Do what someone at the device's own front panel asks. False if it cannot be done."""
        return False

    def started(self) -> None:  # noqa: B027 - most devices have nothing to do
        """Called once when the device listens."""

    # ---- life

    async def run(self) -> None:
        """Listen, and listen again after each time without power. Ends by cancellation only."""
        loop = asyncio.get_running_loop()
        control = await loop.create_server(
            lambda: _Control(self), "127.0.0.1", self.options.control_port
        )
        self.control_port = control.sockets[0].getsockname()[1]
        self.journal.write("start")
        try:
            await self._serve(loop)
        finally:
            control.close()
            for timer in self._timers.values():
                timer.cancel()
            self._reset("stop")
            self.journal.write("stop")
            self.journal.close()

    async def _serve(self, loop: asyncio.AbstractEventLoop) -> None:
        while True:
            server = await self._listen(loop)
            self.port = server.sockets[0].getsockname()[1]
            self._schedule_drop()
            if not self.ready.is_set():
                self.ready.set()
                self.started()
            try:
                await self._unplugged.wait()
            finally:
                server.close()
                self._reset("unplugged")
            await self._plugged.wait()
            self.journal.write("plugged")

    async def _listen(self, loop: asyncio.AbstractEventLoop) -> asyncio.Server:
        """The port may be in use for a moment after the power returns, so this tries again."""
        while True:
            try:
                return await loop.create_server(self.session, self.options.host, self.port)
            except OSError:
                if not self.ready.is_set():
                    raise
                await asyncio.sleep(0.2)

    # ---- harm

    def unplug(self, seconds: float) -> None:
        """Cut the power for that many seconds."""
        self.journal.write("unplugged", reason=f"{seconds:g} s")
        self._plugged.clear()
        self._unplugged.set()
        self.power_lost()
        self.later("plug", seconds, self._plug)

    def power_lost(self) -> None:  # noqa: B027 - most devices forget nothing
        """What the device forgets without power."""

    def freeze(self, seconds: float) -> None:
        """Hang for that many seconds, then reboot, which closes all connections."""
        self.journal.write("frozen", reason=f"{seconds:g} s")
        self.frozen = True
        self.later("thaw", seconds, self._thaw)

    def half_open(self) -> None:
        """Go deaf on the present connections without closing them."""
        for session in self.sessions:
            session.deaf = True
        self.journal.write("half-open")

    def drop(self) -> None:
        """Close all connections."""
        self._reset("dropped")

    def _plug(self) -> None:
        self._unplugged.clear()
        self._plugged.set()

    def _thaw(self) -> None:
        self.frozen = False
        self._reset("rebooted")

    def _reset(self, reason: str) -> None:
        for session in list(self.sessions):
            session.abort(reason)

    def _schedule_drop(self) -> None:
        if self.options.drop_every > 0:
            spread = self.random.uniform(0.5, 1.5)
            self.later("drop", self.options.drop_every * spread, self._drop_one)

    def _drop_one(self) -> None:
        if self.sessions:
            self.random.choice(sorted(self.sessions, key=lambda session: session.number)).abort(
                "dropped"
            )
        self._schedule_drop()

    def later(self, name: str, seconds: float, call: Callable[[], None]) -> None:
        """Call once after that many seconds, instead of an earlier call of that name."""
        if name in self._timers:
            self._timers[name].cancel()
        self._timers[name] = asyncio.get_running_loop().call_later(seconds, call)

    def next_number(self) -> int:
        """The number of a new connection."""
        self._connections += 1
        return self._connections


class Session(asyncio.Protocol):
    """One connection of a device."""

    def __init__(self, device: Device) -> None:
        self.device = device
        self.number = device.next_number()
        self.deaf = False
        self.pending = b""
        self._transport: asyncio.Transport | None = None
        self._idle: asyncio.TimerHandle | None = None
        self._reason = "by peer"

    # ---- for devices

    def greeting(self) -> bytes:
        """What the device says first."""
        return b""

    def consume(self) -> None:
        """Take complete commands from `pending` and answer them."""
        raise NotImplementedError

    def answer(self, text: str, reply: str, *, end: str) -> None:
        """Write one reply and note it together with the command."""
        self.device.journal.write("command", connection=self.number, text=text, reply=reply)
        self.send((reply + end).encode())

    def send(self, data: bytes) -> None:
        """Write, unless the connection is gone or the device no longer answers on it."""
        if self._transport is not None and not self.deaf and not self.device.frozen:
            self._transport.write(data)

    def close(self, reason: str) -> None:
        """Close after what was written has gone out."""
        self._reason = reason
        if self._transport is not None:
            self._transport.close()

    def abort(self, reason: str) -> None:
        """Close at once; the peer sees a reset."""
        self._reason = reason
        if self._transport is not None:
            self._transport.abort()

    # ---- asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self.device.sessions.add(self)
        self.device.journal.write(
            "connect", connection=self.number, text=str(transport.get_extra_info("peername"))
        )
        self.send(self.greeting())
        self._restart_idle()

    def data_received(self, data: bytes) -> None:
        if self.deaf or self.device.frozen:
            return
        self._restart_idle()
        self.pending += data
        self.consume()
        if len(self.pending) > MAX_PENDING:
            self.abort("flooded")

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        if self._idle is not None:
            self._idle.cancel()
        self.device.sessions.discard(self)
        self.device.journal.write("disconnect", connection=self.number, reason=self._reason)

    def _restart_idle(self) -> None:
        if self._idle is not None:
            self._idle.cancel()
            self._idle = None
        if self.device.options.idle > 0:
            loop = asyncio.get_running_loop()
            self._idle = loop.call_later(self.device.options.idle, self.close, "idle")


class _Control(asyncio.Protocol):
    """The second port: who may do the device harm."""

    def __init__(self, device: Device) -> None:
        self._device = device
        self._pending = b""
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        assert self._transport is not None
        self._pending += data
        *lines, self._pending = self._pending.split(b"\n")
        for line in lines:
            answer = self._obey(line.decode(errors="replace").split())
            self._transport.write(json.dumps(answer).encode() + b"\n")
        if len(self._pending) > MAX_PENDING:
            self._transport.abort()

    def _obey(self, words: list[str]) -> dict[str, object]:
        device = self._device
        try:
            match words:
                case ["unplug", seconds]:
                    device.unplug(float(seconds))
                case ["freeze", seconds]:
                    device.freeze(float(seconds))
                case ["half-open"]:
                    device.half_open()
                case ["drop"]:
                    device.drop()
                case ["state"]:
                    pass
                case _ if not device.panel(words):
                    return {"error": f"cannot do {' '.join(words)!r}"}
        except ValueError as error:
            return {"error": str(error)}
        return {
            "connections": len(device.sessions),
            "frozen": device.frozen,
            **device.state(),
        }


def serve(device: Device) -> None:
    """Run the device in this process until SIGTERM or SIGINT."""
    asyncio.run(_until_signal(device))


async def _until_signal(device: Device) -> None:
    task = asyncio.current_task()
    assert task is not None
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, task.cancel)
    with contextlib.suppress(asyncio.CancelledError):
        await device.run()
