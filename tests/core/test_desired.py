"""From records to wants, and which of them a change may touch."""

from __future__ import annotations

import msgspec
import pytest

from placeos.core.desired import affected, lookup_table, system_view, want
from placeos.model.driver import Driver, Role
from placeos.model.module import Module
from placeos.model.settings import EncryptionLevel, Settings
from placeos.model.system import System
from placeos.model.zone import Zone
from placeos.wire.messages import ModuleStart, SystemModule


class Records:
    """A configuration in memory."""

    def __init__(self) -> None:
        self.drivers = {}
        self.modules = {}
        self.systems = {}
        self.zones = {}
        self.repositories = {}
        self.settings: dict[str, list[Settings]] = {}

    def settings_of(self, parent_id: str):
        return self.settings.get(parent_id, [])

    def set(self, parent: str, text: str, level: EncryptionLevel = EncryptionLevel.NONE) -> None:
        record = Settings(parent_id=parent, settings_string=text, encryption_level=level)
        self.settings.setdefault(parent, []).append(record)


@pytest.fixture
def records() -> Records:
    made = Records()
    made.zones = {one: Zone(id=one, name=one) for one in ("zone-1", "zone-2")}
    made.systems["sys-1"] = System(
        id="sys-1", name="Room", zones=["zone-1", "zone-2"], modules=["mod-l", "mod-d", "mod-x"]
    )
    common = {"file_name": "f.py", "commit": "c", "module_name": "Plain", "repository_id": "r"}
    made.drivers = {
        "driver-l": Driver(id="driver-l", name="l", role=Role.LOGIC, **common),
        "driver-d": Driver(id="driver-d", name="d", role=Role.DEVICE, **common),
    }
    made.modules = {
        "mod-l": Module(
            id="mod-l",
            name="Plain",
            driver_id="driver-l",
            role=Role.LOGIC,
            control_system_id="sys-1",
            running=True,
        ),
        "mod-d": Module(
            id="mod-d",
            name="Plain",
            driver_id="driver-d",
            role=Role.DEVICE,
            ip="h",
            port=1,
            running=True,
        ),
    }
    return made


VERSIONS = {"driver-l": "driver-l@1", "driver-d": "driver-d@1"}


def start_of(records: Records, module: str) -> ModuleStart:
    found = want(records, module, VERSIONS)
    assert found is not None
    return msgspec.json.decode(found.payload, type=ModuleStart)


def settings_of(records: Records, module: str) -> dict[str, object]:
    return {
        key: msgspec.json.decode(raw) for key, raw in start_of(records, module).settings.items()
    }


def test_logic_sees_driver_zones_system_module_in_that_order(records):
    parents = ["driver-l", "zone-1", "zone-2", "sys-1", "mod-l"]
    for rank, parent in enumerate(parents):
        keys = "".join(f"k{other}: {rank}\n" for other in range(rank, len(parents)))
        records.set(parent, keys)
    assert settings_of(records, "mod-l") == {f"k{rank}": rank for rank in range(len(parents))}
    records.set("mod-l", "k4: secret", EncryptionLevel.NEVER_DISPLAY)
    assert settings_of(records, "mod-l")["k4"] == "secret"


def test_a_device_sees_driver_and_module_only(records):
    records.set("driver-d", "{a: 1, b: 1}")
    records.set("sys-1", "b: 2")
    records.set("zone-1", "b: 3")
    records.set("mod-d", "c: 4")
    assert settings_of(records, "mod-d") == {"a": 1, "b": 1, "c": 4}
    assert start_of(records, "mod-d").system is None
    assert start_of(records, "mod-l").system.id == "sys-1"


def test_broken_settings_do_not_stop_the_rest(records):
    records.set("driver-d", "a: [")
    records.set("mod-d", "c: 4")
    assert settings_of(records, "mod-d") == {"c": 4}


def test_what_does_not_run(records):
    assert want(records, "mod-none", VERSIONS) is None
    assert want(records, "mod-l", {}) is None
    records.modules["mod-l"].running = False
    assert want(records, "mod-l", VERSIONS) is None
    records.modules["mod-l"].running = True
    del records.systems["sys-1"]
    assert want(records, "mod-l", VERSIONS) is None


def test_bookkeeping_changes_nothing(records):
    before = want(records, "mod-d", VERSIONS)
    records.modules["mod-d"].has_runtime_error = True
    records.modules["mod-d"].error_timestamp = 5
    records.modules["mod-d"].updated_at = 6
    assert want(records, "mod-d", VERSIONS) == before


@pytest.mark.parametrize(
    ("change", "modules", "systems"),
    [
        (("mod", "mod-d"), {"mod-d"}, {"sys-1"}),
        (("mod", "mod-gone"), {"mod-gone"}, set()),
        (("sys", "sys-1"), {"mod-l"}, {"sys-1"}),
        (("sys", "sys-gone"), set(), {"sys-gone"}),
        (("zone", "zone-2"), {"mod-l"}, set()),
        (("driver", "driver-d"), {"mod-d"}, set()),
        (("repo", "repo-1"), set(), set()),
    ],
)
def test_what_a_change_touches(records, change, modules, systems):
    assert affected(records, [change]) == (modules, systems)


def test_lookup_table_and_view(records):
    assert lookup_table(records, "sys-1") == {"Plain/1": "mod-l", "Plain/2": "mod-d"}
    assert lookup_table(records, "sys-none") is None
    known = {"mod-d": SystemModule("mod-d", "", 0, implements=["X"], functions=["f"])}
    view = system_view(records, "sys-1", known)
    assert [(one.id, one.name, one.index) for one in view.modules] == [
        ("mod-l", "Plain", 1),
        ("mod-d", "Plain", 2),
    ]
    assert view.modules[1].functions == ["f"]
    assert system_view(records, "sys-none", known) is None
