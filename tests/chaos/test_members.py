"""Each fault of an etcd with three members, once: none of them may be noticed."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import etcd_program
import members
import pytest
from rounds import observe

MODULES = 40

pytestmark = [pytest.mark.long, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
async def at(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[members.Members]:
    """Three cores on three members."""
    folder: Path = tmp_path_factory.mktemp("members")
    if not etcd_program.find(folder / "etcd").may_be_killed:
        pytest.skip("no etcd that may be killed")
    async with members.running(folder / "platform", modules=MODULES) as at:
        yield at


@pytest.mark.parametrize("fault", members.MEMBER_FAULTS)
async def test_a_whole_round(at: members.Members, fault: str) -> None:
    await at.rig.balanced()
    for phase in members.phases(at, fault):
        result = await observe(at.rig, phase)
        assert result.verdict.ok, f"{phase.name}: {result.verdict.report()}"
