"""One validation for all records."""

from __future__ import annotations

import pytest

from placeos.model.api_key import ApiKey, Permissions
from placeos.model.driver import Driver, Role
from placeos.model.module import Module
from placeos.model.rules import Invalid, WrongType
from placeos.model.system import System
from placeos.model.user import User
from placeos.model.validation import check, draft
from placeos.model.zone import Zone


def reasons(error: pytest.ExceptionInfo[Invalid]) -> dict[str, str]:
    return {failure.field: failure.reason for failure in error.value.failures}


def nested(levels: int) -> dict[str, object]:
    value: dict[str, object] = {}
    for _ in range(levels):
        value = {"a": value}
    return value


def test_a_missing_required_field_comes_first() -> None:
    with pytest.raises(Invalid) as error:
        draft(System, {"timezone": "Nowhere/Land"})
    assert reasons(error) == {"name": "should not be nil"}


def test_an_empty_required_field() -> None:
    with pytest.raises(Invalid) as error:
        check(draft(System, {"name": " "}))
    assert reasons(error) == {"name": "is required"}


def test_null_clears_resets_or_is_refused() -> None:
    room = System(name="Room", code="r1", capacity=4)
    changed = draft(System, {"code": None, "capacity": None}, room)
    assert (changed.code, changed.capacity) == (None, 0)
    with pytest.raises(Invalid) as error:
        draft(System, {"name": None}, room)
    assert reasons(error) == {"name": "should not be nil"}


def test_only_what_is_given_changes_and_the_original_stays() -> None:
    room = System(id="sys-1", name="Room", zones=["zone-1"], version=3)
    changed = draft(System, {"name": "Other", "version": 9, "id": "sys-2", "unknown": 1}, room)
    assert (changed.id, changed.name, changed.version) == ("sys-1", "Other", 3)
    assert room.name == "Room"


@pytest.mark.parametrize(
    ("given", "stored"),
    [
        ("Room <b>1</b>", "Room 1"),
        ("R&D & more", "R&D & more"),
        ("a < b", "a < b"),
        ("<script>alert(1)</script>Room", "Room"),
        ("&lt;img src=x onerror=alert(1)&gt;Room", "Room"),
    ],
)
def test_text_loses_its_html(given: str, stored: str) -> None:
    assert draft(System, {"name": given}).name == stored


def test_html_keeps_a_safe_subset() -> None:
    description = draft(
        System, {"name": "x", "description": '<b onclick="x()">hi</b><script>x</script>'}
    ).description
    assert description == "<b>hi</b>"


@pytest.mark.parametrize("role", [99, "logic", "LOGIC", "Logic"])
def test_enumerations_by_number_or_name(role: object) -> None:
    body = {
        "name": "D", "role": role, "file_name": "d.py", "commit": "HEAD", "module_name": "D",
        "repository_id": "repo-1",
    }  # fmt: skip
    assert draft(Driver, body).role is Role.LOGIC


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"name": 1}, "name"),
        ({"name": "x", "zones": "zone-1"}, "zones"),
        ({"name": "x", "zones": [1]}, "zones"),
        ({"name": "x", "bookable": "yes"}, "bookable"),
        ({"name": "x", "capacity": True}, "capacity"),
        ({"name": "x", "capacity": 10**30}, "capacity"),
        ({"name": "x", "orientation": "sideways"}, "orientation"),
        ({"name": "x", "space_config": []}, "space_config"),
    ],
)
def test_wrong_types_name_the_field(body: dict[str, object], field: str) -> None:
    with pytest.raises(WrongType) as error:
        draft(System, body)
    assert error.value.field == field
    assert str(error.value).startswith(f"{field}: ")


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"name": "x\0"}, "name"),
        ({"name": "x", "space_config": {"a": [{"b\0": 1}]}}, "space_config"),
        ({"name": "x", "space_config": {"a": [[[{"b": "c\0"}]]]}}, "space_config"),
        ({"name": "x", "space_config": nested(400)}, "space_config"),
        ({"name": "x" * 1_000_000}, "name"),
        ({"name": "x", "features": ["&" + "amp;" * 1_000_000]}, "features"),
        ({"name": "x", "zones": ["zone-" + "x" * 1000]}, "zones"),
        ({"name": "x", "images": ["a", "x" * 3000]}, "images"),
        ({"name": "x", "description": "<" * 1_000_000}, "description"),
        ({"name": "x", "support_url": "nope"}, "support_url"),
        ({"name": "x", "camera_snapshot_urls": ["http://a", "b"]}, "camera_snapshot_urls"),
        ({"name": "x", "timezone": "Mars/Base"}, "timezone"),
    ],
)
def test_rules_name_the_field(body: dict[str, object], field: str) -> None:
    with pytest.raises(Invalid) as error:
        check(draft(System, body))
    assert list(reasons(error)) == [field]


def module(role: Role, **values: object) -> Module:
    found = draft(Module, {"driver_id": "driver-1", **values})
    found.role = role
    return found


@pytest.mark.parametrize(
    ("candidate", "expected"),
    [
        (module(Role.DEVICE, port=1), {"ip": "cannot be blank"}),
        (
            module(Role.DEVICE, ip="no host!", port=1),
            {"ip": "address, hostname or port are invalid"},
        ),
        (module(Role.SSH, ip="10.0.0.1", port=70000), {"port": "is invalid"}),
        (module(Role.SSH, ip="10.0.0.1"), {"port": "is invalid"}),
        (module(Role.SERVICE), {"uri": "not present"}),
        (module(Role.WEBSOCKET, uri="/path"), {"uri": "is an invalid URI"}),
        (module(Role.LOGIC), {"control_system": "must be associated for logic modules"}),
        (
            module(Role.DEVICE, ip="::1", port=1, control_system_id="sys-1"),
            {"control_system": "should not be associated for device modules"},
        ),
        (
            module(Role.LOGIC, control_system_id="sys-1", edge_id="edge-1"),
            {"edge": "logic module cannot be allocated to an edge"},
        ),
    ],
)
def test_rules_of_module_roles(candidate: Module, expected: dict[str, str]) -> None:
    with pytest.raises(Invalid) as error:
        check(candidate)
    assert reasons(error) == expected


def test_a_role_forces_flags() -> None:
    service = module(Role.SERVICE, uri="https://x.example", udp=True)
    check(service)
    assert (service.tls, service.udp) == (True, False)
    udp = module(Role.DEVICE, ip="10.0.0.1", port=9, udp=True, tls=True)
    check(udp)
    assert udp.tls is False


def test_a_users_name_follows_its_parts() -> None:
    user = draft(
        User,
        {"authority_id": "authority-1", "email": " Ann@Example.com ", "first_name": "Ann"},
    )
    check(user)
    assert (user.name, user.email) == ("Ann", "Ann@Example.com")
    assert len(user.email_digest) == 32
    with pytest.raises(Invalid) as error:
        check(draft(User, {"authority_id": "a", "email": "nope"}))
    assert reasons(error) == {"name": "is required", "email": "is invalid"}


def test_times_and_names_of_api_keys() -> None:
    key = draft(
        ApiKey,
        {
            "name": " My Key ",
            "user_id": "user-1",
            "permissions": "admin",
            "expires_at": "2030-01-01T00:00:00Z",
        },
    )
    assert key.name == "my key"
    assert key.permissions is Permissions.ADMIN
    assert key.expires_at == 1893456000


def test_a_time_before_all_clocks() -> None:
    body = {"name": "k", "user_id": "user-1", "expires_at": "0001-01-01T00:00:00"}
    with pytest.raises(WrongType):
        draft(ApiKey, body)


def test_what_names_other_records_is_looked_at_before_it_is_looked_up() -> None:
    with pytest.raises(Invalid) as error:
        draft(Module, {"driver_id": "driver-\0"})
    assert reasons(error) == {"driver_id": "should not contain the character U+0000"}


def test_a_zone_is_not_its_own_parent() -> None:
    with pytest.raises(Invalid):
        check(draft(Zone, {"name": "z", "parent_id": "zone-1"}, Zone(id="zone-1", name="z")))


def test_a_read_only_text_is_dropped_but_not_of_any_length() -> None:
    assert draft(Module, {"driver_id": "driver-1", "name": "Mine"}).name == ""
    with pytest.raises(Invalid) as caught:
        draft(Module, {"driver_id": "driver-1", "name": "x" * 1_000_000})
    assert [failure.field for failure in caught.value.failures] == ["name"]
