"""A core of its own: what is left after a restart, and builds that never end."""

from __future__ import annotations

import asyncio

import msgspec
import psutil
import pytest

from placeos.wire.frame import Command, Header

DRIVER = """
# /// script
# dependencies = ["acmeproto<2"]
# ///
from placeos.driver import Driver
import acmeproto

class Meter(Driver):
    module_name = "Plain"

    def library(self) -> str:
        return acmeproto.VERSION
"""


@pytest.fixture
def new_meter(building):
    async def make():
        building.write("meter.py", DRIVER)
        return await building.new_module(driver=await building.new_driver("meter.py"))

    return make


@pytest.fixture
async def meter(new_meter):
    return await new_meter()


async def test_a_restart_needs_neither_uv_nor_packages(
    wheels, building, meter, core, call, core_environment, tmp_path, until
):
    assert await call(meter, "library", timeout=60) == "1.0"
    core.stop()
    environment = core_environment()
    environment["PLACEOS_PACKAGES_FOLDER"] = str(tmp_path / "there is nothing")
    core._environment = environment
    core.log_file.write_text("")
    core.start()
    await until(core.serving, 60)
    assert await call(meter, "library", timeout=60) == "1.0"
    assert "job begins" not in core.log()


@pytest.fixture
def silent_core_environment(wheels, core_environment, silent_index):
    environment = core_environment()
    del environment["PLACEOS_PACKAGES_FOLDER"], environment["PLACEOS_PACKAGES_OFFLINE"]
    address = f"http://user:geheim@127.0.0.1:{silent_index.port}/simple"
    return environment | {"PLACEOS_PACKAGES_INDEX": address}


async def test_a_long_build_darkens_nothing_else_where_no_other_core_serves(
    silent_core_environment, building, new_meter, core, call, until, silent_index
):
    core.stop()
    plain = await building.new_module()
    await new_meter()
    core._environment = silent_core_environment
    core.start()
    await until(lambda: silent_index.asked, 60)
    assert await call(plain, "echo", "here", timeout=5) == "here"


async def test_a_build_is_watched_and_cancelled(
    silent_core_environment, building, new_meter, core, router, until, silent_index
):
    core.stop()
    meter = await new_meter()
    core._environment = silent_core_environment
    core.start()
    await until(lambda: silent_index.asked, 60)

    async def jobs() -> list[dict[str, object]]:
        _, body = await router.ask("core-1", Header(Command.JOBS), timeout=5)
        return msgspec.json.decode(body)

    (job,) = await jobs()
    assert (job["state"], job["subject"]) == ("running", "meter.py")
    (uv,) = [one for one in psutil.Process(core.pid).children() if "uv" in one.name()]
    header = Header(Command.CANCEL_JOB, function=str(job["id"]))
    _, body = await router.ask("core-1", header, timeout=5)
    assert body == b"true"

    async def is_over() -> bool:
        states = {one["id"]: one["state"] for one in await jobs()}
        return states[job["id"]] == "cancelled"

    await until(is_over)
    assert not uv.is_running()
    _, body = await router.ask("core-1", header, timeout=5)
    assert body == b"false"

    async def is_told() -> bool:
        for one in await jobs():  # what core prepared is built again for the modules
            if one["state"] == "running":
                await router.ask(
                    "core-1", Header(Command.CANCEL_JOB, function=str(one["id"])), timeout=5
                )
        record = await building.database.get(type(building.driver), meter.driver_id)
        return "cancelled" in (record.compilation_output or "")

    await until(is_told)
    asked = len(silent_index.asked)
    building.write("meter.py", DRIVER + "\n# edited\n")
    await until(lambda: len(silent_index.asked) > asked, 30)
    began = asyncio.get_running_loop().time()
    core.stop(20)
    assert asyncio.get_running_loop().time() - began < 15, "a build does not hold up the end"
    assert "geheim" not in core.log()
