"""An environment on the disk is not what it was: it is built again, and never used as it is."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from placeos.driver.environment import Block, parse
from placeos.driver.environment_build import Environment, Packages, Store


@pytest.fixture
def store(wheels, tmp_path: Path) -> Store:
    return Store(tmp_path / "environments", Packages(folder=str(wheels.folder), offline=True))


@pytest.fixture
def block() -> Block:
    text = f"# /// script\n# dependencies = {json.dumps(['acmeproto<2'])}\n# ///\n"
    found = parse("meter.py", text)
    assert found is not None
    return found


def _remove_module(environment: Environment) -> None:
    (environment.packages / "acmeproto.py").unlink()


def _cut_module(environment: Environment) -> None:
    path = environment.packages / "acmeproto.py"
    path.unlink()  # it may be a hard link into uv's cache
    path.write_text("")


def _remove_python(environment: Environment) -> None:
    environment.python.unlink()


def _remove_configuration(environment: Environment) -> None:
    (environment.folder / "pyvenv.cfg").unlink()


@pytest.mark.parametrize(
    "harm", [_remove_module, _cut_module, _remove_python, _remove_configuration]
)
async def test_a_damaged_environment_is_built_anew(store, block, harm):
    built = await store.build(block, lambda _: None)
    assert store.find(block) == built
    harm(built)
    assert store.find(block) is None
    lines: list[str] = []
    assert await store.build(block, lines.append) == built
    assert "The environment of this lock is damaged, it is built anew" in lines
    assert (built.packages / "acmeproto.py").read_text() == "VERSION = '1.0'\n"
    assert store.find(block) == built


async def test_byte_code_may_go(store, block):
    built = await store.build(block, lambda _: None)
    for path in built.packages.rglob("__pycache__"):
        shutil.rmtree(path)
    assert store.find(block) == built


@pytest.mark.parametrize("content", [b"", b"\0" * 24, b"\xff\xfe"])
async def test_a_wish_that_a_loss_of_power_left(store, block, tmp_path, content):
    built = await store.build(block, lambda _: None)
    wish = tmp_path / "environments" / "wishes" / block.digest
    wish.write_bytes(content)
    store.forget(frozenset({built.folder}), 0)  # it does not fail of it
    assert store.find(block) is None
    assert await store.build(block, lambda _: None) == built
    assert store.find(block) == built
