"""One module: a driver instance with its settings, state, device, schedule and tasks."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Final

import msgspec

from placeos.driver.calls import Call, present
from placeos.driver.device import Device, Hooks
from placeos.driver.errors import DriverError, InvalidSettings, Offline, backtrace_of
from placeos.driver.functions import Function
from placeos.driver.loader import Blueprint, Handler
from placeos.driver.log import ModuleLogger
from placeos.driver.queue import Command, Match
from placeos.driver.record import address_of, check_role
from placeos.driver.schedule import Schedule, Timer
from placeos.driver.schema import encode
from placeos.driver.state import Changes, State
from placeos.driver.system import System, split_name
from placeos.driver.transport import TCP
from placeos.driver.upstream import Upstream
from placeos.driver.watch import Delivery
from placeos.wire.messages import ModuleStart

PATIENCE: Final = 6.0  # seconds `started` may take before the device is connected anyway
ANSWER_WITHIN: Final = 5.0  # seconds after which a device that never came counts as away
STOP_HOOK: Final = 0.5  # seconds `stopped` may take
TRIED_TO_EXIT: Final = "the driver tried to exit the process"
STOP_TASKS: Final = 0.4  # seconds cancelled tasks may take


class Module:
    """Owns every task of its driver: stopping it ends them all.

    Raises InvalidSettings or DriverError when it cannot be made.
    """

    def __init__(self, blueprint: Blueprint, start: ModuleStart, upstream: Upstream) -> None:
        self.blueprint = blueprint
        self.config = start
        self.log = ModuleLogger(start.id)
        self._upstream = upstream
        self._loop = asyncio.get_running_loop()
        self._tasks: set[asyncio.Task[object]] = set()
        check_role(blueprint, start)
        self.settings, problems = blueprint.settings.read_with_defaults(start.settings)
        inherited = {key: bytes(text) for key, text in start.state.items()}
        self.state = State(self._publish_state, inherited)
        self.schedule = Schedule(self.spawn, self.log)
        self._bindings: list[tuple[Callable[[], None], Delivery]] = []
        self._monitors: set[Callable[[], None]] = set()
        self._own_handlers: list[tuple[str, Delivery]] = []
        self._hook: asyncio.Task[object] | None = None
        self._absence: asyncio.TimerHandle | None = None
        self._cause = ""  # why the device is not online, as last reported
        self.driver = blueprint.cls.__new__(blueprint.cls)
        self.driver._module = self
        self.driver.__init__()  # type: ignore[misc]  # after `_module`, so that it may use it
        self._timers = [self._timer(method, e.period, e.offline) for method, e in blueprint.every]
        self._device = self._make_device(blueprint.cls.transport)
        if problems:
            self.fault("; ".join(problems))

    # -- life cycle -----------------------------------------------------------------------

    def start(self) -> None:
        """Run the `started` hook, then connect and follow."""
        self.spawn(self._start(), "start")

    def update(self, start: ModuleStart) -> None:
        """Take new settings and a new address. Raises InvalidSettings: the old ones stay.

        What comes back as it is, say after a wrong value was taken away, is no change.
        """
        system = self.config.system
        self.config = start
        if self._device is not None:
            self._device.move(address_of(start))
        new_system = start.system
        if (system and system.id) != (new_system and new_system.id):
            self._follow()
        try:
            settings = self.blueprint.settings.read(start.settings)
        except InvalidSettings as error:
            self.fault(str(error))
            raise
        if settings == self.settings:
            return
        self.settings = settings
        if self._device is not None:
            self._device.hasten()  # a wrong password may have been the cause
        for timer, offline in self._timers:
            self._resume(timer, offline)
        self.spawn(self._guarded("settings_changed"), "settings_changed")

    async def stop(self) -> None:
        """End everything. Takes at most a second."""
        if self._absence is not None:
            self._absence.cancel()
        self.schedule.clear()
        self._unfollow()
        for stop_monitor in list(self._monitors):
            stop_monitor()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(STOP_HOOK):
                await self._guarded("stopped")
        if self._device is not None:
            await self._device.close()
        tasks = [task for task in self._tasks if task is not asyncio.current_task()]
        for task in tasks:
            task.cancel()
        if tasks:
            _, stubborn = await asyncio.wait(tasks, timeout=STOP_TASKS)
            for task in stubborn:
                self.log.error("%s does not end when it is cancelled", task.get_name())
        self.state.flush()

    async def _start(self) -> None:
        hook = self.spawn(self._guarded("started"), "started")
        await asyncio.wait([hook], timeout=PATIENCE)
        self._follow()
        if self._device is None:
            self.state.set("connected", True)
            self._resume_timers()
            self._run_hook("connected")
        else:
            self._absence = self._loop.call_later(ANSWER_WITHIN, self._absent)
            self._device.start()
            self._resume_timers()

    async def _guarded(self, hook: str) -> None:
        """Run a hook; its failure is a fault, not the end of the module."""
        try:
            waiting = getattr(self.driver, hook)()
            if waiting is not None:
                await waiting
        except Offline as error:
            self.log.warning("%s: %s", hook, error)
        except Exception as error:
            self.log.exception("%s failed", hook)
            self.fault(f"{hook}: {type(error).__name__}: {error}", backtrace_of(error))

    # -- calls ----------------------------------------------------------------------------

    def call(
        self,
        function: Function,
        args: list[object],
        named: dict[str, object],
        call: Call,
        on_result: Callable[[object], None],
    ) -> asyncio.Task[object]:
        """Enter a function. Its result goes to `on_result`; the task ends as the function does."""
        token = present.set(call)
        try:
            return self.spawn(self._call(function, args, named, on_result), function.name)
        finally:
            present.reset(token)

    async def _call(
        self,
        function: Function,
        args: list[object],
        named: dict[str, object],
        on_result: Callable[[object], None],
    ) -> None:
        try:
            result = getattr(self.driver, function.method)(*args, **named)
            if isinstance(result, Awaitable):
                result = await result
        except SystemExit as error:
            raise DriverError(TRIED_TO_EXIT) from error
        # Not by a done callback: that would cost each call one more turn of the loop.
        on_result(result)

    def call_plain(
        self, function: Function, args: list[object], named: dict[str, object], call: Call
    ) -> object:
        """Run a function that is a plain `def`, now. Returns or raises what it does."""
        token = present.set(call)
        try:
            return getattr(self.driver, function.method)(*args, **named)
        except SystemExit as error:
            raise DriverError(TRIED_TO_EXIT) from error
        except Exception as error:
            self._report(function.name, error)
            raise
        finally:
            present.reset(token)

    def spawn(self, job: Awaitable[object], name: str) -> asyncio.Task[object]:
        """Start a task that ends with the module; its failure is logged by `name`."""
        coroutine = job if isinstance(job, Coroutine) else _awaited(job)
        task: asyncio.Task[object] = self._loop.create_task(coroutine, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[object]) -> None:
        self._tasks.discard(task)
        error = None if task.cancelled() else task.exception()
        if error is not None:
            self._report(task.get_name(), error)

    def _report(self, name: str, error: BaseException) -> None:
        if isinstance(error, DriverError):  # a refusal in the driver's own words
            self.log.info("%s: %s", name, error)
        else:
            self.log.warning("%s failed", name, exc_info=error)

    # -- what the driver uses (see base.py) -----------------------------------------------

    @property
    def system(self) -> System:
        """The system of a logic module. Raises DriverError without one."""
        if self.config.system is None:
            raise DriverError(f"{self.config.id} does not belong to a system")
        return System(self._upstream, self.config.system)

    @property
    def user(self) -> str | None:
        """Who made the present call."""
        return present.get().user or None

    async def send(self, command: Command) -> bytes:
        """Send a command to the device."""
        assert self._device is not None
        return await self._device.send(command)

    async def receive(self, timeout: float, match: Match | None) -> bytes:
        """Wait for a message of the device."""
        if self._device is None:
            raise DriverError("there is no device to receive from")
        return await self._device.receive(timeout, match)

    def clear_queue(self, *, current: bool) -> None:
        """Withdraw queued commands."""
        if self._device is not None:
            self._device.clear_queue(current=current)

    def disconnect(self, reason: str) -> None:
        """Drop the connection to the device."""
        if self._device is not None:
            self._device.drop(reason)

    def publish(self, channel: str, text: str) -> None:
        """Send text on a channel."""
        self._upstream.publish(self.config.id, channel, text)

    def monitor(
        self, channel: str, handler: Callable[[str], Awaitable[object] | None]
    ) -> Callable[[], None]:
        """Follow a channel."""
        delivery = Delivery(handler, f"monitor {channel}", self.spawn, self.log, newest=False)
        end = self._upstream.monitor(self.config.id, channel, delivery)

        def stop() -> None:
            end()
            delivery.close()
            self._monitors.discard(stop)

        self._monitors.add(stop)
        return stop

    async def save_setting(self, name: str, value: object) -> None:
        """Store a setting."""
        await self._upstream.save_setting(self.config.id, name, encode(value))

    # -- what the device tells (see device.py) --------------------------------------------

    def came_online(self) -> None:
        """The device can be used."""
        self._cause = ""
        if self._absence is not None:
            self._absence.cancel()
            self._absence = None
        self.state.set("connected", True)
        for timer, offline in self._timers:
            if not offline:
                timer.resume()
        self._run_hook("connected")

    def went_offline(self, reason: str) -> None:
        """The device was lost."""
        self.log.warning("disconnected: %s", reason)
        self._cause = reason
        self.state.set("connected", False)
        for timer, offline in self._timers:
            if not offline:
                timer.pause()
        self._run_hook("disconnected")

    def cannot_connect(self, reason: str) -> None:
        """Say so once for each reason, not with each attempt."""
        level = logging.DEBUG if reason == self._cause else logging.WARNING
        self.log.log(level, "cannot connect: %s", reason)
        if reason != self._cause:
            self._cause = reason
            self.fault(f"cannot connect: {reason}")

    def _absent(self) -> None:
        self._absence = None
        self.state.set("connected", False)

    # -- inside ---------------------------------------------------------------------------

    def fault(self, message: str, backtrace: list[str] | None = None) -> None:
        """Show an administrator what is wrong."""
        self._upstream.fault(self.config.id, message, backtrace)

    def _publish_state(self, changes: Changes) -> None:
        self._upstream.state(self.config.id, changes)
        for key, text in changes:
            for wanted, delivery in self._own_handlers:
                if wanted == key:
                    delivery(msgspec.json.decode(text))

    def _make_device(self, transport: TCP | None) -> Device | None:
        if transport is None:
            return None
        hooks = Hooks(
            login=self.driver.login if self.blueprint.defines("login") else None,
            received=self.driver.received if self.blueprint.defines("received") else None,
        )
        return Device(transport, address_of(self.config), hooks, self)

    def _run_hook(self, hook: str) -> None:
        """`connected` and `disconnected` run in the order in which they happened."""
        before = self._hook
        if hook == "disconnected" and before is not None:
            before.cancel()  # what `connected` was doing has become pointless
        if self.blueprint.defines(hook):
            self._hook = self.spawn(self._after(before, hook), hook)

    async def _after(self, before: asyncio.Task[object] | None, hook: str) -> None:
        if before is not None and not before.done():
            await asyncio.wait([before])
        await self._guarded(hook)

    def _timer(self, method: str, period: float | str, offline: bool) -> tuple[Timer, bool]:
        def seconds() -> float:
            value = getattr(self.settings, period) if isinstance(period, str) else period
            return float(value or 0)

        return self.schedule.timer(getattr(self.driver, method), seconds), offline

    def _resume_timers(self) -> None:
        for timer, offline in self._timers:
            self._resume(timer, offline)

    def _resume(self, timer: Timer, offline: bool) -> None:
        if offline or self._device is None or self._device.online:
            timer.resume()

    def _follow(self) -> None:
        """Establish what `@on` declares, for the present system."""
        self._unfollow()
        for handler in self.blueprint.handlers:
            delivery = self._delivery(handler)
            if not handler.module:
                self._own_handlers.append((handler.key, delivery))
                delivery(self.state.get(handler.key))
            elif self.config.system is None:
                self.fault(f"{handler.method}: the module does not belong to a system")
            else:
                self._bind(handler, self.config.system.id, delivery)

    def _bind(self, handler: Handler, system_id: str, delivery: Delivery) -> None:
        name, index = split_name(handler.module)
        end = self._upstream.bind(
            self.config.id,
            system_id,
            name,
            index,
            handler.key,
            lambda text: delivery(msgspec.json.decode(text)),
        )
        self._bindings.append((end, delivery))

    def _unfollow(self) -> None:
        for end, delivery in self._bindings:
            end()
            delivery.close()
        self._bindings.clear()
        self._own_handlers.clear()

    def _delivery(self, handler: Handler) -> Delivery:
        method: Callable[..., Any] = getattr(self.driver, handler.method)
        call = method if handler.takes_value else (lambda _value: method())
        return Delivery(call, handler.method, self.spawn, self.log, newest=True)


async def _awaited(job: Awaitable[object]) -> object:
    return await job
