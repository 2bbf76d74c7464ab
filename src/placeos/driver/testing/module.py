"""The module under test, as a test sees it."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any, Final

import msgspec
from msgspec import Raw

from placeos.driver.testing.clock import FakeClock
from placeos.driver.testing.core import PlayedCore
from placeos.driver.testing.script import TIMEOUT, Scripted
from placeos.driver.testing.system import FakeSystem
from placeos.wire.frame import Clearance, Command, Header
from placeos.wire.messages import DriverDefaults, LogLine, ModuleMetadata, ModuleStart, Publish

UNLIMITED: Final = 60.0  # real seconds after which a call under a fake clock is given up
TRACE: Final = 0  # level of lines that show traffic
RECALLED: Final = 30  # lines of the log that a failed test is shown


class TestedModule:
    """The module under test, its device and what is around it."""

    __test__ = False  # no test class, whatever pytest thinks of its name

    def __init__(
        self,
        core: PlayedCore,
        device: Scripted,
        start: ModuleStart,
        metadata: ModuleMetadata,
        clock: FakeClock | None = None,
    ) -> None:
        self.core = core
        self.device: Any = device
        self.saved = core.saved
        """Settings the driver stored, by name. Each comes back to it as an update."""
        self.published: list[Publish] = core.published
        """All it published, in order: `channel` and `text`."""
        self._start = start
        self._metadata = metadata
        self._clock = clock
        self._told: dict[str, int] = {}  # channel → how many of its texts were expected so far
        self._updates: set[asyncio.Task[None]] = set()
        core.on_saved = self._saved

    @property
    def clock(self) -> FakeClock:
        """The clock that was given to `drive`."""
        assert self._clock is not None, "give drive(…, clock=FakeClock())"
        return self._clock

    @property
    def has_clock(self) -> bool:
        """Whether its time is told by the test."""
        return self._clock is not None

    @property
    def implements(self) -> list[str]:
        """The published names of its interfaces."""
        return self._metadata.implements

    @property
    def role(self) -> int:
        """How its device is reached."""
        return self._start.role

    @property
    def system(self) -> FakeSystem:
        """The modules around it; `replace` changes them."""
        return self.core.system

    @property
    def state(self) -> dict[str, Any]:
        """The live state as it is now."""
        return self.core.state

    @property
    def defaults(self) -> DriverDefaults:
        """What the driver file declares about itself."""
        assert self.core.defaults is not None
        return self.core.defaults

    @property
    def logs(self) -> list[LogLine]:
        """Its log so far, from `debug` up: `level` and `message`."""
        return [line for line in self.core.logs if line.level != TRACE]

    @property
    def wire(self) -> list[str]:
        """What went to and from the device so far: `sent 4 bytes  "ping"  70 69 6e 67`."""
        return [line.message for line in self.core.logs if line.level == TRACE]

    def story(self) -> str:
        """What a failed test is shown: the last of its log and traffic, faults, state."""
        lines = [line.message for line in self.core.logs[-RECALLED:]]
        faults = [f"fault: {text}" for text in self.core.faults]
        state = ", ".join(f"{key} = {value!r}" for key, value in sorted(self.state.items()))
        parts = ["The module's log and traffic:", *(lines or ["nothing"]), *faults]
        return "\n  ".join(parts) + f"\nIts state: {state or 'none'}"

    # -- the device -------------------------------------------------------------------------

    async def should_send(self, data: Any, timeout: float = TIMEOUT) -> None:
        """What the module sends next is `data`."""
        await self.device.should_send(data, timeout)

    async def responds(self, *args: Any, **named: Any) -> None:
        """The device says that."""
        await self.device.responds(*args, **named)

    # -- calls and what comes of them -------------------------------------------------------

    def exec(
        self,
        function: str,
        *args: object,
        user: str = "",
        clearance: Clearance = Clearance.ADMINISTRATOR,
        timeout: float | None = None,
        **named: object,
    ) -> asyncio.Task[Any]:
        """Call a function. The task ends with its result, or raises CallError.

        The driver has `timeout` seconds for it: unless given 5, and no limit under a clock
        that is told.
        """
        header = Header(
            Command.EXECUTE,
            module=self._start.id,
            function=function,
            user=user,
            clearance=clearance,
        )
        payload = msgspec.json.encode(named or list(args))
        if not self.has_clock:
            asked = self.core.ask(header, payload, timeout or TIMEOUT)
        else:
            header.remaining = int((timeout or 0) * 1000)
            asked = self.core.ask(header, payload, UNLIMITED, unlimited=True)
        return asyncio.create_task(asked)

    async def status(self, key: str, value: object, timeout: float = TIMEOUT) -> None:
        """Wait until a status has a value, or has had it (None: until it has none)."""
        try:
            await self.core.until(lambda: self.core.saw(key, value), timeout)
        except TimeoutError:
            found = self.state.get(key)
            text = f"status {key!r} is {found!r} and not {value!r}"
            raise AssertionError(f"{text} within {timeout:g} s") from None

    async def fault(self, text: str, timeout: float = TIMEOUT) -> str:
        """Wait for a fault whose message holds `text`, and return it."""
        return await self._find(self.core.faults, text, timeout)

    async def expect_log(self, text: str, timeout: float = TIMEOUT) -> LogLine:
        """Wait for a line of the log that holds `text`, and return it."""
        logs = self.core.logs
        try:
            await self.core.until(lambda: any(text in line.message for line in logs), timeout)
        except TimeoutError:
            raise AssertionError(f"no line of the log has {text!r}") from None
        return next(line for line in logs if text in line.message)

    # -- channels ---------------------------------------------------------------------------

    def publish(self, channel: str, text: str) -> None:
        """Send text on a channel; the module hears it if it monitors that one."""
        self.core.say(channel, text)

    async def expect_published(
        self, channel: str, text: str | None = None, timeout: float = TIMEOUT
    ) -> str:
        """Wait for the next text the module publishes on `channel`, and return it.

        Raises AssertionError if it is another than `text`.
        """

        told = self._told.get(channel, 0)

        def rest() -> list[str]:
            return [one.text for one in self.published if one.channel == channel][told:]

        try:
            await self.core.until(lambda: bool(rest()), timeout)
        except TimeoutError:
            raise AssertionError(f"nothing was published on {channel!r}") from None
        self._told[channel] = told + 1
        got = rest()[0]
        assert text is None or got == text, f"expected {text!r} on {channel!r}, got {got!r}"
        return got

    # -- its record -------------------------------------------------------------------------

    async def update(self, **settings: object) -> None:
        """Replace the settings. Raises CallError for wrong ones."""
        self._start.settings = raw(self.device.settings() | settings)
        await self._send_record()

    async def move(self, port: int) -> None:
        """Give the module another port."""
        self._start.port = port
        await self._send_record()

    async def stop(self) -> None:
        """Stop the module."""
        header = Header(Command.STOP, module=self._start.id)
        await self.core.ask(header, b"", TIMEOUT, unlimited=self.has_clock)

    async def _send_record(self) -> None:
        record = msgspec.json.encode(self._start)
        await self.core.ask(Header(Command.UPDATE), record, TIMEOUT, unlimited=self.has_clock)

    def _saved(self, name: str, value: Raw) -> None:
        """As core does: what was stored comes back as an update."""
        self._start.settings[name] = value
        task = asyncio.create_task(self._send_record())
        self._updates.add(task)
        task.add_done_callback(self._updates.discard)

    async def _find(self, texts: list[str], text: str, timeout: float) -> str:
        try:
            await self.core.until(lambda: any(text in one for one in texts), timeout)
        except TimeoutError:
            raise AssertionError(f"no fault has {text!r}: {texts or 'there was none'}") from None
        return next(one for one in texts if text in one)


def raw(values: Mapping[str, object]) -> dict[str, Raw]:
    """Values as a record carries them."""
    return {key: Raw(msgspec.json.encode(value)) for key, value in values.items()}
