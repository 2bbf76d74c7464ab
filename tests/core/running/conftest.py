"""One core for all tests of a file: they harm nothing but their own modules."""

from __future__ import annotations

import pytest

from placeos.model.module import Module
from placeos.wire.errors import CallError


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
    folder = tmp_path / "repo with space"
    folder.mkdir()
    made = Building(platform.database, folder)
    await made.make()
    yield made
    await made.destroy(made.repository)


@pytest.fixture
def has_error(building):
    """`await has_error(module, flag)`: whether the record's `has_runtime_error` is that."""

    async def matches(module, flag: bool) -> bool:
        record = await building.database.get(Module, module.id)
        return record.has_runtime_error is flag

    return matches


@pytest.fixture
def other_pid(call):
    """`await other_pid(module, pid)`: whether the module runs in another process by now."""

    async def differs(module, pid: int) -> bool:
        try:
            return await call(module, "pid") != pid
        except CallError:  # it was under way when the process died
            return False

    return differs
