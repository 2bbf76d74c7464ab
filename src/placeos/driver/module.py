"""One module: a driver instance with its settings, state, device, schedule and tasks."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Coroutine
from datetime import tzinfo
from typing import Final

from placeos.driver.base import attach
from placeos.driver.calls import NO_CALL, Call, present
from placeos.driver.cron import machine_zone, zone_of
from placeos.driver.declared import Declared
from placeos.driver.errors import DriverError, InvalidSettings, Offline
from placeos.driver.fencing.permit import STRICT, isolation_of
from placeos.driver.follow import Subscriptions
from placeos.driver.functions import Function
from placeos.driver.health import Health
from placeos.driver.interfaces import Interface
from placeos.driver.loader import Blueprint
from placeos.driver.log import RATE, ModuleLogger, log_level
from placeos.driver.mask import Mask
from placeos.driver.reach import Reach
from placeos.driver.remote import Asker
from placeos.driver.schedule import Schedule
from placeos.driver.schema import encode
from placeos.driver.settings import reader_of, secrets_of
from placeos.driver.state import Changes, State
from placeos.driver.system import System
from placeos.driver.transports.base import options_of
from placeos.driver.upstream import Upstream
from placeos.wire.messages import ModuleStart

PATIENCE: Final = 6.0  # seconds `started` may take before the device is connected anyway
FINISH: Final = 5.0  # seconds that calls under way may take before the module moves
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
        self.log = ModuleLogger(start.id, self._flooded)
        self.health = Health(self.log, self.tell)
        self._upstream = upstream
        self._loop = asyncio.get_running_loop()
        self._tasks: set[asyncio.Task[object]] = set()
        self.settings, problems = blueprint.settings.read_with_defaults(start.settings)
        inherited = {key: bytes(text) for key, text in start.state.items()}
        confirm = start.state_of_other_version
        self.state = State(self._publish_state, inherited, confirm=confirm)
        self.schedule = Schedule(self.spawn_apart, self.health, self._zone)
        parts = (start.id, upstream, self.state, self.spawn_apart, self.health)
        self.subscriptions = Subscriptions(*parts)  # those made in code
        self._declared_subscriptions = Subscriptions(*parts)
        self.driver = blueprint.cls.__new__(blueprint.cls)
        self._hide_secrets()
        attach(self.driver, self)
        self.driver.__init__()  # type: ignore[misc]  # after that, so that it may use it
        self._declared = Declared(
            blueprint, self.driver, self.schedule, self._declared_subscriptions, self._setting
        )
        self.reach = Reach(self)
        try:
            self.log.set_persistent(log_level(start.settings))
        except InvalidSettings as error:
            problems.append(str(error))
        try:
            self.reach.permit.set_isolation(isolation_of(start.settings))
        except InvalidSettings as error:
            self.reach.permit.set_isolation(STRICT)  # it was meant to say something
            problems.append(str(error))
        if problems:
            self.tell("settings", "; ".join(problems))

    # -- life cycle -----------------------------------------------------------------------

    def start(self) -> None:
        """Run the `started` hook, then connect and follow."""
        self.spawn(self._start(), "start")

    def update(self, start: ModuleStart) -> None:
        """Take new settings and a new address. Raises InvalidSettings: the old ones stay.

        What comes back as it is, say after a wrong value was taken away, is no change.
        """
        system = self.config.system
        try:
            self.reach.update(start)
        except DriverError as error:
            self.tell("settings", str(error))
            raise
        self.config = start
        new_system = start.system
        if (system and system.id) != (new_system and new_system.id):
            self._follow()
        try:
            settings = self.blueprint.settings.read(start.settings)
            self.log.set_persistent(log_level(start.settings))
            self.reach.permit.set_isolation(isolation_of(start.settings))
        except InvalidSettings as error:
            self.tell("settings", str(error))
            raise
        changed = settings != self.settings
        self.settings = settings
        self._hide_secrets()  # those of the transport may have changed
        if not changed:
            return
        self.reach.hasten()  # a wrong password may have been the cause
        self.resume_timers()
        self.spawn(self._prepare("settings_changed"), "settings_changed")

    async def finish(self, calls: set[asyncio.Task[object]]) -> None:
        """Another core will run this module: let those of these calls end that are its own."""
        mine = calls & self._tasks
        if mine:
            await asyncio.wait(mine, timeout=FINISH)

    async def stop(self) -> None:
        """End everything: its transports within a second, whatever the driver does, then its
        tasks."""
        self.schedule.close()
        self._declared_subscriptions.clear()
        self.subscriptions.clear()
        hook = self._loop.create_task(self.run_hook("stopped"), name="stopped")
        self._tasks.add(hook)
        hook.add_done_callback(self._tasks.discard)
        await asyncio.wait([hook], timeout=STOP_HOOK)  # whatever it does when it is cancelled
        hook.cancel()
        await self.reach.close()
        tasks = [task for task in self._tasks if task is not asyncio.current_task()]
        for task in tasks:
            task.cancel()
        if tasks:
            _, stubborn = await asyncio.wait(tasks, timeout=STOP_TASKS)
            for task in stubborn:
                self.log.error("%s does not end when it is cancelled", task.get_name())
        self.subscriptions.clear()  # those of `stopped`
        self.state.flush()
        self.log.close()

    async def _start(self) -> None:
        hook = self.spawn(self._prepare("started"), "started")
        await asyncio.wait([hook], timeout=PATIENCE)
        if self.schedule.closed:  # it was stopped meanwhile
            return
        self._follow()
        self.reach.start()
        self.resume_timers()

    async def _prepare(self, hook: str) -> None:
        """Run a hook, then let the driver's interfaces publish what follows from settings."""
        await self.run_hook(hook)
        if isinstance(self.driver, Interface):
            await self.run_hook("_interfaces_prepared")

    async def run_hook(self, hook: str) -> None:
        """Run a hook; its failure is a fault, not the end of the module."""
        try:
            waiting = getattr(self.driver, hook)()
            if waiting is not None:
                await waiting
        except Offline as error:
            self.log.warning("%s: %s", hook, error)
        except BaseException as error:
            self.health.failed(hook, error)
        else:
            self.health.well(hook)

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
        # Not by a done callback: that would cost each call one more turn of the loop.
        on_result(await self._outcome(getattr(self.driver, function.method)(*args, **named)))

    async def _outcome(self, waiting: Awaitable[object]) -> object:
        """What a function gives, or what `@rescues` makes of its error."""
        try:
            return await waiting
        except (SystemExit, KeyboardInterrupt) as error:
            raise DriverError(TRIED_TO_EXIT) from error
        except Exception as error:
            rescue = self._rescue_from(error)
            if rescue is None:
                raise
            instead = rescue(error)
            return await instead if isinstance(instead, Awaitable) else instead

    def _rescue_from(self, error: Exception) -> Callable[[Exception], object] | None:
        for kind, method in self.blueprint.rescues:
            if isinstance(error, kind):
                self.log.info("%s answers for %s: %s", method, type(error).__name__, error)
                rescue: Callable[[Exception], object] = getattr(self.driver, method)
                return rescue
        return None

    def call_plain(
        self, function: Function, args: list[object], named: dict[str, object], call: Call
    ) -> object:
        """Run a function that is a plain `def`, now. Returns or raises what it does; something
        to await is for `finish_plain`."""
        token = present.set(call)
        try:
            return getattr(self.driver, function.method)(*args, **named)
        except (SystemExit, KeyboardInterrupt) as error:
            raise DriverError(TRIED_TO_EXIT) from error
        except Exception as error:
            rescue = self._rescue_from(error)
            if rescue is not None:
                return rescue(error)
            self._report(function.name, error)
            raise
        finally:
            present.reset(token)

    def finish_plain(
        self,
        waiting: Awaitable[object],
        name: str,
        call: Call,
        on_result: Callable[[object], None],
    ) -> asyncio.Task[object]:
        """Wait for what a plain `def` returned, as if it were an `async def`."""

        async def finish() -> None:
            on_result(await self._outcome(waiting))

        token = present.set(call)
        try:
            return self.spawn(finish(), name)
        finally:
            present.reset(token)

    def spawn(
        self, job: Awaitable[object], name: str, *, report: bool = True
    ) -> asyncio.Task[object]:
        """Start a task that ends with the module; with `report` its failure is logged by
        `name`."""
        coroutine = job if isinstance(job, Coroutine) else _awaited(job)
        task: asyncio.Task[object] = self._loop.create_task(coroutine, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._ended if report else self._tasks.discard)
        return task

    def spawn_apart(
        self, job: Awaitable[object], name: str, *, report: bool = True, user: str = ""
    ) -> asyncio.Task[object]:
        """Start a task that is no part of the call which may have caused it: the time of that
        call is not its own."""
        token = present.set(Call(user) if user else NO_CALL)
        try:
            return self.spawn(job, name, report=report)
        finally:
            present.reset(token)

    def background(self, job: Awaitable[object], name: str) -> None:
        """Start what the driver wants done without a caller, on behalf of the same user: its
        failure is a fault, until it goes well."""
        task = self.spawn_apart(self._guarded(job, name), name, user=self.user or "")
        if isinstance(job, Coroutine):  # which never began if it was cancelled at once
            task.add_done_callback(lambda _: job.close())

    async def _guarded(self, job: Awaitable[object], name: str) -> None:
        try:
            await job
        except BaseException as error:
            self.health.failed(name, error)
        else:
            self.health.well(name)

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
        return System(self._asker(), self.config.system)

    async def system_by_id(self, id: str) -> System:
        """Any system. Raises RemoteError for one there is not."""
        view = await self._upstream.system(id)
        return System(self._asker(), view.record)

    def _asker(self) -> Asker:
        return Asker(self._upstream, self.spawn, self.log, self.subscriptions)

    @property
    def user(self) -> str | None:
        """Who made the present call."""
        return present.get().user or None

    def resume_timers(self, *, others: bool = True) -> None:
        """Let run what `@every` declares, as far as the device allows; with `others` also what
        needs no device."""
        if not self.schedule.closed:
            self._declared.resume(online=self.reach.usable, others=others)

    def pause_timers(self) -> None:
        """Stop what needs the device."""
        self._declared.pause()

    def publish(self, channel: str, text: str) -> None:
        """Send text on a channel."""
        self._upstream.publish(self.config.id, channel, text)

    def monitor(
        self, channel: str, handler: Callable[[str], Awaitable[object] | None]
    ) -> Callable[[], None]:
        """Follow a channel."""
        return self.subscriptions.channel(channel, handler)

    async def save_setting(self, name: str, value: object) -> None:
        """Store a setting."""
        await self._upstream.save_setting(self.config.id, name, encode(value))

    # -- inside ---------------------------------------------------------------------------

    def tell(self, cause: str, message: str | None, backtrace: list[str] | None = None) -> None:
        """Show an administrator what is wrong, or (None) that this is over."""
        if message is None:
            self._upstream.well(self.config.id, cause)
        else:
            shown = self.log.mask.text(message)
            self._upstream.fault(self.config.id, shown, backtrace, cause=cause)

    def _hide_secrets(self) -> None:
        """Keep out of logs and errors what is secret in the settings, those of the transport
        included."""
        secrets = [*secrets_of(self.settings)]
        for option in options_of(self.blueprint.cls.transport):
            if option.settings is not None:
                with contextlib.suppress(InvalidSettings):  # told by the transport
                    secrets += secrets_of(reader_of(option.settings).read(self.config.settings))
        self.log.mask = Mask(secrets)

    def _flooded(self, began: bool) -> None:
        self.tell("log", f"logs too much: more than {RATE:g} lines a second" if began else None)

    def _setting(self, name: str) -> object:
        return getattr(self.settings, name)

    def _zone(self) -> tzinfo:
        """That of the system, else of the machine."""
        system = self.config.system
        try:
            return zone_of(system.timezone) if system and system.timezone else machine_zone()
        except ValueError as error:
            self.log.warning("%s", error)
            return machine_zone()

    def _publish_state(self, changes: Changes) -> None:
        self._upstream.state(self.config.id, changes)
        self._declared_subscriptions.published(changes)
        self.subscriptions.published(changes)

    def _follow(self) -> None:
        """Establish what `@on` declares, for the present system."""
        for problem in self._declared.follow(self.config.system):
            self.tell("system", problem)


async def _awaited(job: Awaitable[object]) -> object:
    return await job
