"""The plan: whatever happens meanwhile, following it ends where it should, touching no other."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from placeos.core.plan import End, Have, Launch, Phase, Start, Stop, Update, Want, leftovers, plan

versions = st.sampled_from(["a@1", "a@2", "b@1", "c@1"])
payloads = st.sampled_from([b"1", b"2"])
names = st.sampled_from([f"mod-{number}" for number in range(6)])
wants = st.dictionaries(names, st.builds(Want, versions, payloads), max_size=6)


class World:
    """Carries steps out as the executor does: some at once, some busy for a while."""

    def __init__(self, desired: dict[str, Want], broken: set[str]) -> None:
        self.desired = desired
        self.broken = broken
        self.actual: dict[str, Have] = {}
        self.processes: dict[str, Phase] = {}
        self.steps: list[object] = []

    def settle(self) -> None:
        """Until there is nothing left to do."""
        for _ in range(20):
            needed = {one.version for one in self.desired.values()}
            needed |= {one.version for one in self.actual.values()}
            steps = plan(self.desired, self.actual, self.processes)
            steps += leftovers(needed, list(self.processes))
            if not steps:
                return
            self.steps += steps
            for step in steps:
                self.carry_out(step)
        raise AssertionError(f"does not settle: {self.steps[-5:]}")

    def carry_out(self, step: object) -> None:
        match step:
            case Launch(version):
                assert version not in self.processes
                phase = Phase.LOADING if version in self.broken else Phase.READY
                self.processes[version] = phase
            case End(version):
                assert all(one.version != version for one in self.actual.values())
                del self.processes[version]
            case Start(module, want):
                assert module not in self.actual
                assert self.processes[want.version] is Phase.READY
                self.actual[module] = Have(want.version, want.payload)
            case Update(module, version, payload):
                assert self.actual[module].version == version
                self.actual[module] = Have(version, payload)
            case Stop(module, version):
                assert self.actual.pop(module).version == version

    def check(self) -> None:
        """Everything that can be as desired is so; nothing else runs."""
        for module, want in self.desired.items():
            have = self.actual.get(module)
            if want.version not in self.broken:
                assert have == Have(want.version, want.payload)
            elif have is not None:  # an older version goes on, with the newest settings
                assert have.version != want.version
                assert have.payload == want.payload
        assert self.actual.keys() <= self.desired.keys()
        needed = {one.version for one in [*self.desired.values(), *self.actual.values()]}
        assert self.processes.keys() == needed


@settings(max_examples=300)
@given(st.lists(st.tuples(wants, st.sets(versions, max_size=2)), min_size=1, max_size=4))
def test_converges_through_every_change(stages):
    world = World({}, set())
    for desired, broken in stages:
        world.desired = desired
        world.broken = broken
        for version, phase in list(world.processes.items()):
            if phase is Phase.LOADING and version not in broken:
                world.processes[version] = Phase.READY  # a retry succeeded
        world.broken = broken - {v for v, p in world.processes.items() if p is Phase.READY}
        world.settle()
        world.check()


@given(wants, wants)
def test_what_is_as_it_should_be_is_not_touched(before, after):
    world = World(before, set())
    world.settle()
    world.steps.clear()
    unchanged = {one for one in before if before[one] == after.get(one)}
    world.desired = after
    world.settle()
    touched = {step.module for step in world.steps if not isinstance(step, Launch | End)}
    assert touched.isdisjoint(unchanged)


@given(wants, names)
def test_a_subset_plans_the_subset_only(desired, name):
    steps = plan(desired, {}, dict.fromkeys(["a@1", "a@2", "b@1", "c@1"], Phase.READY), [name])
    assert steps == ([Start(name, desired[name])] if name in desired else [])


@given(wants, versions)
def test_a_lost_process_brings_its_modules_back_and_no_others(desired, lost):
    world = World(desired, set())
    world.settle()
    world.steps.clear()
    gone = {one for one, have in world.actual.items() if have.version == lost}
    for one in gone:
        del world.actual[one]
    world.settle()
    world.check()
    assert {step.module for step in world.steps} == gone


def test_a_busy_module_is_left_alone():
    busy = {"mod-1": Have("a@1", b"1", busy=True)}
    assert plan({}, busy, {"a@1": Phase.READY}) == []
    assert plan({"mod-1": Want("a@1", b"2")}, busy, {"a@1": Phase.READY}) == []


def test_a_version_that_loads_leaves_the_old_one_running_with_new_settings():
    desired = {"mod-1": Want("a@2", b"2")}
    actual = {"mod-1": Have("a@1", b"1")}
    loading = {"a@1": Phase.READY, "a@2": Phase.LOADING}
    assert plan(desired, actual, {"a@1": Phase.READY}) == [
        Launch("a@2"),
        Update("mod-1", "a@1", b"2"),
    ]
    assert plan(desired, actual, loading) == [Update("mod-1", "a@1", b"2")]
    loading["a@2"] = Phase.READY
    assert plan(desired, actual, loading) == [Stop("mod-1", "a@1")]
