"""A matrix switcher that speaks Extron's SIS: `python -m placeos.local.demo.extron`.

Written from the command and response table of the "DXP DVI, DXP DVI Pro, and DXP HDMI Series
User Guide" (Extron 68-1920-01, chapter "SIS Configuration and Control"). Commands need no
terminator, except those that begin with Escape; each reply ends with CR LF. A tie is reported
to every connection, whoever made it, so a controller also hears what is done at the front panel.
"""

from __future__ import annotations

import re
import time
from collections.abc import Mapping

from placeos.local.demo.arguments import device_arguments, device_options
from placeos.local.demo.device import Device, Options, Session, serve

E_INPUT, E_COMMAND, E_PRESET, E_OUTPUT, E_PARAMETER = "E01", "E10", "E11", "E12", "E13"

_SIGNALS = {"!": "All", "&": "RGB", "%": "Vid", "$": "Aud"}
_PLANES = {"!": ("video", "audio"), "&": ("video",), "%": ("video",), "$": ("audio",)}
_SIMPLE = re.compile(rb"([0-9*]*)([^0-9*])")
_TIE = re.compile(r"(\d{1,3})\*(\d{1,3})([!&%$])")
_PRESETS = 32


class Matrix:
    """The switcher itself: commands in, replies out."""

    def __init__(self, inputs: int, outputs: int) -> None:
        self.inputs = inputs
        self.outputs = outputs
        self.ties = {plane: [0] * outputs for plane in ("video", "audio")}
        self.mutes = {plane: [0] * outputs for plane in ("video", "audio")}
        self.presets: dict[int, dict[str, list[int]]] = {}
        self.panel_locked = 0

    def obey(self, command: str) -> tuple[str, bool]:
        """The reply to one command, without CR LF, and whether everybody hears it."""
        if command.startswith("\x1b"):
            return self._escape(command[1:])
        numbers, letter = command[:-1], command[-1].upper()
        if letter in _SIGNALS:
            return self._signal(numbers, letter)
        match letter:
            case "B" | "Z":
                return self._mute(numbers, letter)
            case "," | ".":
                return self._preset(numbers, letter)
            case "X" if numbers in ("0", "1"):
                self.panel_locked = int(numbers)
                return f"Exe{numbers}", True
            case "X" if not numbers:
                return str(self.panel_locked), False
            case "I" if not numbers:
                return f"V{self.inputs}X{self.outputs} A{self.inputs}X{self.outputs}", False
            case "N" if not numbers:
                return "60-1113-01", False
            case "Q" if not numbers:
                return "1.06", False
            case _:
                return E_COMMAND, False

    # ---- ties

    def _signal(self, numbers: str, letter: str) -> tuple[str, bool]:
        match numbers.split("*"):
            case [output] if output:
                return self._read(int(output), letter), False
            case [source, ""] if source:
                return self._tie_all(int(source), letter)
            case [source, output] if source and output:
                return self._tie(int(source), int(output), letter)
            case _:
                return E_COMMAND, False

    def _read(self, output: int, letter: str) -> str:
        if not 1 <= output <= self.outputs:
            return E_OUTPUT
        return str(self.ties[_PLANES[letter][0]][output - 1])

    def _tie(self, source: int, output: int, letter: str) -> tuple[str, bool]:
        if source > self.inputs:
            return E_INPUT, False
        if not 1 <= output <= self.outputs:
            return E_OUTPUT, False
        for plane in _PLANES[letter]:
            self.ties[plane][output - 1] = source
        return f"Out{output} In{source} {_SIGNALS[letter]}", True

    def _tie_all(self, source: int, letter: str) -> tuple[str, bool]:
        if source > self.inputs:
            return E_INPUT, False
        for plane in _PLANES[letter]:
            self.ties[plane] = [source] * self.outputs
        return f"In{source} {_SIGNALS[letter]}", True

    # ---- the rest

    def _mute(self, numbers: str, letter: str) -> tuple[str, bool]:
        plane, word = ("video", "Vmt") if letter == "B" else ("audio", "Amt")
        match numbers.split("*"):
            case [output, ("0" | "1") as state] if output:
                if not 1 <= int(output) <= self.outputs:
                    return E_OUTPUT, False
                self.mutes[plane][int(output) - 1] = int(state)
                return f"{word}{int(output)}*{state}", True
            case ["", ("0" | "1") as state]:
                self.mutes[plane] = [int(state)] * self.outputs
                return f"{word}{state}", True
            case [output] if output:
                if not 1 <= int(output) <= self.outputs:
                    return E_OUTPUT, False
                return str(self.mutes[plane][int(output) - 1]), False
            case [_, _]:
                return E_PARAMETER, False
            case _:
                return E_COMMAND, False

    def _preset(self, numbers: str, letter: str) -> tuple[str, bool]:
        if not numbers.isdigit():
            return E_COMMAND, False
        number = int(numbers)
        if not 1 <= number <= _PRESETS:
            return E_PRESET, False
        if letter == ",":
            self.presets[number] = {plane: list(ties) for plane, ties in self.ties.items()}
            return f"Spr{number}", True
        if number not in self.presets:
            return E_PRESET, False
        self.ties = {plane: list(ties) for plane, ties in self.presets[number].items()}
        return f"Rpr{number}", True

    def _escape(self, text: str) -> tuple[str, bool]:
        """Commands that begin with Escape: several ties at once, and the reset of everything."""
        if text.upper().startswith(("Q", "+Q")):
            return self._quick(text.upper().lstrip("+").removeprefix("Q"))
        if text.upper() == "ZXXX":
            self.ties = {plane: [0] * self.outputs for plane in self.ties}
            self.mutes = {plane: [0] * self.outputs for plane in self.mutes}
            self.presets.clear()
            return "Zpx", True
        return E_COMMAND, False

    def _quick(self, text: str) -> tuple[str, bool]:
        if not text or _TIE.sub("", text):
            return E_COMMAND, False
        ties = [(int(source), int(out), letter) for source, out, letter in _TIE.findall(text)]
        for source, output, _ in ties:
            if source > self.inputs:
                return E_INPUT, False
            if not 1 <= output <= self.outputs:
                return E_OUTPUT, False
        for source, output, letter in ties:
            self._tie(source, output, letter)
        return "Qik", True


def split(pending: bytes) -> tuple[list[str], bytes]:
    """Complete commands in what was received, and the rest that still waits for its end."""
    commands: list[str] = []
    while pending := pending.lstrip(b"\r\n "):
        if pending.startswith(b"\x1b"):
            end = re.search(rb"[\r|]", pending)
            if end is None:
                break
            commands.append(pending[: end.start()].decode("latin-1"))
            pending = pending[end.end() :]
        elif found := _SIMPLE.match(pending):
            commands.append(found[0].decode("latin-1"))
            pending = pending[found.end() :]
        else:
            break
    return commands, pending


class MatrixDevice(Device):
    """The switcher on a socket."""

    def __init__(self, options: Options, matrix: Matrix, panel_every: float = 0.0) -> None:
        super().__init__(options)
        self.matrix = matrix
        self._panel_every = panel_every

    def session(self) -> Session:
        return MatrixSession(self)

    def state(self) -> Mapping[str, object]:
        return {"video": self.matrix.ties["video"], "audio": self.matrix.ties["audio"]}

    def started(self) -> None:
        self._schedule_panel()

    def panel(self, words: list[str]) -> bool:
        """`tie 3 1`: someone ties input 3 to output 1 at the front panel."""
        match words:
            case ["tie", source, output]:
                reply, heard = self.matrix.obey(f"{int(source)}*{int(output)}!")
            case _:
                return False
        if heard:
            self.tell(reply)
        self.journal.write("panel", text=" ".join(words), reply=reply)
        return heard

    def tell(self, reply: str, *, but: Session | None = None) -> None:
        """Report a change to all connections but one."""
        for session in self.sessions:
            if session is not but:
                session.send(f"{reply}\r\n".encode())

    def _schedule_panel(self) -> None:
        if self._panel_every > 0:
            spread = self.random.uniform(0.5, 1.5)
            self.later("panel", self._panel_every * spread, self._use_panel)

    def _use_panel(self) -> None:
        # the upper half of the outputs, so that the rooms' own outputs stay as they were set
        output = self.random.randint(self.matrix.outputs // 2 + 1, self.matrix.outputs)
        self.panel(["tie", str(self.random.randint(0, self.matrix.inputs)), str(output)])
        self._schedule_panel()


class MatrixSession(Session):
    """One connection to the switcher."""

    def __init__(self, device: MatrixDevice) -> None:
        super().__init__(device)
        self._device = device

    def greeting(self) -> bytes:
        today = time.strftime("%a, %d %b %Y %H:%M:%S")
        product = f"DXP {self._device.matrix.inputs}{self._device.matrix.outputs} HDMI"
        copyright_line = f"(c) Copyright 2011, Extron Electronics, {product}, V1.06, 60-1113-01"
        return f"\r\n{copyright_line}\r\n{today}\r\n".encode()

    def consume(self) -> None:
        commands, self.pending = split(self.pending)
        for command in commands:
            reply, heard = self._device.matrix.obey(command)
            self.answer(command, reply, end="\r\n")
            if heard:
                self._device.tell(reply, but=self)


def main() -> None:
    """Command line of the simulator."""
    parser = device_arguments("A matrix switcher that speaks Extron SIS.", port=23, idle=300)
    parser.add_argument("--inputs", type=int, default=8)
    parser.add_argument("--outputs", type=int, default=8)
    parser.add_argument(
        "--panel-every", type=float, default=0, metavar="SECONDS", help="someone ties by hand"
    )
    given = parser.parse_args()
    matrix = Matrix(given.inputs, given.outputs)
    serve(MatrixDevice(device_options(given), matrix, given.panel_every))


if __name__ == "__main__":
    main()
