"""Records and copies that cannot be used: their repository says why, core and the others go on."""

from __future__ import annotations

import itertools
import shutil
from pathlib import Path

import pytest

from placeos.model.repository import Repository
from placeos.wire.errors import CallError

_numbers = itertools.count(1)


@pytest.fixture
def router(platform):
    return platform.router


@pytest.fixture
async def building(platform, Building, upstream):  # noqa: N803 - a class
    made = Building(platform.database, upstream.work)
    made.repository = await made.insert(
        Repository(name="Git", folder_name=f"unusable-{next(_numbers)}", uri=upstream.uri)
    )
    yield made
    await made.destroy(made.repository)


LONG = "a" * 300


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"uri": f"file:///{LONG}"}, "name too long"),
        ({"uri": f"file:///srv/{LONG}.git"}, "there is no git repository"),
        ({"uri": "file:///srv/a%00b"}, "control characters"),
        ({"uri": "file:///srv/a%00b.git"}, "control characters"),
        ({"uri": "file:///", "root_path": LONG}, "name too long"),
    ],
    ids=lambda one: str(one)[:40],
)
async def test_no_address_brings_core_down(building, platform, ask, reload, fields, said):
    await building.change(Repository, building.repository.id, **fields)
    with pytest.raises(CallError, match=said):
        await ask("pull")
    told = await reload(building.repository, lambda one: one.has_runtime_error)
    assert said in told.error_message
    assert platform.core.process.poll() is None


async def test_a_disk_that_takes_nothing_is_told_and_tried_again(
    building, platform, ask, upstream, driver_code
):
    await ask("pull")
    data = Path(platform.core.log_file).parent / "data"
    calls = data / "core" / "core-1" / "git" / "calls"
    shutil.rmtree(calls)
    calls.write_text("no folder")  # as good as a full disk: nothing can be made in it
    commit = upstream.commit({"plain.py": driver_code.format(version=2)})
    try:
        with pytest.raises(CallError, match="Not a directory"):
            await ask("pull")
    finally:
        calls.unlink()
        calls.mkdir()
    assert platform.core.process.poll() is None
    assert await ask("pull") == {"commit_hash": commit}


@pytest.mark.parametrize("what", ["HEAD", "origin", "packed-refs", "config"])
async def test_garbage_in_a_copy(building, platform, ask, what):
    expected = await ask("pull")
    data = Path(platform.core.log_file).parent / "data"
    mirror = data / "core" / "core-1" / "git" / "mirrors" / building.repository.id
    (mirror / what).write_bytes(b"\xff\xfe\0[[[")
    assert await ask("pull") == expected
    assert platform.core.process.poll() is None


@pytest.mark.parametrize(("object_", "kind"), [("HEAD:plain.py", "blob"), ("HEAD^{tree}", "tree")])
async def test_a_tag_of_no_commit(building, platform, ask, upstream, object_, kind):
    """It is no damage: the repository is not fetched again and again."""
    upstream.git("tag", "v1", object_)
    upstream.git("push", "--quiet", "origin", "--tags")
    await building.change(Repository, building.repository.id, commit_hash="v1")
    with pytest.raises(CallError, match=f"'v1' leads to a {kind} and not to a commit"):
        await ask("pull")
    assert "copy damaged" not in platform.core.log()


async def test_a_tag_of_a_tag(building, ask, upstream):
    upstream.git("tag", "-a", "-m", "x", "inner")
    upstream.git("tag", "-a", "-m", "x", "v1", "inner")
    upstream.git("push", "--quiet", "origin", "--tags")
    commit = upstream.git("rev-parse", "HEAD")
    await building.change(Repository, building.repository.id, commit_hash="v1")
    assert await ask("pull") == {"commit_hash": commit}


@pytest.mark.parametrize("file", [".", "./"])
async def test_a_driver_that_names_no_file(building, platform, ask, new_driver, reload, file):
    """Its own problem, not one of the repository and of all drivers in it."""
    await ask("pull")
    for what in ("details", "readme"):
        with pytest.raises(CallError, match="no file is named"):
            await ask(what, file=file)
    driver = await new_driver(file)
    told = await reload(driver, lambda one: one.compilation_output)
    assert "no file is named" in told.compilation_output
    assert await ask("drivers") == ["plain.py"]
