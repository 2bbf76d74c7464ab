"""Runs one driver file as a module, with core and the device played."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec

from placeos.driver.environment import EnvironmentProblem
from placeos.driver.loader import LOGIC
from placeos.driver.testing.clock import FakeClock
from placeos.driver.testing.core import PlayedCore
from placeos.driver.testing.devices import ScriptedDevice, ScriptedUDP
from placeos.driver.testing.http import ScriptedHTTP
from placeos.driver.testing.module import TestedModule, raw
from placeos.driver.testing.packages import python_for
from placeos.driver.testing.parent import ForkParent
from placeos.driver.testing.script import Scripted
from placeos.driver.testing.system import SYSTEM, FakeSystem, Modules
from placeos.driver.testing.websocket import ScriptedWebSocket
from placeos.wire.frame import Command, Header
from placeos.wire.messages import DriverDefaults, ModuleMetadata, ModuleStart, SystemRecord

MODULE_ID = "mod-tested"
START_TIMEOUT = 10.0  # real seconds
CONNECTS_WITHIN = 60.0  # seconds of a fake clock

SHELL, DEVICE, SERVICE, WEBSOCKET = range(4)  # roles


@asynccontextmanager
async def drive(
    file: Path | str,
    *,
    settings: Mapping[str, object] | None = None,
    system: Modules | None = None,
    state: Mapping[str, object] | None = None,
    device: Scripted | None = None,
    role: int | None = None,
    port: int | None = None,
    uri: str | None = None,
    makebreak: bool | None = None,
    record: SystemRecord = SYSTEM,
    clock: FakeClock | None = None,
    connected: bool = True,
    debug: bool = True,
    python: str | None = None,
) -> AsyncIterator[TestedModule]:
    """Run `file` as a module. A logic module gets a `system` of fake modules by name.

    The device is one that fits the driver unless a `device` is given: a scripted one of
    another kind, one that is prepared to script what happens before, or one that is
    unplugged. With `port` or `uri` the device is another program there. `role` picks one of
    several transports. With `connected` the module is handed over once it is. `record` is
    what the driver knows of its system. `debug` has log and wire traffic captured. `python`
    runs the driver: if not given our own, or that of an environment with the packages the
    file asks for (PEP 723), which is built once and kept.

    Raises AssertionError if the driver file cannot be used.
    """
    parent = ForkParent.shared(python or await _python(Path(file)))
    core = PlayedCore(FakeSystem(system or {}, record))
    async with contextlib.AsyncExitStack() as stack:
        if device is not None and not device.port:  # else the test has decided already
            await device.listen()
        place = await clock.listen() if clock is not None else ""
        if clock is not None:
            stack.push_async_callback(clock.release)
        pid = await parent.fork(str(file), core, clock=place)
        stack.push_async_callback(core.close)
        defaults = await core.ready()
        start = ModuleStart(
            id=MODULE_ID,
            name=defaults.generic_name,
            role=defaults.role if role is None else role,
            settings=raw(settings or {}),
            state=raw(state or {}),
            system=record,
            makebreak=defaults.makebreak if makebreak is None else makebreak,
            debug=debug,
        )
        if device is None:
            device = _fitting(start.role, defaults)
            await device.listen()
        stack.push_async_callback(device.unplug)
        if start.role != LOGIC:
            _introduce(device, start, defaults, role)
            start.settings = raw(device.settings() | dict(settings or {}))
            start.port, start.uri = port or start.port, uri or start.uri
        if clock is not None and isinstance(device, ScriptedUDP):
            clock.watch(device)
        payload = msgspec.json.encode(start)
        answer = await core.ask(Header(Command.START), payload, START_TIMEOUT, unlimited=True)
        metadata = msgspec.convert(answer, ModuleMetadata)
        module = TestedModule(core, device, start, metadata, clock)
        try:
            if connected:
                await _connected(module, played=port is None and uri is None)
            yield module
        except Exception as error:  # of the test
            error.add_note(module.story())
            raise
        if clock is not None:
            await clock.release()
        core.terminate()
        await parent.exited(pid)


async def _python(file: Path) -> str:
    try:
        return await python_for(file)
    except EnvironmentProblem as error:
        raise AssertionError(str(error)) from error


def _fitting(role: int, defaults: DriverDefaults) -> Scripted:
    """A device for a module of that role."""
    if role == SHELL:
        from placeos.driver.testing.ssh import ScriptedSSH

        return ScriptedSSH()
    if role == SERVICE:
        return ScriptedHTTP()
    if role == WEBSOCKET:
        return ScriptedWebSocket()
    if role == DEVICE and defaults.udp_port and not defaults.tcp_port:
        return ScriptedUDP()
    return ScriptedDevice()


def _introduce(
    device: Scripted, start: ModuleStart, defaults: DriverDefaults, role: int | None
) -> None:
    wanted = defaults if role is None else msgspec.structs.replace(defaults, roles=[role])
    device.introduce(start, wanted)


async def _connected(module: TestedModule, *, played: bool) -> None:
    if module.has_clock:  # connecting may take pauses
        state = module.core.state
        await module.clock.advance(
            CONNECTS_WITHIN, until=lambda: state.get("connected") is not None
        )
    await module.status("connected", True)
    device = module.device
    if played and module.role != LOGIC and isinstance(device, ScriptedDevice | ScriptedWebSocket):
        # Else the device might be unplugged with the connection half accepted, and that one
        # would stay open.
        await device.expect_connection(1)
