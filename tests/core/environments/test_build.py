"""Environments built by the real uv from a folder of wheels."""

from __future__ import annotations

import asyncio
import io
import json
import subprocess
import tarfile
from pathlib import Path

import psutil
import pytest

from placeos.core.jobs import JobCancelled, Jobs, State
from placeos.core.process.environments import Environments
from placeos.driver import environment_build
from placeos.driver.environment import EnvironmentProblem, parse
from placeos.driver.environment_build import Environment, Packages, Store

LOOK = """
import json, sys
from importlib import metadata
import acmeproto, placeos.driver, msgspec
print(json.dumps([acmeproto.VERSION, metadata.version("acmeproto"), sys.prefix]))
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "environments of a core"


@pytest.fixture
def store(wheels, folder) -> Store:
    return Store(folder, Packages(folder=str(wheels.folder), offline=True))


def wish(*dependencies: str, lock: str = ""):
    text = f"# /// script\n# dependencies = {json.dumps(dependencies)}\n# ///\n"
    found = parse("meter.py", text, lock)
    assert found is not None
    return found


async def build(store: Store, *dependencies: str, lines: list[str] | None = None) -> Environment:
    return await store.build(wish(*dependencies), (lines if lines is not None else []).append)


async def problem(store: Store, *dependencies: str) -> str:
    with pytest.raises(EnvironmentProblem) as caught:
        await build(store, *dependencies)
    return str(caught.value)


def run(environment: Environment, code: str) -> str:
    command = [environment.python, "-I", "-c", code]
    return subprocess.run(command, check=True, capture_output=True, text=True, env={}).stdout


async def test_its_packages_come_first_and_the_base_is_reached(store, folder):
    lines: list[str] = []
    environment = await build(store, "acmeproto<2", lines=lines)
    version, told, prefix = json.loads(run(environment, LOOK))
    assert (version, told) == ("1.0", "1.0")
    assert Path(prefix) == environment.folder == folder / environment.key
    assert any("acmeproto==1.0" in line for line in lines), lines
    assert list((folder / "building").iterdir()) == []
    other = await build(store, "acmeproto")
    assert json.loads(run(other, LOOK))[0] == "2.0"
    assert json.loads(run(environment, LOOK))[0] == "1.0"


async def test_the_same_lock_is_built_once(store):
    first = await build(store, "acmeproto<2")
    lines: list[str] = []
    second = await build(store, "acmeproto<2,>=1", "placeos", lines=lines)
    third = await build(store, "acmeproto<2", lines=lines)
    assert third == first
    assert not any("Installed" in line for line in lines[-2:])
    assert second.key != first.key, "the wish stands in the lock"


async def test_what_was_built_is_found_without_uv(store, folder, wheels, monkeypatch):
    built = await build(store, "acmeproto")

    def no_uv() -> str:
        raise EnvironmentProblem("there is no uv")

    monkeypatch.setattr(environment_build, "_find_uv", no_uv)
    again = Store(folder, Packages(index="http://nowhere.invalid"))
    assert again.find(wish("acmeproto")) == built
    assert again.find(wish("acmeproto<2")) is None
    assert await problem(again, "acmeproto<2") == "there is no uv"


async def test_a_lock_beside_the_file_is_kept_to(store, folder):
    environment = await build(store, "acmeproto<2")
    lock = """version = 1
requires-python = ">=3.11"
[manifest]
requirements = [{ name = "acmeproto" }]
[[package]]
name = "acmeproto"
version = "1.0"
source = { registry = "https://evil.example/simple" }
wheels = [{ url = "https://evil.example/acmeproto-1.0-py3-none-any.whl", hash = "sha256:HASH" }]
""".replace("HASH", "0" * 64)
    locked = await store.build(wish("acmeproto", lock=lock), print)
    assert json.loads(run(locked, LOOK))[0] == "1.0", "2.0 is the newest"
    assert locked != environment
    with pytest.raises(EnvironmentProblem, match=r"Failed to parse meter\.py\.lock"):
        await store.build(wish("acmeproto", lock="["), print)


async def test_failures_name_the_package_and_its_line(store, wheels):
    wheels.make("needsold", "1.0", needs="msgspec<0.1")
    source = io.BytesIO(b"Metadata-Version: 2.1\nName: fromsource\nVersion: 1.0\n")
    with tarfile.open(wheels.folder / "fromsource-1.0.tar.gz", "w:gz") as archive:
        entry = tarfile.TarInfo("fromsource-1.0/PKG-INFO")
        entry.size = len(source.getvalue())
        archive.addfile(entry, source)
    text = await problem(store, "acmeproto", "nosuchpackage")
    assert text.startswith("meter.py:2: 'nosuchpackage': No solution found")
    assert "\n" not in text
    text = await problem(store, "acmeproto==3")
    assert "there is no version of acmeproto==3" in text
    text = await problem(store, "needsold")
    assert text.startswith("meter.py:2: 'needsold': ")
    assert "msgspec<0.1" in text
    assert "The platform's SDK needs msgspec>=" in text
    text = await problem(store, "fromsource")
    assert text.startswith("meter.py:2: 'fromsource': ")
    assert "PLACEOS_PACKAGES_FROM_SOURCE" in text


async def test_no_code_of_a_package_runs_by_itself(store, wheels, tmp_path):
    trace = tmp_path / "trace"
    touch = f"open({str(trace)!r}, 'w')"
    wheels.make(
        "sneaky",
        "1.0",
        {
            "sneaky.py": touch,
            "sneaky.pth": f"import os; {touch}\nmore\n",
            "sitecustomize.py": touch,
        },
    )
    environment = await build(store, "sneaky")
    run(environment, "import placeos.driver.parent")
    assert not trace.exists()
    assert (environment.packages / "sneaky.pth").read_text() == "more\n"
    run(environment, "import sneaky")
    assert trace.exists()


async def test_no_package_takes_the_place_of_the_sdk(store, wheels):
    wheels.make("placeos", "99.0")
    wheels.make("wantssdk", "1.0", needs="placeos")
    environment = await build(store, "wantssdk")
    assert not list(environment.packages.glob("placeos*"))
    wheels.make("liar", "1.0", {"msgspec/__init__.py": "", "liar.py": ""})
    text = await problem(store, "liar")
    assert text.startswith("meter.py:2: 'liar': liar 1.0 contains 'msgspec', a module of msgspec")


async def test_a_build_that_takes_too_long(folder, silent_index, wheels, monkeypatch):
    monkeypatch.setattr(environment_build, "BUILD_TIMEOUT", 1.0)
    store = Store(folder, Packages(index=f"http://127.0.0.1:{silent_index.port}/simple"))
    assert "was not built within 1 s" in await problem(store, "acmeproto")
    assert list((folder / "building").iterdir()) == []


def children() -> list[psutil.Process]:
    return [one for one in psutil.Process().children(recursive=True) if "uv" in one.name()]


async def test_cancelling_ends_uv_and_leaves_nothing(folder, silent_index, wheels, until):
    address = f"http://user:geheim@127.0.0.1:{silent_index.port}/simple"
    environments, jobs = _environments(folder, Packages(index=address))
    path = _driver(folder.parent, "acmeproto")
    waiting = asyncio.create_task(_use(environments, path))
    await until(lambda: silent_index.asked)
    (uv,) = children()
    assert "geheim" not in " ".join(uv.cmdline()), "credentials are no argument"
    (job,) = jobs.listed()
    assert job.state is State.RUNNING
    assert "Resolving acmeproto" in job.lines
    assert jobs.cancel(job.id)
    with pytest.raises(JobCancelled):
        await waiting
    assert not uv.is_running()
    assert list((folder / "building").iterdir()) == []
    assert "geheim" not in "".join(job.lines)
    assert job.state is State.CANCELLED


async def test_one_build_for_all_who_wait_until_the_last_gives_up(
    folder, silent_index, wheels, until
):
    address = f"http://127.0.0.1:{silent_index.port}/simple"
    environments, jobs = _environments(folder, Packages(index=address))
    path = _driver(folder.parent, "acmeproto")
    first, second = (asyncio.create_task(_use(environments, path)) for _ in range(2))
    await until(lambda: silent_index.asked)
    assert len(jobs.listed()) == 1
    first.cancel()
    await asyncio.gather(first, return_exceptions=True)
    (job,) = jobs.listed()
    assert job.state is State.RUNNING
    assert children()
    second.cancel()
    await asyncio.gather(second, return_exceptions=True)
    assert job.state is State.CANCELLED
    assert not children()


async def test_one_build_serves_two(folder, wheels):
    environments, jobs = _environments(folder, _packages(wheels))
    path = _driver(folder.parent, "acmeproto<2")
    found = await asyncio.gather(*(_use(environments, path) for _ in range(3)))
    assert len(jobs.listed()) == 1
    assert found[0] == found[1] == found[2]
    assert await _use(environments, path) == found[0]
    assert len(jobs.listed()) == 1, "it was found again"


async def test_a_file_that_asks_for_nothing_has_no_environment(folder, wheels):
    environments, jobs = _environments(folder, _packages(wheels))
    path = folder.parent / "plain.py"
    path.write_text("import os\n")
    assert await _use(environments, path) is None
    assert jobs.listed() == []
    assert not folder.exists()


async def test_old_environments_are_removed_but_not_those_in_use(folder, wheels, monkeypatch):
    monkeypatch.setattr("placeos.core.process.environments.KEPT", 1)
    environments, _ = _environments(folder, _packages(wheels))
    for number in range(4):
        wheels.make(f"many{number}", "1.0")
    async with environments.of(_driver(folder.parent, "many0"), "a") as used:
        assert used is not None
        for number in (1, 2, 3):
            await _use(environments, _driver(folder.parent, f"many{number}"))
        kept = {path.parent.parent.name for path in folder.glob("*/bin/python")}
        assert used.key in kept
        assert len(kept) == 3, "in use, just built, and one more"
        assert len(list((folder / "wishes").iterdir())) == 3
    again = await _use(environments, _driver(folder.parent, "many1"))
    assert again is not None, "what was removed is built again"


async def test_what_an_interrupted_build_left_is_removed(folder, wheels):
    environments, _ = _environments(folder, _packages(wheels))
    (folder / "building" / "abc").mkdir(parents=True)
    environments.clear()
    assert not (folder / "building").exists()


def _packages(wheels) -> Packages:
    return Packages(folder=str(wheels.folder), offline=True)


def _environments(folder: Path, packages: Packages) -> tuple[Environments, Jobs]:
    jobs = Jobs()
    return Environments(folder, packages, jobs), jobs


def _driver(folder: Path, dependency: str) -> Path:
    path = folder / f"{dependency.strip('<2')}.py"
    path.write_text(f"# /// script\n# dependencies = ['{dependency}']\n# ///\n")
    return path


async def _use(environments: Environments, path: Path) -> Environment | None:
    async with environments.of(path, path.name) as environment:
        return environment
