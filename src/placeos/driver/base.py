"""`Driver` and `Logic`: what a driver class derives from."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from types import FunctionType
from typing import TYPE_CHECKING, Any, ClassVar, Final, Generic, TypeVar, cast

from placeos.driver.errors import DriverError
from placeos.driver.queue import Command, Match, Queue
from placeos.driver.settings import Settings
from placeos.driver.transports.base import Alternatives, Transport
from placeos.wire.messages import ModuleStart

if TYPE_CHECKING:
    from placeos.driver.log import ModuleLogger
    from placeos.driver.module import Module
    from placeos.driver.remote import Interfaces
    from placeos.driver.schedule import Schedule
    from placeos.driver.system import System
    from placeos.driver.transports.http_client import HttpClient, Request
    from placeos.driver.transports.ssh import Shell

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
    transport: ClassVar[Transport | Alternatives | None] = None
    """How the device is reached; None for logic."""
    queue: ClassVar[Queue] = Queue()
    """What holds for all its commands, unless `send` is told otherwise."""
    default_settings: ClassVar[dict[str, object] | None] = None
    """Settings to start from; the defaults of the settings class if not given."""
    needs: ClassVar[Mapping[str, Interfaces]] = {}
    """Modules its system should have, for an administrator to read:
    `{"Display_1": [Powerable], "Camera": []}`. A name without a number stands for any of them."""

    @property
    def _module(self) -> Module:
        module: Module = getattr(self, _ATTACHED)
        return module

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

    async def open(self) -> None:
        """With `Service`: connect the client library. What it raises is why it cannot."""

    async def close(self) -> None:
        """With `Service`: the client is no longer used; called once for each `open`."""

    async def websocket_headers(self) -> Mapping[str, str]:
        """With `WebSocket`: headers of the handshake, asked for before each connection."""
        return {}

    async def before_request(self, request: Request) -> None:
        """Runs before each request of `self.http`, and may change it: to add a token, say.
        What it asks by `self.http` itself goes out at once, and not through here again."""

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
    def log(self) -> ModuleLogger:
        """The module's own logger; everything it says is shown to who debugs the module. With a
        library of one's own, `self.log.wire("sent", data)` shows what that sends."""
        return self._module.log

    @property
    def http(self) -> HttpClient:
        """Requests to the device: `await self.http.get("/status")`. Raises DriverError in logic."""
        return self._module.reach.http

    @property
    def ssh(self) -> Shell:
        """With `SSH`: commands beside the shell, `await self.ssh.run("show version")`. Raises
        Offline, and DriverError with another transport."""
        return self._module.reach.ssh

    @property
    def schedule(self) -> Schedule:
        """Do something later, or repeatedly."""
        return self._module.schedule

    @property
    def system(self) -> System:
        """The system the module belongs to. Raises DriverError if it belongs to none."""
        return self._module.system

    async def system_by_id(self, id: str) -> System:
        """Any system, as it is now: `hall = await self.system_by_id("sys-hall")`. Raises
        RemoteError if there is none of that id."""
        return await self._module.system_by_id(id)

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

    def signal_status(self, key: str) -> None:
        """Publish the present value of the live state (or that there is none) once more, though
        it has not changed: for values that are events, such as a card that was shown again."""
        self._module.state.signal(key)

    def subscribe(
        self, key: str, handler: Callable[[Any], Awaitable[object] | None]
    ) -> Callable[[], None]:
        """Call `handler` with the present value of the module's own state and every new one
        (None: there is none). Returns what ends it."""
        return self._module.subscriptions.own(key, handler)

    async def send(
        self,
        data: bytes | str,
        *,
        name: str = "",
        priority: int | None = None,
        timeout: float | None = None,
        retries: int | None = None,
        wait: bool | None = None,
        delay: float | None = None,
        match: Match | None = None,
        clear_queue: bool = False,
    ) -> bytes:
        """Queue a command and wait for the device's reply, without its ending.

        A text is a line: it gets the transport's ending; bytes go out as they are. Commands
        of higher `priority` go first. A newer command of the same `name` replaces one that
        still waits. Without a reply within `timeout` seconds it is sent up to `retries`
        times more, unless `wait` is false: then it is finished once written. `delay` is a
        pause after it, in seconds. `match` tells whether a message is its reply; without it
        the next message is. With `clear_queue` its reply withdraws all commands that wait.
        What is not given is as the driver's `queue` says. Raises NoReply, Offline, Superseded,
        Withdrawn or Busy.
        """
        command = _command(self, data, name, priority, timeout, retries, delay, match)
        command.wait = self.queue.wait if wait is None else wait
        command.clears = clear_queue
        reply: bytes = await self._module.reach.send(command)
        return reply

    async def send_all(
        self,
        data: bytes | str,
        *,
        until: Match,
        name: str = "",
        priority: int | None = None,
        timeout: float | None = None,
        retries: int | None = None,
        delay: float | None = None,
        match: Match | None = None,
    ) -> list[bytes]:
        """Like `send`, for a reply of several messages, up to that which `until` accepts.

        Each message gives the device `timeout` seconds for the next one.
        """
        command = _command(self, data, name, priority, timeout, retries, delay, match)
        command.until = until
        replies: list[bytes] = await self._module.reach.send(command)
        return replies

    def extend_timeout(self) -> None:
        """The device said that it works on the command in flight: wait for its reply as long
        again."""
        self._module.reach.extend_timeout()

    async def receive(self, timeout: float = 5.0, match: Match | None = None) -> bytes:
        """Wait for the next message that answers no command, for instance a greeting.

        Raises NoReply after `timeout` seconds, Offline when the connection is lost.
        """
        return await self._module.reach.receive(timeout, match)

    def clear_queue(self, *, current: bool = False) -> None:
        """Withdraw the commands that wait, with `current` also the one in flight."""
        self._module.reach.clear_queue(current=current)

    def disconnect(self, reason: str = "dropped by the driver") -> None:
        """Drop the connection; a new one follows by itself."""
        self._module.reach.disconnect(reason)

    def set_connected(self, online: bool, reason: str = "") -> None:
        """Report `connected` otherwise than the platform would. False holds until the device is
        connected anew, or heard of where no connection is kept; it stops no command."""
        self._module.reach.set_connected(online, reason or "reported by the driver")

    def spawn(self, job: Awaitable[object]) -> None:
        """Run something in the background. It ends with the module, not with the caller. A failure
        is shown with the module, until the same goes well."""
        self._module.background(job, getattr(job, "__name__", "background job"))

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


_ATTACHED: Final = "_placeos_module"


def attach(driver: Driver[Any], module: Module) -> None:
    """Give a driver its module."""
    setattr(driver, _ATTACHED, module)


def _command(
    driver: Driver[Any],
    data: bytes | str,
    name: str,
    priority: int | None,
    timeout: float | None,
    retries: int | None,
    delay: float | None,
    match: Match | None,
) -> Command:
    """No method: a driver may have one of that name."""
    transport = driver._module.reach.transport
    if transport is None:
        raise DriverError(f"{type(driver).__name__} has no transport to send with")
    usual = driver.queue
    return Command(
        data=transport.encode(data),
        name=name,
        priority=usual.priority if priority is None else priority,
        timeout=usual.timeout if timeout is None else timeout,
        retries=usual.retries if retries is None else retries,
        delay=usual.delay if delay is None else delay,
        match=match,
    )


HOOKS = frozenset(
    {
        "before_request",
        "close",
        "connected",
        "disconnected",
        "login",
        "open",
        "received",
        "settings_changed",
        "started",
        "stopped",
        "websocket_headers",
    }
)
"""Methods a driver may define for the SDK to call."""

HIDDEN = frozenset(name for cls in (Driver, Logic) for name in dir(cls))
"""Names that never become functions of a module."""

RESERVED = frozenset(
    name
    for name, member in vars(Driver).items()
    if isinstance(member, FunctionType | property)
    and (name[0] != "_" or name == "_module")
    and name not in HOOKS
)
"""Names of what a driver uses and must not define itself. All other private names are free."""
