"""A projector that speaks PJLink class 1, as a process: `python -m placeos.local.demo.pjlink`.

Written from the PJLink specification, version 1.04 of 2013-12-10, by JBMIA
(https://pjlink.jbmia.or.jp/english/data/5-1_PJLink_eng_20131210.pdf); the section numbers in
the comments are its. Like real ones it takes its time to warm up and to cool down, refuses some
commands meanwhile, and closes a connection that was silent for 30 seconds.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping

from placeos.local.demo.arguments import device_arguments, device_options
from placeos.local.demo.device import Device, Options, Session, serve

OFF, ON, COOLING, WARMING = "0", "1", "2", "3"
"""Answers to `POWR ?` (section 4.2)."""

MAX_COMMAND = 136  # bytes, with header, separator and terminator (section 2.5)
_UNDEFINED, _OUT_OF_RANGE, _NOT_NOW = "ERR1", "ERR2", "ERR3"


class Projector:
    """The projector itself: commands in, replies out. Time comes in as an argument."""

    inputs = ("11", "21", "31", "32", "51")

    def __init__(
        self, *, warm_up: float = 6.0, cool_down: float = 4.0, name: str = "Projector"
    ) -> None:
        self.warm_up = warm_up
        self.cool_down = cool_down
        self.name = name
        self.input = "31"
        self.mute = "30"
        self.errors = "000000"
        self._power = OFF
        self._until = 0.0
        self._lit_since = 0.0
        self._lit_before = 812 * 3600.0

    def power(self, now: float) -> str:
        """One of OFF, ON, COOLING, WARMING at that moment."""
        if now >= self._until:
            if self._power == WARMING:
                self._power = ON
            elif self._power == COOLING:
                self._power = OFF
        return self._power

    def lamp_hours(self, now: float) -> int:
        """Hours the lamp has been lit so far."""
        lit = now - self._lit_since if self.power(now) in (ON, WARMING) else 0.0
        return int((self._lit_before + lit) // 3600)

    def lose_power(self) -> None:
        """The plug is pulled: afterwards the projector is in standby."""
        self._power = OFF

    def obey(self, line: str, now: float) -> str | None:
        """The reply to one command line, both without their terminator. None: no reply."""
        if len(line) < 7 or line[0] != "%" or line[6] != " " or not line[:6].isascii():
            return None  # not a command line (section 2.1)
        body, parameter = line[2:6].upper(), line[7:]
        if line[1] != "1":
            reply = _UNDEFINED
        elif parameter == "?":
            reply = self._query(body, now)
        else:
            reply = self._set(body, parameter, now)
        return f"{line[:2]}{body}={reply}"

    def _query(self, body: str, now: float) -> str:
        power = self.power(now)
        match body:
            case "POWR":
                return power
            case "INPT":
                return self.input if power == ON else _NOT_NOW
            case "AVMT":
                return self.mute if power == ON else _NOT_NOW
            case "ERST":
                return self.errors
            case "LAMP":
                return f"{self.lamp_hours(now)} {int(power in (ON, WARMING))}"
            case "INST":
                return " ".join(self.inputs)
            case "NAME":
                return self.name
            case "INF1":
                return "PlaceOS"
            case "INF2":
                return "Simulated projector"
            case "INFO":
                return "Demo building"
            case "CLSS":
                return "1"
            case _:
                return _UNDEFINED

    def _set(self, body: str, parameter: str, now: float) -> str:
        match body:
            case "POWR":
                return self._set_power(parameter, now)
            case "INPT":
                if parameter not in self.inputs:
                    return _OUT_OF_RANGE
                if self.power(now) != ON:
                    return _NOT_NOW
                self.input = parameter
                return "OK"
            case "AVMT":
                if parameter not in ("10", "11", "20", "21", "30", "31"):
                    return _OUT_OF_RANGE
                if self.power(now) != ON:
                    return _NOT_NOW
                self.mute = _muted(self.mute, parameter)
                return "OK"
            case "ERST" | "LAMP" | "INST" | "NAME" | "INF1" | "INF2" | "INFO" | "CLSS":
                return _OUT_OF_RANGE
            case _:
                return _UNDEFINED

    def _set_power(self, parameter: str, now: float) -> str:
        if parameter not in (OFF, ON):
            return _OUT_OF_RANGE
        power = self.power(now)
        if power == (COOLING if parameter == ON else WARMING):
            return _NOT_NOW
        if parameter == ON and power == OFF:
            self._power, self._until, self._lit_since = WARMING, now + self.warm_up, now
        elif parameter == OFF and power == ON:
            self._lit_before += now - self._lit_since
            self._power, self._until = COOLING, now + self.cool_down
            self.mute = "30"
        return "OK"


def _muted(before: str, parameter: str) -> str:
    """The answer to `AVMT ?` after a set command: 11 video, 21 audio, 31 both, 30 neither."""
    muted = {"11": {"1"}, "21": {"2"}, "31": {"1", "2"}}.get(before, set())
    channels = {"1", "2"} if parameter[0] == "3" else {parameter[0]}
    muted = muted | channels if parameter[1] == "1" else muted - channels
    return {"": "30", "1": "11", "2": "21", "12": "31"}["".join(sorted(muted))]


class ProjectorDevice(Device):
    """The projector on a socket."""

    def __init__(self, options: Options, projector: Projector, password: str = "") -> None:
        super().__init__(options)
        self.projector = projector
        self.password = password

    def session(self) -> Session:
        return ProjectorSession(self)

    def state(self) -> Mapping[str, object]:
        power = self.projector.power(time.monotonic())
        return {"power": power, "input": self.projector.input, "mute": self.projector.mute}

    def power_lost(self) -> None:
        self.projector.lose_power()

    def panel(self, words: list[str]) -> bool:
        """`power 1`, `power 0`, `input 32` from the remote control; `errors 020000` befall it."""
        match words:
            case ["power", parameter]:
                line = f"%1POWR {parameter}"
            case ["input", parameter]:
                line = f"%1INPT {parameter}"
            case ["errors", digits] if len(digits) == 6 and set(digits) <= set("012"):
                self.projector.errors = digits
                return True
            case _:
                return False
        reply = self.projector.obey(line, time.monotonic())
        self.journal.write("panel", text=line, reply=reply or "")
        return reply is not None and reply.endswith("=OK")


class ProjectorSession(Session):
    """One connection to the projector, with the authentication of section 5."""

    def __init__(self, device: ProjectorDevice) -> None:
        super().__init__(device)
        self._device = device
        self._proof = b""
        if device.password:
            self._challenge = f"{device.random.getrandbits(32):08x}"
            digest = hashlib.md5((self._challenge + device.password).encode())  # noqa: S324
            self._proof = digest.hexdigest().encode()

    def greeting(self) -> bytes:
        return f"PJLINK 1 {self._challenge}\r".encode() if self._proof else b"PJLINK 0\r"

    def consume(self) -> None:
        *lines, self.pending = self.pending.split(b"\r")
        for line in lines:
            if not self._consume(line):
                return
        if len(self.pending) > MAX_COMMAND + len(self._proof):
            self.pending = b""

    def _consume(self, line: bytes) -> bool:
        """One line. The proof comes before the first command only (section 5.3)."""
        if self._proof:
            if line[: len(self._proof)].lower() != self._proof:
                self.answer(line.decode(errors="replace"), "PJLINK ERRA", end="\r")
                self.close("not authenticated")
                return False
            line = line[len(self._proof) :]
            self._proof = b""
        text = line.decode(errors="replace")
        reply = self._device.projector.obey(text, time.monotonic())
        if reply is None:
            self.device.journal.write("ignored", connection=self.number, text=text[:MAX_COMMAND])
        else:
            self.answer(text, reply, end="\r")
        return True


def main() -> None:
    """Command line of the simulator."""
    parser = device_arguments("A projector that speaks PJLink class 1.", port=4352, idle=30)
    parser.add_argument("--password", default="", help="ask for this password")
    parser.add_argument("--warm-up", type=float, default=6, metavar="SECONDS")
    parser.add_argument("--cool-down", type=float, default=4, metavar="SECONDS")
    parser.add_argument("--name", default="Projector")
    given = parser.parse_args()
    projector = Projector(warm_up=given.warm_up, cool_down=given.cool_down, name=given.name)
    serve(ProjectorDevice(device_options(given), projector, given.password))


if __name__ == "__main__":
    main()
