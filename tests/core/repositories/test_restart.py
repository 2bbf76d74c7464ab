"""A core that starts when its repository is no longer what it was."""

from __future__ import annotations

import pytest

from placeos.model.repository import Repository


@pytest.mark.parametrize("gone", ["branch", "server"])
async def test_a_restart_runs_what_was_deployed(
    building, git_repository, new_driver, core, upstream, runs, reload, until, gone
):
    upstream.git("push", "--quiet", "origin", "HEAD:refs/heads/side")
    await building.change(Repository, git_repository.id, branch="side")
    module = await building.new_module(driver=await new_driver())
    await runs(module, 1)
    await reload(git_repository, lambda one: one.deployed_commit_hash)
    if gone == "branch":
        upstream.git("push", "--quiet", "origin", ":refs/heads/side")
        told = await reload(git_repository, lambda one: one.has_runtime_error)
        assert "no branch 'side'" in told.error_message
    else:
        upstream.bare.rename(upstream.bare.with_name("hidden"))
        await reload(git_repository, lambda one: one.has_runtime_error)
    core.stop()
    core.log_file.write_text("")
    core.start()
    await until(core.serving, 60)
    await runs(module, 1)
    told = await reload(git_repository, lambda one: one.has_runtime_error)
    assert told.deployed_commit_hash == upstream.git("rev-parse", "HEAD")
