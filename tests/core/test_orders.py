"""What an operator orders, carried out by real cores."""

from __future__ import annotations

import pytest

from placeos.cluster.orders import Order, Orders, Refused, Unknown, drained
from placeos.cluster.view import View

ME = Order("user-1", 1)


@pytest.fixture
def orders(etcd) -> Orders:
    return Orders(etcd)


@pytest.fixture
def start(core_type, core_environment, redis, etcd, tmp_path):
    """`start(name)`: a core with a data folder of its own; again: in the same folder."""
    cores = {}

    def begin(name: str):
        if name not in cores:
            environment = core_environment(name, tmp_path / name)
            cores[name] = core_type(environment, tmp_path / f"{name}.log")
        cores[name].start()
        return cores[name]

    yield begin
    for core in cores.values():
        core.kill()


@pytest.fixture
def settled(orders, until):
    """`await settled(*eligible, others=())`: the view once it is completed with just these taking
    modules, and these others as members."""

    async def wait(*eligible: str, others: tuple[str, ...] = ()) -> View:
        async def found() -> View | None:
            view = (await orders.read()).seen.view
            if view is None or not view.completed or set(view.eligible) != set(eligible):
                return None
            members = {one.identity for one in view.members}
            return view if members == {*eligible, *others} else None

        return await until(found, 40)

    return wait


async def test_a_drained_core_hands_over_and_stays_drained(
    orders, start, settled, until, building, call
):
    modules = [await building.new_module() for _ in range(6)]
    first, second = start("core-1"), start("core-2")
    await settled("core-1", "core-2")
    with pytest.raises(Unknown):
        await orders.drain("core-3", ME)

    await orders.drain("core-2", ME)
    await settled("core-1", others=("core-2",))
    pids = {await call(module, "pid") for module in modules}
    assert len(pids) == 1  # one driver process: that of core-1
    with pytest.raises(Refused, match="no other core"):
        await orders.drain("core-1", ME)

    second.stop()  # its order outlives it
    await settled("core-1")
    start("core-2")
    await settled("core-1", others=("core-2",))
    assert (await orders.read()).registrations["core-2"].wish == "draining"

    await orders.undrain("core-2")
    await settled("core-1", "core-2")
    assert not drained(await orders.read())
    assert {await call(module, "echo", "x") for module in modules} == {"x"}
    first.stop()


async def test_balancing_is_a_view_that_moves_nothing(orders, start, settled, building, call):
    module = await building.new_module()
    start("core-1")
    await settled("core-1")
    pid = await call(module, "pid")
    before, after = await orders.rebalance()
    view = await settled("core-1")
    assert (before.number + 1, after.members) == (after.number, before.members)
    assert view.number == after.number
    assert await call(module, "pid") == pid


@pytest.mark.long
async def test_the_word_of_an_operator_takes_the_place_of_proof(
    orders, start, settled, until, building, call, etcd
):
    """All that was with the lost core is gone: the newcomer waits until somebody vouches."""
    module = await building.new_module()
    lost = start("core-1")
    before = await settled("core-1")
    incarnation = before.members[0].incarnation
    await call(module, "pid")
    with pytest.raises(Refused, match="it runs"):
        await orders.assert_dead("core-1", "", ME)
    lost.kill()
    start("core-2")

    async def waits() -> bool:
        found = (await orders.read()).seen.view
        return found is not None and [
            (one.incarnation, one.fate) for one in found.base
        ] == [(incarnation, "lost")]  # fmt: skip

    await until(waits, 40)
    view = (await orders.read()).seen.view
    assert view is not None
    assert not view.completed
    with pytest.raises(Refused, match="known to core-2"):
        await orders.assert_dead("", "*", ME)

    assert await orders.assert_dead("core-1", "", ME) == [incarnation]
    await settled("core-2")
    assert await call(module, "echo", "again") == "again"
    assert (await orders.read()).seen.asserted == ()


async def test_where_no_core_knows_a_view_everybody_is_asserted(
    orders, start, settled, until, building, call, etcd
):
    """etcd lost its data, and no core is left that remembers what was in it."""
    module = await building.new_module()
    lost = start("core-1")
    await settled("core-1")
    lost.kill()
    for item in (await etcd.list("placeos/")).items:
        await etcd.delete(item.key)
    start("core-2")

    async def is_there() -> bool:
        return "core-2" in (await orders.read()).registrations

    await until(is_there, 40)
    with pytest.raises(Unknown):
        await orders.assert_dead("core-1", "", ME)
    assert (await orders.read()).seen.view is None
    assert await orders.assert_dead("", "*", ME) == ["*"]
    await settled("core-2")
    assert await call(module, "echo", "again") == "again"
    assert (await orders.read()).seen.asserted == ()
