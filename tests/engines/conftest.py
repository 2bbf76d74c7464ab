"""Engines as they stand in production: several members, replicas, standbys."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import etcd_program
import pytest
from authority import Authority
from etcd_cluster import EtcdCluster
from etcd_program import EtcdProgram


@pytest.fixture(scope="session")
def found_etcd(tmp_path_factory: pytest.TempPathFactory) -> EtcdProgram:
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if base.name.startswith("popen-") else base  # one for all processes
    return etcd_program.find(shared / "etcd-program")


@pytest.fixture
def etcd_for_several(found_etcd: EtcdProgram, request: pytest.FixtureRequest) -> EtcdProgram:
    """The etcd in use; the summary of the run names it."""
    request.node.user_properties.append(("engine", str(found_etcd)))
    return found_etcd


@pytest.fixture
def etcd_to_kill(etcd_for_several: EtcdProgram) -> EtcdProgram:
    """One that keeps its data when it is killed."""
    if not etcd_for_several.may_be_killed:
        pytest.skip(f"{etcd_for_several} may lose data when killed, and apt gives no other")
    return etcd_for_several


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


MakeEtcd = Callable[..., Awaitable[EtcdCluster]]


@pytest.fixture
async def make_etcd(tmp_path: Path) -> AsyncIterator[MakeEtcd]:
    """Makes and starts etcd clusters; ends them."""
    made: list[EtcdCluster] = []

    async def make(program: EtcdProgram, **more) -> EtcdCluster:
        folder = tmp_path / f"etcd-cluster-{len(made)}"
        folder.mkdir()
        made.append(EtcdCluster(folder, program, **more))
        await made[-1].start()
        return made[-1]

    yield make
    for cluster in made:
        await cluster.stop()


@pytest.fixture
async def three_etcds(make_etcd: MakeEtcd, etcd_to_kill: EtcdProgram) -> EtcdCluster:
    return await make_etcd(etcd_to_kill)
