"""One round of each main fault, judged by the devices' own logs. All of them: `make chaos`."""

from __future__ import annotations

import pytest
from campaign import FAULTS
from rig import Rig
from rounds import observe

IN_ONE_GO = ("join-beside-frozen", "kill", "drain", "restart", "freeze")


async def round_of(rig: Rig, fault: str) -> None:
    """All phases of a fault; each must keep its promise."""
    await rig.balanced()
    for phase in FAULTS[fault](0):
        result = await observe(rig, phase)
        assert result.verdict.ok, f"{phase.name}: {result.verdict.report()}"


@pytest.mark.parametrize("fault", IN_ONE_GO)
async def test_a_round(rig: Rig, fault: str) -> None:
    await round_of(rig, fault)


@pytest.mark.long
@pytest.mark.timeout(300)
@pytest.mark.parametrize("fault", [name for name in FAULTS if name not in IN_ONE_GO])
async def test_a_longer_round(rig: Rig, fault: str) -> None:
    await round_of(rig, fault)
