"""How a module reaches its device, and what it makes of the device coming and going."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable
from typing import TYPE_CHECKING, Any, Final

from placeos.driver.calls import NO_CALL, present
from placeos.driver.device import Device, Hooks
from placeos.driver.errors import DriverError
from placeos.driver.fencing.permit import Permit
from placeos.driver.queue import Command, Match
from placeos.driver.record import address_of, transport_for
from placeos.driver.transports.base import Address, Connection, Transport, makes_and_breaks
from placeos.driver.transports.http_client import HttpClient
from placeos.driver.transports.ssh import Shell, remember_host_key, shell_of
from placeos.wire.messages import ModuleStart

if TYPE_CHECKING:
    from placeos.driver.module import Module

ANSWER_WITHIN: Final = 5.0  # seconds after which a device that never came counts as away
LOGIC_HAS_NONE: Final = "logic has no device"


class Reach:
    """The device of one module (none for logic) and its status `connected`.

    Raises DriverError if the driver cannot be used as the module's record says.
    """

    def __init__(self, module: Module) -> None:
        self._module = module
        self.log = module.log
        self.health = module.health
        self.permit = Permit()
        self.transport = transport_for(module.blueprint, module.config)
        self._address = address_of(module.config)
        self._device = self._make_device()
        self._http: HttpClient | None = None  # made when it is first used
        self._hook: asyncio.Task[object] | None = None
        self._absence: asyncio.TimerHandle | None = None
        self._cause = ""  # why the device is not online, as last reported
        self._started = False
        self._was_connected = module.state.text("connected") == b"true"
        self._coming: asyncio.Future[None] | None = None  # the first connection, or none soon
        if self._device is not None and self._device.standing:
            self._coming = asyncio.get_running_loop().create_future()

    # -- life cycle -----------------------------------------------------------------------

    def start(self) -> None:
        """Begin to connect."""
        self._started = True
        if self._device is None:
            self._module.state.set("connected", True)
            self._run_hook("connected")
        else:
            self._expect()
            self._device.start()

    def update(self, start: ModuleStart) -> None:
        """Another address means another connection, another transport another device.

        Raises DriverError for a record the driver cannot be used with: nothing changes.
        """
        transport, address = transport_for(self._module.blueprint, start), address_of(start)
        before, self._address = self._address, address
        if transport is not self.transport or _kind(transport, address) != _kind(transport, before):
            self.transport = transport
            self._replace_device()
        elif self._device is not None:
            self._device.connector.move(address)
            if self._http is not None:
                self._http.move(address)

    def hasten(self) -> None:
        """Try to connect now, if that waits for its next attempt."""
        if self._device is not None:
            self._device.connector.hasten()

    async def close(self) -> None:
        """Disconnect for good."""
        if self._absence is not None:
            self._absence.cancel()
        self._started = False
        self._expect_no_more()
        await asyncio.gather(*(part.close() for part in (self._http, self._device) if part))

    # -- what the driver uses (see base.py) -----------------------------------------------

    @property
    def usable(self) -> bool:
        """Whether what needs the device may run."""
        return self._device is None or self._device.usable

    @property
    def connection(self) -> Connection | None:
        """The present connection."""
        return None if self._device is None else self._device.connector.connection

    @property
    def http(self) -> HttpClient:
        """Requests to the device. Raises DriverError in logic."""
        if self.transport is None:
            raise DriverError(LOGIC_HAS_NONE)
        if self._http is None:
            driver = self._module.driver
            defined = self._module.blueprint.defines("before_request")
            hook = driver.before_request if defined else None
            where = (self.transport, self._address, self._device)
            self._http = HttpClient(*where, hook, self.log, self.spawn, self.permit)
        return self._http

    @property
    def ssh(self) -> Shell:
        """What an SSH connection offers beside its shell. Raises Offline and DriverError."""
        return shell_of(self.transport, self.connection)

    async def send(self, command: Command) -> Any:
        """Send a command. One of a call that came before the first connection waits for that,
        as long as it would wait for a reply: the module may only have moved to this core."""
        if self._coming is not None and not command.name and present.get() is not NO_CALL:
            await asyncio.wait([self._coming], timeout=command.timeout)
        return await self._needed().send(command)

    async def receive(self, timeout: float, match: Match | None) -> bytes:
        """Wait for a message."""
        return await self._needed().receive(timeout, match)

    def extend_timeout(self) -> None:
        """Wait for the reply as long again."""
        self._needed().extend_timeout()

    def clear_queue(self, *, current: bool) -> None:
        """Withdraw queued commands and requests."""
        if self._device is not None:
            self._device.clear_queue(current=current)
        if self._http is not None:
            self._http.clear(current=current)

    def disconnect(self, reason: str) -> None:
        """Drop the connection."""
        if self._device is not None:
            self._device.hang_up(reason)

    def set_connected(self, online: bool, reason: str) -> None:
        """The driver knows better whether the device is there."""
        if self._device is None:
            self._module.state.set("connected", online)
        else:
            self._device.set_connected(online, reason)

    # -- what the device tells (see device.py) --------------------------------------------

    def spawn(self, job: Awaitable[object], name: str) -> asyncio.Task[object]:
        """Start a task that ends with the module, and is no part of a call that may have made
        the device speak."""
        return self._module.spawn_apart(job, name)

    def came_online(self) -> None:
        """The device can be used."""
        if self._cause:
            self._cause = ""
            self._module.tell("connect", None)
        if self._absence is not None:
            self._absence.cancel()
            self._absence = None
        self._expect_no_more()
        self._module.state.set("connected", True)
        remember_host_key(self.connection, self._module.state, self.log)
        if self._device is not None and self._device.standing:
            self._module.resume_timers(others=False)
        self._run_hook("connected")

    def went_offline(self, reason: str) -> None:
        """The device was lost, or does not answer."""
        if reason != self._cause:  # else it is told already
            self.log.warning("disconnected: %s", reason)
        self._cause = reason
        self._module.state.set("connected", False)
        if not self.usable:
            self._module.pause_timers()
        self._run_hook("disconnected")

    def cannot_connect(self, reason: str) -> None:
        """Say so once for each reason, not with each attempt."""
        level = logging.DEBUG if reason == self._cause else logging.WARNING
        self.log.log(level, "cannot connect: %s", reason)
        if reason != self._cause:
            self._cause = reason
            self._module.tell("connect", f"cannot connect: {reason}")
        if not self._was_connected:  # else another core may just have let go of it
            self._expect_no_more()

    # -- inside ---------------------------------------------------------------------------

    def _needed(self) -> Device:
        if self._device is None:
            raise DriverError(LOGIC_HAS_NONE)
        return self._device

    def _make_device(self) -> Device | None:
        if self.transport is None:
            return None
        driver, blueprint = self._module.driver, self._module.blueprint
        hooks = Hooks(
            login=driver.login if blueprint.defines("login") else None,
            received=driver.received if blueprint.defines("received") else None,
        )
        in_flight = blueprint.cls.queue.in_flight
        where = (self.transport, self._address)
        return Device(*where, hooks, driver, self, in_flight, self.permit)

    def _replace_device(self) -> None:
        before, http = self._device, self._http
        self._device, self._http = self._make_device(), None
        if before is not None and before.online:
            self.went_offline("the module's transport was changed")
        self.spawn(self._start_after(before, http), "change of transport")

    async def _start_after(self, before: Device | None, http: HttpClient | None) -> None:
        after = self._device
        if http is not None:
            await http.close()
        if before is not None:
            await before.close()
        if after is self._device and after is not None and self._started:
            self._expect()
            after.start()
            self._module.resume_timers(others=False)

    def _expect(self) -> None:
        if self._absence is not None:
            self._absence.cancel()
        loop = asyncio.get_running_loop()
        self._absence = loop.call_later(ANSWER_WITHIN, self._absent)

    def _absent(self) -> None:
        self._absence = None
        if self._device is not None and self._device.connector.queued:  # in a crowd: no sign
            self._expect()
        else:
            self._expect_no_more()
            self._module.state.set("connected", False)

    def _expect_no_more(self) -> None:
        if self._coming is not None:
            self._coming.set_result(None)
            self._coming = None

    def _run_hook(self, hook: str) -> None:
        """`connected` and `disconnected` run in the order in which they happened."""
        before = self._hook
        if hook == "disconnected" and before is not None:
            before.cancel()  # what `connected` was doing has become pointless
        if self._module.blueprint.defines(hook):
            self._hook = self.spawn(self._after(before, hook), hook)

    async def _after(self, before: asyncio.Task[object] | None, hook: str) -> None:
        if before is not None and not before.done():
            await asyncio.wait([before])
        await self._module.run_hook(hook)


def _kind(transport: Transport | None, address: Address) -> bool:
    return transport is not None and makes_and_breaks(transport, address)
