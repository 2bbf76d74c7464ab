"""Every standard interface: a driver that claims it, and what is published of that."""

from __future__ import annotations

import inspect
import json
from enum import Enum

import pytest

from placeos.driver import interfaces, loader
from placeos.driver.base import HIDDEN
from placeos.driver.errors import InvalidDriver
from placeos.driver.interfaces import INTERFACES, Interface
from placeos.driver.interfaces.check import hints, key_pattern, required
from placeos.driver.schema import Converter, lower_snake

NAMESPACE = "PlaceOS::Driver::Interface"

# interface: the functions a driver defines, then those it is given. An argument without `=`
# must be given; defaults are JSON.
CONTRACT: dict[str, tuple[dict[str, str], dict[str, str]]] = {
    "Powerable": ({"power": "state"}, {"power_state": "state"}),
    "AudioMuteable": ({"mute_audio": "state=true index=0"}, {"unmute_audio": "index=0"}),
    "VideoMuteable": ({"mute_video": "state=true index=0"}, {"unmute_video": "index=0"}),
    "Muteable": (
        {"mute": 'state=true index=0 layer="audio_video"'},
        {
            "unmute": 'index=0 layer="audio_video"',
            "mute_audio": "state=true index=0",
            "mute_video": "state=true index=0",
            "unmute_audio": "index=0",
            "unmute_video": "index=0",
        },
    ),
    "InputSelection": ({"switch_to": "input"}, {}),
    "Switchable": ({"switch": "map layer=null", "switch_to": "input"}, {}),
    "Stoppable": ({"stop": "index=0 emergency=false"}, {}),
    "Moveable": ({"move": "position index=0"}, {}),
    "Zoomable": (
        {"zoom_to": "position auto_focus=true index=0"},
        {"zoom": "direction index=0"},
    ),
    "Camera": (
        {
            "stop": "index=0 emergency=false",
            "move": "position index=0",
            "zoom_to": "position auto_focus=true index=0",
            "joystick": "pan_speed tilt_speed index=0",
            "recall": "position index=0",
            "save_position": "name index=0",
            "remove_position": "name index=0",
        },
        {"zoom": "direction index=0", "tilt": "direction index=0", "pan": "direction index=0"},
    ),
    "Lighting::Scene": (
        {
            "set_lighting_scene": "scene area=null fade_time=1000",
            "lighting_scene?": "area=null",
        },
        {},
    ),
    "Lighting::Level": (
        {
            "set_lighting_level": "level area=null fade_time=1000",
            "lighting_level?": "area=null",
        },
        {"set_lighting": "state area=null fade_time=1000"},
    ),
    "ElectricalRelay": (
        {"relay": "state index=0"},
        {"pulse": "period=1000 index=0 times=1 initial_state=false"},
    ),
    "StandbyImage": ({"set_background_image": "url output_index=null"}, {}),
    "DeviceInfo": ({"device_info": ""}, {"update_device_info": ""}),
    "Sensor": (
        {"sensor": "mac id=null", "sensors": "type=null mac=null zone_id=null"},
        {},
    ),
    "Locatable": (
        {
            "locate_user": "email=null username=null",
            "macs_assigned_to": "email=null username=null",
            "check_ownership_of": "mac_address",
            "device_locations": "zone_id location=null",
        },
        {},
    ),
    "Lockers": (
        {
            "locate_user": "email=null username=null",
            "macs_assigned_to": "email=null username=null",
            "check_ownership_of": "mac_address",
            "device_locations": "zone_id location=null",
            "locker_allocate": "user_id bank_id locker_id=null expires_at=null",
            "locker_release": "bank_id locker_id owner_id=null",
            "lockers_allocated_to": "user_id",
            "locker_share": "bank_id locker_id owner_id share_with",
            "locker_unshare": "bank_id locker_id owner_id shared_with_id=null",
            "locker_shared_with": "bank_id locker_id owner_id",
            "locker_unlock": "bank_id locker_id owner_id=null open_time=60",
        },
        {
            "locker_allocate_me": "bank_id locker_id=null expires_at=null",
            "locker_release_mine": "bank_id locker_id",
            "lockers_allocated_to_me": "",
            "locker_share_mine": "bank_id locker_id share_with",
            "locker_unshare_mine": "bank_id locker_id shared_with_id=null",
            "locker_shared_with_others": "bank_id locker_id",
            "locker_unlock_mine": "bank_id locker_id open_time=60",
        },
    ),
    "DeskControl": (
        {
            "set_desk_height": "desk_key desk_height",
            "get_desk_height": "desk_key",
            "set_desk_power": "desk_key desk_power",
            "get_desk_power": "desk_key",
        },
        {},
    ),
    "DoorSecurity": ({"door_list": "", "unlock": "door_id"}, {}),
    "ZoneAccessSecurity": (
        {
            "card_holder_id_lookup": "email",
            "card_holder_lookup": "id",
            "zone_access_id_lookup": "name exact_match=true",
            "zone_access_lookup": "id",
            "zone_access_member?": "zone_id card_holder_id from_unix=null until_unix=null",
            "zone_access_add_member": "zone_id card_holder_id from_unix=null until_unix=null",
            "zone_access_remove_member": "zone_id card_holder_id from_unix=null until_unix=null",
        },
        {},
    ),
    "GuestBuildingAccess": (
        {
            "grant_guest_access": "name email starting ending",
            "revoke_guest_access": "details",
            "guest_access_configured?": "",
        },
        {},
    ),
    "SMS": ({"send_sms": 'phone_numbers message format="SMS" source=null'}, {}),
    "Mailer": (
        {
            "send_mail": "to subject message_plaintext=null message_html=null"
            " resource_attachments=[] attachments=[] cc=[] bcc=[] from=null reply_to=null"
        },
        {
            "send_template": "to template args resource_attachments=[] attachments=[]"
            " cc=[] bcc=[] from=null reply_to=null",
            "build_template": "string args",
        },
    ),
    "MailerTemplates": ({"template_fields": ""}, {}),
    "ChatFunctions": (
        {"capabilities": ""},
        {"function_schemas": "", "function_descriptions": ""},
    ),
    "ChatBot": (
        {"notify_typing": "id", "reply": "id response url=null attachment=null"},
        {},
    ),
}

ENUMS = {
    "PowerState": "on off full_off",
    "MuteLayer": "audio video audio_video",
    "SwitchLayer": "all audio video data data2",
    "MoveablePosition": "open close up down left right in out",
    "ZoomDirection": "in out stop",
    "TiltDirection": "down up stop",
    "PanDirection": "left right stop",
    "SensorStatus": "normal alarm fault out_of_service",
    "SensorType": "temperature device_temp humidity illuminance pressure trigger presence switch"
    " level flow counter people_count queue_size acceleration speed roll pitch yaw compass current"
    " voltage electrical_resistance power energy capacitance inductance conductance magnetic_flux"
    " magnetic_flux_density radiation distance area sound_pressure force frequency mass momentum"
    " time_period volume acidity air_quality ppm",
    "DoorAction": "granted denied tamper duress forced_door security_breach request_to_exit",
}

ENUM_ARGUMENTS = {
    ("Powerable", "power_state", "state"): ("PowerState", "Powerable::PowerState"),
    ("Muteable", "mute", "layer"): ("MuteLayer", "Muteable::MuteLayer"),
    ("Muteable", "unmute", "layer"): ("MuteLayer", "Muteable::MuteLayer"),
    ("Moveable", "move", "position"): ("MoveablePosition", "Moveable::MoveablePosition"),
    ("Zoomable", "zoom", "direction"): ("ZoomDirection", "Zoomable::ZoomDirection"),
    ("Camera", "tilt", "direction"): ("TiltDirection", "Camera::TiltDirection"),
    ("Camera", "pan", "direction"): ("PanDirection", "Camera::PanDirection"),
}

STATE_KEYS = {
    "Powerable": "power",
    "AudioMuteable": "audio_mute mute0_audio",
    "VideoMuteable": "mute0_video",
    "Muteable": "mute mute0 mute1",
    "InputSelection": "input",
    "Switchable": "video2 audio2 output2",
    "Moveable": "position0 moving0",
    "Zoomable": "zoom",
    "Camera": "pan_range pan_speed tilt_range tilt_speed zoom_range has_discrete_zoom focus_in"
    " focus_out has_discrete_focus iris_open iris_close has_discrete_iris presets inverted",
    "Lighting::Scene": "area3",
    "Lighting::Level": "area3_level",
    "ElectricalRelay": "relay0",
    "DeviceInfo": "device_info",
    "ChatFunctions": "capabilities function_schemas",
}

BY_NAME = {cls.interface_name.removeprefix(f"{NAMESPACE}::"): cls for cls in INTERFACES}

HEAD = """
    \"\"\"Claims an interface.\"\"\"

    from collections.abc import Sequence
    from typing import Any

    from placeos.driver import Logic
    from placeos.driver.interfaces import *


    class Claiming(Logic{settings}, {bases}):
"""


def driver_of(*claimed: type[Interface]) -> str:
    """A minimal driver: each function that has to be defined, with nothing in it."""
    settings = "[MailerSettings]" if interfaces.Mailer in claimed else ""
    names = ", ".join(cls.__name__ for cls in claimed)
    text = HEAD.format(settings=settings, bases=names)
    for signature in {str(one): one for cls in claimed for one in required(cls)}.values():
        arguments = ", ".join(map(str, signature.arguments)).replace("from:", "from_:")
        text += (
            f"        async def {signature.name.removesuffix('?')}(self, {arguments}) -> Any: ...\n"
        )
    return text


def arguments(described: str) -> dict[str, object]:
    """`state=true index=0` → the defaults by argument; `...` for one without."""
    pairs = (part.partition("=") for part in described.split())
    return {name: json.loads(default) if equals else ... for name, equals, default in pairs}


@pytest.mark.parametrize("name", CONTRACT)
def test_metadata_is_the_published_one(name, write_driver):
    claimed = BY_NAME[name]
    file = write_driver(driver_of(claimed))
    metadata = loader.load(str(file)).metadata
    to_define, provided = CONTRACT[name]
    found = {
        function: {arg: schema.get("default", ...) for arg, schema in given.items()}
        for function, given in metadata.interface.items()
    }
    expected = {function: arguments(text) for function, text in (to_define | provided).items()}
    assert found == expected
    assert {f: list(a) for f, a in found.items()} == {f: list(a) for f, a in expected.items()}
    assert {signature.name for signature in required(claimed)} == set(to_define)
    assert metadata.implements[0] == f"{NAMESPACE}::{name}"
    for (interface, function, argument), (enum, title) in ENUM_ARGUMENTS.items():
        if interface == name:
            schema = metadata.interface[function][argument]
            assert schema["enum"] == ENUMS[enum].split()
            assert schema["title"] == f"{NAMESPACE}::{title}"


def test_nothing_is_forgotten():
    assert set(BY_NAME) == set(CONTRACT)
    enums = {
        name
        for name, member in vars(interfaces).items()
        if isinstance(member, type) and issubclass(member, Enum) and len(member)
    }
    assert enums == set(ENUMS)


@pytest.mark.parametrize("name", ENUMS)
def test_enum_spelling(name):
    enum = getattr(interfaces, name)
    assert [lower_snake(member.name) for member in enum] == ENUMS[name].split()
    convert = Converter(enum)
    for member in enum:
        for spelling in (member.name, lower_snake(member.name), member.name.upper()):
            assert convert(spelling) is member


@pytest.mark.parametrize("claimed", INTERFACES, ids=lambda cls: cls.__name__)
def test_included_interfaces_are_implemented(claimed, write_driver):
    metadata = loader.load(str(write_driver(driver_of(claimed)))).metadata
    included = [base.interface_name for base in claimed.__mro__ if base in INTERFACES]
    assert metadata.implements == included


def test_several_interfaces(write_driver):
    file = write_driver(driver_of(*(cls for cls in INTERFACES if not conflicts(cls))))
    blueprint = loader.load(str(file))
    assert len(blueprint.metadata.implements) == len(INTERFACES)
    assert hints(blueprint.cls) == []


def conflicts(cls: type[Interface]) -> bool:
    """Those that others include cannot be listed before them."""
    return any(cls in other.__mro__[1:] for other in INTERFACES)


def test_each_function_must_be_defined(write_driver):
    for claimed in INTERFACES:
        lines = driver_of(claimed).splitlines(keepends=True)
        defined = [n for n, line in enumerate(lines) if line.lstrip().startswith("async def")]
        for number in defined:
            text = "".join([*lines[:number], "        pass\n", *lines[number + 1 :]])
            function = lines[number].split("def ")[1].partition("(")[0]
            with pytest.raises(InvalidDriver, match=rf"tried\.py:\d+: Claiming\.{function}: "):
                loader.load(str(write_driver(text)))


def test_functions_do_not_hide_behind_the_sdk():
    for cls in INTERFACES:
        assert not HIDDEN & {signature.name for signature in required(cls)}
        own = {name for name, member in vars(cls).items() if inspect.isfunction(member)}
        assert not HIDDEN & own


@pytest.mark.parametrize("name", STATE_KEYS)
def test_state_keys_are_the_published_ones(name):
    cls = BY_NAME[name]
    keys = [*vars(cls).get("state_keys", {}), *vars(cls).get("optional_state_keys", {})]
    published = STATE_KEYS[name].split()
    for key in published:
        assert any(key_pattern(known).fullmatch(key) for known in keys), key
    for known in keys:
        fits = any(key_pattern(known).fullmatch(key) for key in published)
        assert fits or known in ("video_mute", "zoom<index>"), known
