"""One round of the main cuts between cores in network namespaces. All of them: `make chaos`."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace

import apart
import netns
import pytest
from faults import CRASH
from rounds import Phase, observe

MODULES = 40
SHORT = 7.0  # seconds: the lease, and time for somebody else

pytestmark = pytest.mark.skipif(bool(netns.possible()), reason=netns.possible() or "")


@pytest.fixture(scope="module")
async def far(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[apart.Apart]:
    """Three cores, each with a network of its own."""
    async with apart.running(tmp_path_factory.mktemp("apart"), modules=MODULES) as far:
        yield far


async def kept(far: apart.Apart, *phases: Phase) -> None:
    """Each of these phases must keep its promise."""
    for phase in phases:
        result = await observe(far.rig, phase)
        assert result.verdict.ok, f"{phase.name}: {result.verdict.report()}"


async def test_a_core_is_cut_off_from_etcd(far: apart.Apart) -> None:
    # In silence, both ways: a blackhole route lets it hear the others, and nobody hear it.
    way = "drop" if netns.can("drop") else "blackhole"
    fault, _ = apart.cut(far, "core-1", ["etcd"], CRASH, way, SHORT)
    await kept(far, replace(fault, rest=0.0))


@pytest.mark.long
@pytest.mark.timeout(300)
@pytest.mark.parametrize("fault", apart.NETWORK_FAULTS)
async def test_a_whole_round(far: apart.Apart, fault: str) -> None:
    far.rig.revive()
    await far.rig.balanced()
    await kept(far, *apart.phases(far, fault, 0))
