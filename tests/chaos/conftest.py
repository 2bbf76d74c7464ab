"""The quarter of the chaos suite that `make test` runs: one platform for all of its rounds."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from rig import Rig, running

MODULES = 60
HERE = Path(__file__).parent
HURT = ("test_chaos.py", "test_cut.py", "test_members.py")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What hurts a platform is marked, and comes last, as the proofs of a whole platform do."""

    def hurts(item: pytest.Item) -> bool:
        return item.path.parent == HERE and item.path.name in HURT

    for item in filter(hurts, items):
        item.add_marker(pytest.mark.chaos)
    items.sort(key=hurts)


@pytest.fixture(scope="session")
async def rig(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Rig]:
    """Three cores."""
    async with running(tmp_path_factory.mktemp("chaos"), modules=MODULES) as rig:
        yield rig
