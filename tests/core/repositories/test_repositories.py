"""Drivers out of git: what runs, what is told of it, and what goes on when git does not."""

from __future__ import annotations

import itertools
import shutil
from pathlib import Path

import pytest

from placeos.model.driver import RECOMPILE, Driver, UpdateInfo
from placeos.model.repository import Repository
from placeos.wire.errors import CallError

_numbers = itertools.count(1)


@pytest.fixture
def router(platform):
    return platform.router


@pytest.fixture
def redis(platform):
    return platform.redis


@pytest.fixture
async def building(platform, Building, upstream):  # noqa: N803 - a class
    """A building whose repository is `upstream`."""
    made = Building(platform.database, upstream.work)
    made.repository = await made.insert(
        Repository(name="Git", folder_name=f"shared-{next(_numbers)}", uri=upstream.uri)
    )
    yield made
    await made.destroy(made.repository)


async def test_head_follows_the_branch(building, new_driver, upstream, runs, reload, driver_code):
    module = await building.new_module(driver=await new_driver())
    await runs(module, 1)
    commit = upstream.commit({"plain.py": driver_code.format(version=2)})
    await runs(module, 2)  # without anybody asking for it
    await reload(building.repository, lambda one: one.deployed_commit_hash == commit)


async def test_a_pull_gives_the_newest(building, new_driver, upstream, ask, runs, driver_code):
    module = await building.new_module(driver=await new_driver())
    await runs(module, 1)
    for version in range(2, 5):
        commit = upstream.commit({"plain.py": driver_code.format(version=version)})
        assert await ask("pull") == {"commit_hash": commit}
    await runs(module, 4)


async def test_a_pinned_driver_stays_and_is_told_of_updates(
    building, new_driver, upstream, ask, call, runs, reload, driver_code
):
    first = upstream.git("rev-parse", "HEAD")
    code = (
        driver_code + "\n    def pid(self) -> int:\n        import os\n        return os.getpid()\n"
    )
    pinned_at = upstream.commit({"plain.py": code.format(version=2)})
    driver = await new_driver(commit=pinned_at[:9])
    module = await building.new_module(driver=driver)
    await runs(module, 2)
    pid = await call(module, "pid")
    newer = upstream.commit({"plain.py": code.format(version=3)}, "Three is better")
    upstream.commit({"other.txt": "x"}, "another file")
    told = await reload(driver, lambda one: one.update_available)
    assert told.update_info == UpdateInfo(
        newer, "Three is better", "Ann Author", told.update_info.date
    )
    assert await call(module, "version") == 2
    assert await call(module, "pid") == pid  # it was told without touching the module
    await building.change(Driver, driver.id, commit=first)
    await runs(module, 1)
    await reload(driver, lambda one: one.update_available)
    await building.change(Driver, driver.id, commit=newer)
    await runs(module, 3)
    await reload(driver, lambda one: not one.update_available and one.update_info is None)


async def test_what_was_forced_away_stays_for_who_pinned_it(
    building, new_driver, upstream, ask, runs, driver_code
):
    commit = upstream.commit({"plain.py": driver_code.format(version=2)})
    pinned = await building.new_module(driver=await new_driver(commit=commit))
    following = await building.new_module(driver=await new_driver())
    await runs(pinned, 2)
    upstream.git("reset", "--hard", "--quiet", "HEAD~1")
    other = upstream.commit({"plain.py": driver_code.format(version=7)})
    assert await ask("pull") == {"commit_hash": other}
    await runs(following, 7)
    later = await building.new_module(driver=await new_driver(commit=commit[:12]))
    await runs(later, 2)
    await runs(pinned, 2)


async def test_a_name_cannot_take_the_place_of_a_commit(
    building, new_driver, upstream, runs, driver_code
):
    first = upstream.git("rev-parse", "HEAD")
    commit = upstream.commit({"plain.py": driver_code.format(version=2)})
    upstream.git("push", "--quiet", "origin", f"{commit}:refs/heads/{first[:8]}")
    upstream.git("push", "--quiet", "origin", f"{commit}:refs/tags/{first[:8]}")
    module = await building.new_module(driver=await new_driver(commit=first[:8]))
    await runs(module, 1)


async def test_a_branch_that_is_gone(building, new_driver, upstream, ask, runs, reload, call):
    upstream.git("push", "--quiet", "origin", "HEAD:refs/heads/side")
    await building.change(Repository, building.repository.id, branch="side")
    module = await building.new_module(driver=await new_driver())
    await runs(module, 1)
    upstream.git("push", "--quiet", "origin", ":refs/heads/side")
    with pytest.raises(CallError, match="no branch 'side'; there is master"):
        await ask("pull")
    told = await reload(building.repository, lambda one: one.has_runtime_error)
    assert "no branch 'side'" in told.error_message
    assert await call(module, "version") == 1
    await building.change(Repository, building.repository.id, branch="HEAD")
    await reload(building.repository, lambda one: not one.has_runtime_error)


async def test_another_branch_counts_at_once(building, upstream, ask, driver_code):
    assert await ask("drivers") == ["plain.py"]
    upstream.git("checkout", "--quiet", "-b", "side")
    upstream.commit({"side.py": driver_code.format(version=1)})
    await ask("pull")  # the last fetch is a moment ago
    upstream.git("checkout", "--quiet", "-b", "later")
    upstream.commit({"later.py": driver_code.format(version=1)})
    for branch in ("side", "later", "master"):
        await building.change(
            Repository, building.repository.id, branch=branch, deployed_commit_hash=None
        )
        listed = {"master": [], "side": ["side.py"], "later": ["later.py", "side.py"]}[branch]
        assert await ask("drivers") == sorted([*listed, "plain.py"])


async def test_a_repository_that_vanishes(building, new_driver, upstream, ask, runs, reload, call):
    module = await building.new_module(driver=await new_driver())
    await runs(module, 1)
    hidden = upstream.bare.rename(upstream.bare.with_name("hidden"))
    with pytest.raises(CallError, match="there is no"):
        await ask("pull")
    told = await reload(building.repository, lambda one: one.has_runtime_error)
    assert told.deployed_commit_hash == upstream.git("rev-parse", "HEAD")
    assert await call(module, "version") == 1
    again = await building.new_module(driver=await new_driver())
    await runs(again, 1)  # out of the copy
    hidden.rename(upstream.bare)
    await ask("pull")
    await reload(building.repository, lambda one: not one.has_runtime_error)


async def test_a_release_is_deployed_by_its_tag(building, upstream, ask, driver_code):
    first = upstream.git("rev-parse", "HEAD")
    second = upstream.commit({"plain.py": driver_code.format(version=2)})
    for tag, commit in (("v1.9", first), ("v1.10", second), ("v3-beta", first)):
        upstream.git("push", "--quiet", "origin", f"{commit}:refs/tags/{tag}")
    upstream.commit({"plain.py": driver_code.format(version=3)})
    await building.change(Repository, building.repository.id, release=True)
    assert await ask("pull") == {"commit_hash": second}
    assert await ask("releases") == ["v1.10", "v1.9"]
    await building.change(Repository, building.repository.id, release=False, commit_hash="v1.9")
    assert await ask("pull") == {"commit_hash": first}


@pytest.mark.parametrize(
    ("field", "text"),
    [
        ("branch", "-x"),
        ("branch", "--upload-pack=touch MARK"),
        ("branch", "HEAD@{1}"),
        ("commit_hash", "--output=MARK"),
        ("commit_hash", ":/first"),
        ("uri", "--upload-pack=touch MARK"),
        ("uri", "ext::sh -c 'touch MARK'"),
        ("root_path", "../.."),
    ],
)
async def test_what_git_would_interpret(building, ask, tmp_path, field, text):
    mark = tmp_path / "mark"
    await building.change(
        Repository, building.repository.id, **{field: text.replace("MARK", str(mark))}
    )
    codes = []
    for query in ({"what": "pull"}, {"what": "readme", "file": "plain.py"}):
        try:
            await ask(**query)
        except CallError as error:
            codes.append(error.code)
    assert set(codes) <= {400, 404}
    assert codes
    assert not mark.exists()


@pytest.mark.parametrize(
    ("file", "said"),
    [
        ("../secret.py", "outside"),
        ("/etc/passwd", "outside"),
        ("link.py", "is a link"),
        ("linked/plain.py", "no such file"),
        ("docs", "is a folder"),
        ("large.py", "larger than"),
        ("lfs.py", "is in Git LFS"),
        ("missing.py", "no such file"),
        ("--output=x.py", "no such file"),
        ("*.py", "no such file"),
    ],
)
async def test_files_that_are_no_driver(
    building, new_driver, upstream, ask, reload, tmp_path, file, said
):
    (tmp_path / "secret.py").write_text("secret")
    (upstream.work / "link.py").symlink_to(tmp_path / "secret.py")
    (upstream.work / "linked").symlink_to(tmp_path)
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"
    upstream.commit({"large.py": b"#" * (5 * 1024 * 1024 + 1), "lfs.py": pointer})
    await ask("pull")
    driver = await new_driver(file)
    told = await reload(driver, lambda one: one.compilation_output)
    assert said in told.compilation_output
    with pytest.raises(CallError, match=said):
        await ask("details", file=file)


async def test_a_pinned_commit_that_is_not_there(building, new_driver, reload):
    driver = await new_driver(commit="0123456789" * 4)
    told = await reload(driver, lambda one: one.compilation_output)
    assert "no commit" in told.compilation_output


async def test_a_damaged_copy_is_fetched_anew(
    building, new_driver, upstream, ask, runs, platform, driver_code, reload
):
    module = await building.new_module(driver=await new_driver())
    await runs(module, 1)
    mirror = copy_of(platform, building.repository)
    shutil.rmtree(mirror / "objects")
    (mirror / "objects").mkdir()
    other = await building.new_module(driver=await new_driver("plain.py", "HEAD"))
    await runs(other, 1)
    commit = upstream.commit({"plain.py": driver_code.format(version=2)})
    assert await ask("pull") == {"commit_hash": commit}
    await runs(module, 2)
    await reload(building.repository, lambda one: not one.has_runtime_error)


def copy_of(platform, repository) -> Path:
    data = Path(platform.core.log_file).parent / "data"
    return data / "core" / "core-1" / "git" / "mirrors" / repository.id


async def test_the_copy_goes_with_the_record(building, ask, platform, until):
    await ask("pull")
    mirror = copy_of(platform, building.repository)
    assert mirror.exists()
    await building.destroy(building.repository)
    await until(lambda: not mirror.exists())


async def test_recompile_loads_again(
    building, new_driver, upstream, call, runs, until, reload, driver_code
):
    code = driver_code.format(version=2)
    code += "\n    def pid(self) -> int:\n        return __import__('os').getpid()\n"
    upstream.commit({"plain.py": code})
    driver = await new_driver()
    module = await building.new_module(driver=driver)
    await runs(module, 2)
    pid = await call(module, "pid")
    await building.change(Driver, driver.id, commit=f"{RECOMPILE}HEAD")
    await reload(driver, lambda one: one.commit == "HEAD")

    async def is_another() -> bool:
        return await call(module, "pid") != pid

    await until(is_another)
    await building.change(Driver, driver.id, commit=f"{RECOMPILE}HEAD", file_name="nowhere.py")
    told = await reload(driver, lambda one: one.commit == "HEAD")
    assert "nowhere.py" in told.compilation_output


async def test_what_can_be_asked(building, upstream, ask, driver_code):
    first = upstream.git("rev-parse", "HEAD")
    second = upstream.commit(
        {
            "sub/other.py": driver_code.format(version=2),
            "sub/other_readme.md": "# How to",
            "helper.py": "from placeos.driver import Settings\n",
            "test_plain.py": driver_code.format(version=1),
            ".hidden/x.py": driver_code.format(version=1),
        },
        "second",
    )
    upstream.git("push", "--quiet", "origin", f"{first}:refs/heads/side", f"{first}:refs/tags/v1.0")
    assert await ask("pull") == {"commit_hash": second}
    assert await ask("drivers") == ["plain.py", "sub/other.py"]
    assert await ask("folders") == ["docs", "sub"]
    assert await ask("folders", dots=True) == [".hidden", "docs", "sub"]
    assert await ask("branches") == ["master", "side"]
    assert await ask("tags") == await ask("releases") == ["v1.0"]
    assert await ask("default_branch") == "master"
    assert [one["commit"] for one in await ask("commits")] == [second, first]
    assert [one["hash"] for one in await ask("commits", file="plain.py")] == [first]
    assert [one["subject"] for one in await ask("commits", branch="side")] == ["first"]
    assert len(await ask("commits", limit=1)) == 1
    assert await ask("readme", file="sub/other.py") == "# How to"
    assert await ask("readme", file="plain.py") == "A driver in git."
    remote = {"uri": upstream.uri}
    assert await ask("branches", **remote) == ["master", "side"]
    assert await ask("tags", **remote) == ["v1.0"]
    assert await ask("default_branch", **remote) == "master"
    assert [one["commit"] for one in await ask("commits", **remote)] == [second, first]
    assert [one["commit"] for one in await ask("commits", limit=1, **remote)] == [second]
    assert len(await ask("commits", branch="side", **remote)) == 1
    await building.change(Repository, building.repository.id, root_path="sub")
    await ask("pull")
    assert await ask("drivers") == ["other.py"]


async def test_details_tell_what_a_driver_declares(upstream, ask):
    first = upstream.git("rev-parse", "HEAD")
    upstream.commit(
        {
            "plain.py": '"""Another."""\nfrom placeos.driver import TCP, Driver, Settings\n'
            "class S(Settings):\n    speed: int = 9\n"
            "class Other(Driver[S]):\n    module_name = 'Other'\n    transport = TCP(port=99)\n"
            "    def go(self, far: int) -> None: ...\n",
            "bad.py": "import nothing_of_that_name\n",
            "worse.py": "import os\nos._exit(5)\n",
        }
    )
    await ask("pull")
    found = await ask("details", file="plain.py")
    assert found["generic_name"] == "Other"
    assert found["tcp_port"] == 99
    assert found["description"] == "Another."
    assert "speed" in found["default_settings"]
    assert found["json_schema"]["properties"]["speed"]["type"] == "integer"
    assert found["interface"]["go"]["far"]["type"] == "integer"
    assert (await ask("details", file="plain.py", commit=first))["generic_name"] == "Plain"
    for file, said in (("bad.py", "bad.py:1: ModuleNotFoundError"), ("worse.py", "status 5")):
        with pytest.raises(CallError) as caught:
            await ask("details", file=file)
        assert said in caught.value.message
        assert caught.value.code == 422
