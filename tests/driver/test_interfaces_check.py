"""A driver that claims an interface wrongly is told what is expected, and where."""

from __future__ import annotations

import textwrap
from enum import Enum
from typing import Annotated, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Meta

from placeos.driver import Driver, Logic, Settings, function, loader
from placeos.driver.errors import InvalidDriver
from placeos.driver.interfaces import (
    INTERFACES,
    Area,
    Camera,
    ElectricalRelay,
    Interface,
    LightingScene,
    Mailer,
    MailerSettings,
    Muteable,
    MuteLayer,
    Powerable,
    Record,
    Stoppable,
    Switchable,
    SwitchLayer,
)
from placeos.driver.interfaces.check import (
    check,
    claimed,
    hints,
    missing_state,
    state_keys,
)

HEAD = """
from placeos.driver import Driver, Logic, Settings, function, on
from placeos.driver.interfaces import *


class Helper:
    async def power(self, state: bool) -> None: ...


class OtherLayer(Record):
    layer: str


"""

MUTE = "state: bool = True, index: int | str = 0, layer: MuteLayer = MuteLayer.AudioVideo"

WRONG = {
    # (class line, body): what the problem says
    ("Lamp(Logic, Powerable)", ""): (
        "Lamp.power: Lamp is Powerable but does not define power: power(state: bool)"
    ),
    ("Lamp(Logic, LightingScene)", "async def set_lighting_scene(self, scene: int): ..."): (
        "Lamp.lighting_scene: Lamp is LightingScene but does not define lighting_scene, "
        "published as lighting_scene?: lighting_scene?(area: Area | None = None)"
    ),
    ("Lamp(Logic, Powerable, Helper)", ""): (
        "Lamp.power: list Helper, which defines it, before Powerable"
    ),
    ("Lamp(Logic, Powerable)", "power = True"): "Lamp.power: must be a method, power(state: bool)",
    ("Lamp(Logic, Powerable)", "@property\ndef power(self): ..."): "Lamp.power: must be a method",
    ("Lamp(Logic, Powerable)", "async def power(self): ..."): (
        "Lamp.power: its arguments must begin with state, and it has none; "
        "Powerable has power(state: bool)"
    ),
    ("Lamp(Logic, Powerable)", "async def power(self, on: bool): ..."): (
        "Lamp.power: its arguments must begin with state, not on"
    ),
    ("Lamp(Logic, Powerable)", "async def power(self, *states: bool): ..."): (
        "Lamp.power: its arguments must begin with state, and it has none"
    ),
    ("Lamp(Logic, Powerable)", "async def power(self, state: str): ..."): (
        "Lamp.power: argument 'state' must accept bool, and accepts str"
    ),
    ("Lamp(Logic, Powerable)", "async def power(self, *, state: bool): ..."): (
        "Lamp.power: argument 'state' must not be keyword-only"
    ),
    ("Lamp(Logic, Powerable)", "async def power(self, state: bool, lamp: int): ..."): (
        "Lamp.power: argument 'lamp', which callers do not know, needs a default"
    ),
    (
        "Lamp(Logic, Powerable)",
        "@function(name='switch')\nasync def power(self, state: bool): ...",
    ): "Lamp.power: must be published as 'power', not 'switch'",
    ("Lamp(Logic, Powerable)", "@on('x')\nasync def power(self, state: bool): ..."): (
        "Lamp.power: a handler with @on is no function"
    ),
    (
        "Lamp(Logic, Stoppable)",
        "async def stop(self, index: int = 0, emergency: bool = False): ...",
    ): ("Lamp.stop: argument 'index' must accept int | str, and accepts int"),
    (
        "Lamp(Logic, Stoppable)",
        "async def stop(self, emergency: bool = False, index: int | str = 0): ...",
    ): "Lamp.stop: its arguments must begin with index, emergency, not emergency, index",
    (
        "Lamp(Logic, Stoppable)",
        "async def stop(self, index: int | str = 1, emergency: bool = False): ...",
    ): "Lamp.stop: argument 'index' must have the default 0",
    (
        "Lamp(Logic, ElectricalRelay)",
        "async def relay(self, state: bool, index: int): ...",
    ): "Lamp.relay: argument 'index' must have the default 0",
    (
        "Lamp(Logic, Muteable)",
        f"async def mute(self, {MUTE.replace('.AudioVideo', '.Video')}): ...",
    ): ("Lamp.mute: argument 'layer' must have the default MuteLayer.AudioVideo"),
    (
        "Lamp(Logic, Muteable)",
        f"async def mute(self, {MUTE.replace('MuteLayer = MuteLayer.AudioVideo', 'str = 1')}): ...",
    ): "Lamp.mute: argument 'layer' must accept MuteLayer, and accepts str",
    (
        "Lamp(Logic, Muteable)",
        f"async def mute(self, {MUTE}): ...\nasync def unmute(self, index: int | str = 0): ...",
    ): "Lamp.unmute: its arguments must begin with index, layer, not index",
    (
        "Lamp(Logic, Mailer)",
        "async def send_mail(self, to, subject): ...",
    ): "Lamp.settings: Mailer needs 'email_templates': derive Settings from "
    "placeos.driver.interfaces.MailerSettings",
}


@pytest.mark.parametrize(("source", "expected"), WRONG.items(), ids=lambda case: case[0])
def test_wrong_claims(source, expected, write_driver):
    line, body = source
    text = f"{HEAD}class {line}:\n{textwrap.indent(body or 'pass', '    ')}\n"
    with pytest.raises(InvalidDriver) as caught:
        loader.load(str(write_driver(text)))
    assert expected in str(caught.value)
    assert str(caught.value).startswith("tried.py:")


def test_the_line_is_that_of_the_method(write_driver):
    text = f"{HEAD}class Lamp(Logic, Powerable):\n    x = 1\n\n    def power(self): ...\n"
    with pytest.raises(InvalidDriver) as caught:
        loader.load(str(write_driver(text)))
    assert str(caught.value).startswith(f"tried.py:{len(text.splitlines())}: Lamp.power: its")


def test_the_line_is_that_of_the_class_without_one(write_driver):
    text = f"{HEAD}class Lamp(Logic, Powerable):\n    x = 1\n"
    with pytest.raises(InvalidDriver) as caught:
        loader.load(str(write_driver(text)))
    assert str(caught.value).startswith(f"tried.py:{len(text.splitlines()) - 1}: Lamp.power: Lamp")


def test_all_problems_are_told(write_driver):
    text = (
        f"{HEAD}class Lamp(Logic, Powerable, Stoppable):\n"
        "    async def power(self, on: bool) -> None: ...\n"
    )
    with pytest.raises(InvalidDriver, match=r"Lamp\.power: .*\ntried\.py:\d+: Lamp\.stop: "):
        loader.load(str(write_driver(text)))


def test_other_abstract_methods(write_driver):
    text = """
        from abc import ABC, abstractmethod
        from placeos.driver import Logic

        class Base(ABC):
            @abstractmethod
            async def ping(self) -> None: ...

        class Pinging(Logic, Base): ...
    """
    with pytest.raises(InvalidDriver, match="Pinging is Base but does not define ping"):
        loader.load(str(write_driver(text)))


def test_annotation_that_cannot_be_read_is_reported_as_such(write_driver):
    text = f"{HEAD}class Lamp(Logic, Powerable):\n    async def power(self, state: 'Nope'): ...\n"
    with pytest.raises(InvalidDriver, match="annotation of 'power': name 'Nope'"):
        loader.load(str(write_driver(text)))
    text = f"{HEAD}class Lamp(Logic, Powerable):\n    async def power(self, state): ...\n"
    with pytest.raises(InvalidDriver, match="argument 'state' of 'power' has no type"):
        loader.load(str(write_driver(text)))


# -- right claims -------------------------------------------------------------------------


class Input(Enum):
    HDMI = 1


class Switcher(Driver[Settings], Switchable, Powerable, LightingScene):
    """Narrow where it may be, wide elsewhere, plain and asynchronous."""

    async def switch_to(self, input: Input) -> None: ...

    async def switch(
        self, map: dict[Input, list[int]], layer: SwitchLayer | None = None, fade: float = 0
    ) -> None: ...

    def power(self, state: bool | str = True, *, slowly: bool = False, **rest: Any) -> None: ...

    async def set_lighting_scene(
        self,
        scene: Annotated[int, Meta(ge=1, le=8)],
        area: Area | str | None = None,
        fade_time: float = 1000,
    ) -> None: ...

    async def lighting_scene(self, area: object = None) -> int:
        return 1


class Mail(Driver[MailerSettings], Mailer):
    async def send_mail(
        self,
        to: list[str] | str,
        subject: str,
        message_plaintext: str | None = None,
        message_html: str | None = None,
        resource_attachments: object = (),
        attachments: list[Record] = [],  # noqa: B006
        cc: str | list[str] = [],  # noqa: B006
        bcc: str | list[str] = [],  # noqa: B006
        from_: str | list[str] | None = None,
        reply_to: str | list[str] | None = None,
    ) -> None: ...


@pytest.mark.parametrize("cls", [Switcher, Mail])
def test_right_claims(cls):
    assert check(cls) == []


def test_power_may_come_from_a_base_class_before_the_interface():
    class Base(Driver[Settings]):
        async def power(self, state: bool) -> None: ...

    class Lamp(Base, Powerable): ...

    assert check(Lamp) == []
    assert claimed(Lamp) == [Powerable]


def test_problem_of_an_inherited_method_names_the_claiming_class():
    class Base(Logic):
        async def power(self) -> None: ...

    class Lamp(Base, Powerable): ...

    (problem,) = check(Lamp)
    assert problem.subject == "Lamp.power"
    assert problem.place.startswith("test_interfaces_check.py:")


# -- hints --------------------------------------------------------------------------------


def test_hints():
    class Lamp(Logic):
        async def power(self, state: bool) -> None: ...
        async def stop(self) -> None: ...  # not as Stoppable has it

        @function(name="lighting_scene?")
        async def scene(self, area: Area | None = None) -> int:
            return 1

        async def set_lighting_scene(
            self, scene: int, area: Area | None = None, fade_time: int = 1000
        ) -> None: ...

    assert hints(Lamp) == [Powerable, LightingScene]

    class Silent(Logic):
        async def mute(
            self,
            state: bool = True,
            index: int | str = 0,
            layer: MuteLayer = MuteLayer.AudioVideo,
        ) -> None: ...
        async def mute_audio(self, state: bool = True, index: int | str = 0) -> None: ...

    assert hints(Silent) == [Muteable]

    class Claiming(Silent, Muteable): ...

    assert hints(Claiming) == []


@given(st.sets(st.sampled_from(INTERFACES)))
def test_who_defines_everything_is_hinted_everything(chosen):
    """A class with the functions of some interfaces serves these, or ones that include them."""
    methods = {
        method: vars(base)[method]
        for interface in chosen
        for base in interface.__mro__
        if issubclass(base, Interface)
        for method in vars(base)
        if method[0] != "_" and callable(vars(base)[method])
    }
    cls = type("Serving", (Logic,), methods)
    found = hints(cls)
    assert all(any(issubclass(one, wanted) for one in found) for wanted in chosen)
    assert not any(one is not other and issubclass(one, other) for one in found for other in found)


# -- state keys ---------------------------------------------------------------------------


def test_state_keys():
    assert set(state_keys([Switcher])) == {"input", "power"}
    assert set(state_keys([Powerable.interface_name, "no such", Camera])) >= {
        "power",
        "zoom",
        "pan_range",
    }
    assert missing_state([Switcher], {"input": "HDMI", "other": 1}) == ["power"]
    assert missing_state([Muteable.interface_name], {}) == ["mute", "mute0_video", "audio_mute"]
    assert missing_state([Stoppable, ElectricalRelay], {}) == []
