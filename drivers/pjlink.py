"""Projectors that speak PJLink class 1.

Written from "PJLink Specifications", version 1.04 of 2013-12-10, by JBMIA
(https://pjlink.jbmia.or.jp/english/data/5-1_PJLink_eng_20131210.pdf);
section numbers in the comments are its.
"""

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Annotated

from msgspec import Meta

from placeos.driver import TCP, Driver, DriverError, Settings, every, function
from placeos.driver.interfaces import InputSelection, Muteable, MuteLayer, Powerable

POWER = {"0": "off", "1": "on", "2": "cooling", "3": "warming"}  # 4.2
INPUTS = {"rgb": "1", "video": "2", "digital": "3", "storage": "4", "network": "5"}  # 4.3
LAYERS = {MuteLayer.Video: "1", MuteLayer.Audio: "2", MuteLayer.AudioVideo: "3"}  # 4.5
PARTS = ("fan", "lamp", "temperature", "cover", "filter", "other")  # 4.7
SEVERITY = {"1": "warning", "2": "error"}  # 4.7
ERRORS = {  # 2.3
    "ERR1": "the projector does not know this command",
    "ERR2": "the projector does not know this value",
    "ERR3": "the projector cannot do this at the moment",
    "ERR4": "the projector reports a failure",
}


class ProjectorSettings(Settings):
    password: Annotated[str, Meta(description="As set in the projector's network menu")] = ""
    poll_every: Annotated[float, Meta(description="Seconds; below 30, or it hangs up")] = 5


class Refused(DriverError):
    """The projector answered with an error code."""

    def __init__(self, answer: str) -> None:
        super().__init__(ERRORS[answer])
        self.not_now = answer == "ERR3"


@contextmanager
def not_now() -> Iterator[list[Refused]]:
    """Accept that the projector cannot do something yet; what it refused is in the list."""
    refused: list[Refused] = []
    try:
        yield refused
    except Refused as error:
        if not error.not_now:
            raise
        refused.append(error)


class Projector(Driver[ProjectorSettings], Powerable, Muteable, InputSelection):
    module_name = "Display"
    transport = TCP(port=4352, ends_with=b"\r")

    def __init__(self) -> None:
        self._proof = ""
        self._password = ""  # of the last login
        # what was asked for while the lamp was warming up or cooling down
        self._wanted_power: bool | None = None
        self._wanted_input: str | None = None
        self._looking_again = False

    # -- the connection ---------------------------------------------------------------------

    async def login(self) -> None:
        """Answer the greeting; the first command carries the proof of the password (5)."""
        self._password = self.settings.password
        greeting = decoded(await self.receive())
        match greeting.split():
            case ["PJLINK", "0"]:
                self._proof = ""
            case ["PJLINK", "1", challenge]:
                secret = challenge + self._password
                self._proof = hashlib.md5(secret.encode()).hexdigest()  # noqa: S324 - prescribed
            case _:
                raise DriverError(f"this is no PJLink projector: it greets with {greeting!r}")
        self["pjlink_class"] = number(await self._ask("CLSS"))

    async def connected(self) -> None:
        await self.refresh()
        await self.inspect()

    async def settings_changed(self) -> None:
        if self.settings.password != self._password:
            self.disconnect("the password was changed")

    # -- functions --------------------------------------------------------------------------

    async def power(self, state: bool) -> bool:
        """Switch the lamp. While it warms up or cools down this is done as soon as it can be."""
        self._wanted_power = state
        self._wanted_input = self._wanted_input if state else None
        await self._settle_power()
        await self.refresh()
        return state

    @function(name="power?")
    async def is_on(self) -> bool:
        """Ask the projector whether the lamp is lit."""
        return await self._read_power() in ("on", "warming")

    async def switch_to(self, input: str) -> str:
        """Show an input: `digital1`, `rgb2`, `video1`, `storage1`, `network1`, or its number."""
        code = input_code(input)
        self._wanted_input = code
        if self.get("power"):
            await self._settle_input()
        return input_name(code)

    async def mute(
        self,
        state: bool = True,
        index: int | str = 0,
        layer: MuteLayer = MuteLayer.AudioVideo,
    ) -> bool:
        """Blank the picture, silence the sound, or both."""
        await self._set("AVMT", f"{LAYERS[layer]}{int(state)}")
        await self._read_mute()
        return state

    # -- polling ----------------------------------------------------------------------------

    @every("poll_every")
    async def refresh(self) -> None:
        """Read power, input and mute; the latter two exist only while the lamp is lit."""
        power = await self._read_power()
        await self._settle_power()
        if power == "on":
            await self._settle_input()
            with not_now():
                self["input"] = input_name(await self._ask("INPT"))
                await self._read_mute()
        elif power in ("warming", "cooling"):
            self._look_again_soon()

    @every(60)
    async def inspect(self) -> None:
        """Read what changes rarely: lamp hours, faults, names."""
        faults = await self._ask("ERST")
        self["errors"] = {
            part: SEVERITY[digit]
            for part, digit in zip(PARTS, faults, strict=False)
            if digit in SEVERITY
        }
        self["lamp_hours"] = await self._lamp_hours()
        self["device_name"] = await self._ask("NAME")
        self["manufacturer"] = await self._ask("INF1")
        self["model"] = await self._ask("INF2")

    async def _read_power(self) -> str:
        code = await self._ask("POWR")
        if code not in POWER:
            raise DriverError(f"the projector says its power is {code!r}")
        power = POWER[code]
        self["power_state"] = power
        self["power"] = power in ("on", "warming")
        self["warming"] = power == "warming"
        self["cooling"] = power == "cooling"
        return power

    def _look_again_soon(self) -> None:
        """Something is about to change."""
        if not self._looking_again:
            self._looking_again = True
            self.schedule.in_(1, self._look_again)

    async def _look_again(self) -> None:
        self._looking_again = False
        await self.refresh()

    async def _read_mute(self) -> None:
        muted = await self._ask("AVMT")  # 11, 21, 31: picture, sound, both; 30: neither (4.6)
        self["video_mute"] = muted in ("11", "31")
        self["audio_mute"] = muted in ("21", "31")
        self["mute"] = muted == "31"

    async def _lamp_hours(self) -> int | None:
        try:
            return number((await self._ask("LAMP")).partition(" ")[0])
        except Refused:  # lit by something else than a lamp (4.8)
            return None

    # -- reaching what is wanted --------------------------------------------------------------

    async def _settle_power(self) -> None:
        wanted, self._wanted_power = self._wanted_power, None
        if wanted is not None:
            with not_now() as refused:
                await self._set("POWR", f"{int(wanted)}")
            if refused and self._wanted_power is None:  # the next refresh tries again
                self._wanted_power = wanted

    async def _settle_input(self) -> None:
        wanted, self._wanted_input = self._wanted_input, None
        if wanted is not None:
            with not_now() as refused:
                await self._set("INPT", wanted)
                self["input"] = input_name(wanted)
            if refused and self._wanted_input is None:
                self._wanted_input = wanted

    # -- the protocol -------------------------------------------------------------------------

    async def _ask(self, body: str) -> str:
        reply = await self.send(
            self._line(body, "?"), priority=20, timeout=2, retries=1, match=answers(body)
        )
        return self._value(reply)

    async def _set(self, body: str, value: str) -> None:
        reply = await self.send(self._line(body, value), name=body, match=answers(body))
        self._value(reply)

    def _line(self, body: str, parameter: str) -> str:
        proof, self._proof = self._proof, ""
        return f"{proof}%1{body} {parameter}"

    def _value(self, reply: bytes) -> str:
        value = decoded(reply).partition("=")[2]
        if reply == b"PJLINK ERRA":
            raise DriverError("the projector refuses the password")
        if value in ERRORS:
            raise Refused(value)
        return value


def answers(body: str) -> Callable[[bytes], bool]:
    """Whether a message is the reply to that command: a late one of another is not."""
    start = f"%1{body}=".encode()
    return lambda reply: reply.upper().startswith(start) or reply == b"PJLINK ERRA"


def decoded(line: bytes) -> str:
    """A line of the projector; names may be in any encoding."""
    return line.decode(errors="replace")


def number(value: str) -> int:
    """Raises DriverError for what is none."""
    if not value.isascii() or not value.isdigit():
        raise DriverError(f"expected a number, the projector says {value!r}")
    return int(value)


def input_code(name: str) -> str:
    """`digital1`, `Digital 1`, `31` → `31`."""
    text = name.lower().replace(" ", "").replace("_", "")
    kind, number = text[:-1], text[-1:]
    code = f"{INPUTS.get(kind, kind)}{number}"
    if len(code) != 2 or code[0] not in INPUTS.values() or code[1] not in "123456789":
        raise DriverError(f"{name!r} is no input such as digital1", code=400)
    return code


def input_name(code: str) -> str:
    """`31` → `digital1`."""
    kinds = {number: kind for kind, number in INPUTS.items()}
    return f"{kinds.get(code[:1], code[:1])}{code[1:]}"
