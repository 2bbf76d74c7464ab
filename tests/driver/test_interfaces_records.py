"""Records of the standard interfaces, their documentation, and who claims them."""

from __future__ import annotations

import json
import re
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from placeos.driver import loader
from placeos.driver.interfaces import (
    INTERFACES,
    AccessDetails,
    Area,
    DoorAction,
    GeoLocation,
    Locker,
    MapLocation,
    SensorDetail,
    SensorStatus,
    SensorType,
    bare_mac,
)
from placeos.driver.interfaces.check import hints
from placeos.driver.interfaces.document import INTRODUCTION, markdown
from placeos.driver.schema import Converter, encode

ROOT = Path(__file__).parents[2]


def test_drivers_that_come_with_the_platform():
    claims = {
        "pjlink": ["Powerable", "Muteable", "InputSelection"],
        "extron_matrix": ["Switchable"],
        "meeting_room": [],
    }
    for name, claimed in claims.items():
        blueprint = loader.load(str(ROOT / "drivers" / f"{name}.py"))
        assert hints(blueprint.cls) == []
        implemented = {one.rpartition("::")[2] for one in blueprint.metadata.implements}
        assert implemented >= set(claimed)


# -- documentation ------------------------------------------------------------------------


def test_docs_are_up_to_date():
    text = (ROOT / "docs" / "interfaces.md").read_text()
    assert text == markdown(), "run: python -m placeos.driver.interfaces.document"
    for cls in INTERFACES:
        assert f"## {cls.__name__}\n" in text


def test_example_of_the_docs_loads(write_driver):
    example = re.search(r"```python\n(.*?)```", INTRODUCTION, re.DOTALL)
    assert example
    blueprint = loader.load(str(write_driver(example.group(1))))
    assert {"relay", "pulse"} == set(blueprint.functions)


# -- records ------------------------------------------------------------------------------


def written(value: object) -> object:
    """As JSON, read again."""
    return json.loads(encode(value))


def test_sensor_detail():
    detail = SensorDetail(
        type=SensorType.PeopleCount,
        value=7,
        last_seen=1736150400,
        mac="001a2b3c4d5e",
        status=SensorStatus.OutOfService,
        loc=GeoLocation(lat=-33.9, lon=151.2),
        extra={"battery": 3.1},
    )
    expected = {
        "type": "people_count",
        "value": 7,
        "last_seen": 1736150400,
        "mac": "001a2b3c4d5e",
        "status": "out_of_service",
        "loc": {"type": "geo", "lat": -33.9, "lon": 151.2},
        "location": "sensor",
        "battery": 3.1,
    }
    assert written(detail) == expected
    assert written({"all": [detail]}) == {"all": [expected]}
    assert written(MapLocation(x=1, y=2)) == {"type": "map", "x": 1, "y": 2}
    assert written([SensorType.PPM, DoorAction.RequestToExit]) == ["ppm", "request_to_exit"]
    assert written(SensorStatus.OutOfService) == "out_of_service"
    for place in (GeoLocation(lat=1, lon=2), MapLocation(x=1, y=2)):
        assert Converter(GeoLocation | MapLocation)(written(place)) == place


def test_other_records():
    locker = Locker(bank_id=3, locker_id="7b", locker_name="7B")
    assert written(locker) == {
        "bank_id": 3,
        "locker_id": "7b",
        "locker_name": "7B",
        "location": "locker",
    }

    class Pass(AccessDetails):
        card_hex: str = ""

    assert written(Pass(card_number=5, card_hex="ff")) == {"card_number": 5, "card_hex": "ff"}
    assert bare_mac("00-1A:2b.3C4D 5e") == "001a2b3c4d5e"


counts = st.none() | st.integers(0, 2**32)


@given(counts, counts, st.none() | st.sampled_from(["dim", "rgb"]), counts, counts)
def test_area(id, channel, component, join, other):
    area = Area(id=id, channel=channel, component=component, join=join)
    parts = str(area).split("_")
    assert parts[0] == ("area" if id is None else f"area{id}")
    assert parts[1:] == [str(p) for p in (channel, component, join) if p is not None]
    assert area.level_key == f"{area}_level"
    assert Converter(Area)(written(area)) == area
    joined = area.join_with(Area(id=1, join=other))
    assert (joined.id, joined.channel, joined.component) == (id, channel, component)
    assert (joined.join or 0) == (join or 0) | (other or 0)
    assert (joined.join is None) == (join is None and other is None)
