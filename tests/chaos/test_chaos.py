"""The main faults, each once, judged by the devices' own logs. All of them: `make chaos`."""

from __future__ import annotations

import faults
import pytest
from campaign import FAULTS
from rig import Rig
from rounds import Phase, observe

SHORT_FREEZE = 7.0  # seconds: the lease, and time for somebody else


async def kept(rig: Rig, *phases: Phase) -> None:
    """Each of these phases must keep its promise."""
    for phase in phases:
        result = await observe(rig, phase)
        assert result.verdict.ok, f"{phase.name}: {result.verdict.report()}"


@pytest.mark.long
async def test_a_core_joins_beside_a_frozen_one_and_leaves(rig: Rig) -> None:
    await kept(rig, *faults.join_beside_frozen("core-4", "core-1"))


async def test_a_core_is_killed(rig: Rig) -> None:
    fault, _ = faults.kill("core-2")
    await kept(rig, fault)


async def test_a_core_freezes(rig: Rig) -> None:
    fault, _ = faults.freeze("core-3", seconds=SHORT_FREEZE)
    await kept(rig, fault)


@pytest.mark.long
@pytest.mark.timeout(400)
@pytest.mark.parametrize("fault", FAULTS)
async def test_a_whole_round(rig: Rig, fault: str) -> None:
    rig.revive()
    await rig.balanced()
    await kept(rig, *FAULTS[fault](0))
