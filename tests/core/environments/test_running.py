"""Drivers with packages of their own, side by side in one core."""

from __future__ import annotations

from pathlib import Path

import msgspec
import psutil
import pytest

from placeos.model.driver import Driver
from placeos.model.module import Module
from placeos.wire.errors import CallError
from placeos.wire.frame import Command, Header

CODE = '''
# /// script
# requires-python = ">=3.11"
# dependencies = [
#   "{dependency}",
# ]
# ///
"""A driver with packages."""
import os, sys
from importlib import metadata
from placeos.driver import Driver

class Meter(Driver):
    module_name = "Plain"

    def library(self) -> list[str]:
        import acmeproto
        return [acmeproto.VERSION, metadata.version("acmeproto"), sys.prefix]

    def pid(self) -> int:
        return os.getpid()

    def parent(self) -> int:
        return os.getppid()

    def crash(self) -> None:
        os._exit(3)
'''


@pytest.fixture(scope="module")
async def platform(wheels, platform):
    """Started after the folder of wheels was made known."""
    return platform


@pytest.fixture
def core(platform):
    return platform.core


@pytest.fixture
def router(platform):
    return platform.router


@pytest.fixture
def redis(platform):
    return platform.redis


@pytest.fixture
async def building(platform, Building, tmp_path):  # noqa: N803 - a class
    folder = tmp_path / "repo"
    folder.mkdir()
    made = Building(platform.database, folder)
    await made.make()
    yield made
    await made.destroy(made.repository)


@pytest.fixture
def new_meter(building):
    """`await new_meter(file, dependency)`: a module of a driver that needs a package."""

    async def make(file: str, dependency: str) -> Module:
        building.write(file, CODE.format(dependency=dependency))
        return await building.new_module(driver=await building.new_driver(file))

    return make


@pytest.fixture
def output(building):
    """`await output(module)`: what the driver's record says of its last build."""

    async def read(module: Module) -> str | None:
        return (await building.database.get(Driver, module.driver_id)).compilation_output

    return read


@pytest.fixture
def jobs(router):
    """`await jobs()`: all jobs of the core."""

    async def ask() -> list[dict[str, object]]:
        _, body = await router.ask("core-1", Header(Command.JOBS), timeout=5)
        return msgspec.json.decode(body)

    return ask


async def test_conflicting_versions_side_by_side(building, core, call, new_meter, jobs):
    old = await new_meter("old.py", "acmeproto<2")
    new = await new_meter("new.py", "acmeproto>=2")
    plain = await building.new_module()
    version, told, prefix = await call(old, "library", timeout=60)
    assert (version, told) == ("1.0", "1.0")
    other_version, other_told, other_prefix = await call(new, "library", timeout=60)
    assert (other_version, other_told) == ("2.0", "2.0")
    assert prefix != other_prefix
    assert Path(prefix).parent.name == "environments"
    parents = {await call(one, "parent") for one in (old, new)}
    assert len(parents) == 2
    assert psutil.Process(await call(plain, "pid")).ppid() not in parents
    mine = [one for one in await jobs() if one["subject"] in ("old.py", "new.py")]
    assert [one["state"] for one in mine] == ["done", "done"]
    assert all("Installed 1 package" in "\n".join(one["lines"]) for one in mine)


async def test_drivers_of_one_environment_share_its_parent(core, call, new_meter):
    one = await new_meter("one.py", "acmeproto<2")
    two = await new_meter("two.py", "acmeproto<2")
    assert await call(one, "parent", timeout=60) == await call(two, "parent", timeout=60)
    assert await call(one, "pid") != await call(two, "pid")


async def test_a_failed_build_names_the_line_and_the_running_version_goes_on(
    building, core, call, new_meter, output, until
):
    module = await new_meter("meter.py", "acmeproto<2")
    pid = await call(module, "pid", timeout=60)
    building.write("meter.py", CODE.format(dependency="nosuchpackage"))
    text = await until(lambda: output(module))
    assert text.startswith("meter.py:5: 'nosuchpackage': ")
    assert "not found" in text
    assert await call(module, "pid") == pid
    building.write("meter.py", CODE.format(dependency="acmeproto<2").replace("# ]", "# x"))

    async def is_broken() -> bool:
        return "not TOML" in (await output(module) or "")

    await until(is_broken)
    assert (await output(module)).startswith("meter.py:")
    assert await call(module, "pid") == pid
    building.write("meter.py", CODE.format(dependency="acmeproto>=2"))

    async def is_new() -> bool:
        return (await call(module, "library"))[0] == "2.0"

    await until(is_new, 60)
    await until(lambda: _is_none(output, module))


async def test_a_conflict_with_the_sdk(core, new_meter, output, until, call):
    module = await new_meter("conflict.py", "msgspec<0.1")
    text = await until(lambda: output(module))
    assert text.startswith("conflict.py:5: 'msgspec<0.1': ")
    assert "The platform's SDK needs msgspec>=" in text
    with pytest.raises(CallError, match=r"conflict\.py:5: "):
        await call(module, "pid")


async def test_a_failed_build_is_tried_again_when_asked(
    core, call, new_meter, output, until, router, wheels
):
    module = await new_meter("late.py", "comeslater")
    await until(lambda: output(module))
    wheels.make("comeslater", "1.0")
    wheels.make("acmeproto", "1.0")
    _, body = await router.request(Header(Command.LOAD, module=module.id), timeout=5)
    assert body == b"true"

    async def runs() -> bool:
        try:
            return bool(await call(module, "pid"))
        except CallError:
            return False

    await until(runs, 60)
    await until(lambda: _is_none(output, module))


async def test_a_crash_restarts_it_in_its_environment(core, call, new_meter):
    module = await new_meter("crash.py", "acmeproto<2")
    pid = await call(module, "pid", timeout=60)
    with pytest.raises(CallError, match="status 3"):
        await call(module, "crash")
    assert await call(module, "pid") != pid
    assert (await call(module, "library"))[0] == "1.0"


async def test_another_parent_follows_one_that_died(core, call, new_meter, until):
    module = await new_meter("orphan.py", "acmeproto>=2")
    plain_parent = await call(module, "parent", timeout=60)
    psutil.Process(plain_parent).kill()

    async def lives_again() -> bool:
        try:
            return await call(module, "parent") != plain_parent
        except CallError:
            return False

    await until(lives_again, 60)
    assert (await call(module, "library"))[0] == "2.0"


async def _is_none(output, module) -> bool:
    return await output(module) is None
