"""`Driver` and `Logic`: what a driver class derives from."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Coroutine
from types import FunctionType
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeVar, cast

from placeos.driver.errors import DriverError
from placeos.driver.queue import Command, Match
from placeos.driver.settings import Settings
from placeos.driver.transport import TCP
from placeos.wire.messages import ModuleStart

if TYPE_CHECKING:
    from placeos.driver.module import Module
    from placeos.driver.schedule import Schedule
    from placeos.driver.system import System

S = TypeVar("S", bound=Settings)


class Driver(Generic[S]):
    """One device, service or room. A driver file defines one class derived from it.

    Public methods whose arguments have types are the module's functions. `self["key"]` is
    the live state. `S` is the class of the settings; `Driver[Settings]` has none.
    """

    module_name: ClassVar[str] = ""
    """The name of its modules in a system, such as `Display`; the class name if not given."""
    descriptive_name: ClassVar[str] = ""
    """What an administrator reads; the first line of the file's docstring if not given."""
    transport: ClassVar[TCP | None] = None
    """How the device is reached; None for logic."""
    default_settings: ClassVar[dict[str, object] | None] = None
    """Settings to start from; the defaults of the settings class if not given."""

    _module: Module

    # -- what an author may define --------------------------------------------------------

    async def started(self) -> None:
        """The module was started; nothing is connected yet."""

    async def stopped(self) -> None:
        """The module is being stopped (half a second at most)."""

    async def settings_changed(self) -> None:
        """`self.settings` was replaced."""

    async def login(self) -> None:
        """Runs first on each new connection. Until it returns only what it sends itself goes
        out; if it raises, the connection is dropped and tried again later."""

    async def connected(self) -> None:
        """The device can be used; called after each `login`."""

    async def disconnected(self) -> None:
        """The connection was lost; called once for each `connected`."""

    async def received(self, data: bytes) -> None:
        """The device sent a message that answers no command."""

    # -- what an author uses --------------------------------------------------------------

    @property
    def settings(self) -> S:
        """The settings, checked and converted."""
        return cast(S, self._module.settings)

    @property
    def config(self) -> ModuleStart:
        """The module's record: id, name, ip, port and so on."""
        return self._module.config

    @property
    def log(self) -> logging.Logger:
        """The module's own logger; everything it says is shown to who debugs the module."""
        return self._module.log

    @property
    def schedule(self) -> Schedule:
        """Do something later, or repeatedly."""
        return self._module.schedule

    @property
    def system(self) -> System:
        """The system the module belongs to. Raises DriverError if it belongs to none."""
        return self._module.system

    @property
    def user(self) -> str | None:
        """The id of the user on whose behalf the present function runs."""
        return self._module.user

    def __getitem__(self, key: str) -> Any:
        if key not in self._module.state:
            raise KeyError(key)
        return self._module.state.get(key)

    def __setitem__(self, key: str, value: object) -> None:
        self._module.state.set(key, value)

    def __delitem__(self, key: str) -> None:
        self._module.state.set(key, None)

    def __contains__(self, key: str) -> bool:
        return key in self._module.state

    def get(self, key: str, default: Any = None) -> Any:
        """A value of the live state, or `default`."""
        return self._module.state.get(key, default)

    async def send(
        self,
        data: bytes | str,
        *,
        name: str = "",
        priority: int = 50,
        timeout: float = 5.0,
        retries: int = 3,
        wait: bool = True,
        delay: float = 0.0,
        match: Match | None = None,
    ) -> bytes:
        """Queue a command and wait for the device's reply, without its ending.

        A text is a line: it gets the transport's ending; bytes go out as they are. Commands
        of higher `priority` go first. A newer command of the same `name` replaces one that
        still waits. Without a reply within `timeout` seconds it is sent up to `retries`
        times more, unless `wait` is false: then it is finished once written. `delay` is a
        pause after it, in seconds. `match` tells whether a message is its reply; without it
        the next message is. Raises NoReply, Offline, Superseded, Withdrawn or Busy.
        """
        if self.transport is None:
            raise DriverError(f"{type(self).__name__} has no transport to send with")
        command = Command(
            data=self.transport.encode(data),
            name=name,
            priority=priority,
            timeout=timeout,
            retries=retries,
            wait=wait,
            delay=delay,
            match=match,
        )
        return await self._module.send(command)

    async def receive(self, timeout: float = 5.0, match: Match | None = None) -> bytes:
        """Wait for the next message that answers no command, for instance a greeting.

        Raises NoReply after `timeout` seconds, Offline when the connection is lost.
        """
        return await self._module.receive(timeout, match)

    def clear_queue(self, *, current: bool = False) -> None:
        """Withdraw the commands that wait, with `current` also the one in flight."""
        self._module.clear_queue(current=current)

    def disconnect(self, reason: str = "dropped by the driver") -> None:
        """Drop the connection; a new one follows by itself."""
        self._module.disconnect(reason)

    def spawn(self, job: Coroutine[Any, Any, object]) -> None:
        """Run something in the background. It ends with the module, not with the caller."""
        self._module.spawn(job, getattr(job, "__name__", "background job"))

    def publish(self, channel: str, text: str) -> None:
        """Send text to everyone who monitors `channel`."""
        self._module.publish(channel, text)

    def monitor(
        self, channel: str, handler: Callable[[str], Awaitable[object] | None]
    ) -> Callable[[], None]:
        """Call `handler` with each text sent on `channel`. Returns what ends it."""
        return self._module.monitor(channel, handler)

    async def save_setting(self, name: str, value: object) -> None:
        """Store a setting with the module; it comes back as `settings_changed`."""
        await self._module.save_setting(name, value)


class Logic(Driver[S]):
    """Logic of a room: no device of its own, `self.system` and `@on` instead."""


HOOKS = frozenset(
    {"started", "stopped", "settings_changed", "login", "connected", "disconnected", "received"}
)
"""Methods a driver may define for the SDK to call."""

HIDDEN = frozenset(name for cls in (Driver, Logic) for name in dir(cls))
"""Names that never become functions of a module."""

RESERVED = frozenset(
    name
    for name, member in vars(Driver).items()
    if isinstance(member, FunctionType | property) and name[0] != "_" and name not in HOOKS
)
"""Names of what a driver uses and must not define itself."""
