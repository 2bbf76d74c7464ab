"""Extron matrix switchers that speak SIS.

Written from the command and response table in "DXP DVI, DXP DVI Pro, and DXP HDMI Series User
Guide" (Extron 68-1920-01, chapter "SIS Configuration and Control"). Commands of the Simple
Instruction Set need no ending; replies end with CR LF. A tie (input to output) that somebody
else makes, at the front panel for instance, is reported in the words of a reply.
"""

import re
from contextlib import suppress

from placeos.driver import TCP, Driver, DriverError, NoReply, Settings, every
from placeos.driver.interfaces import Switchable, SwitchLayer

SIGNALS = {  # layer: what a command ends with, what its reply ends with
    SwitchLayer.All: ("!", "All"),
    SwitchLayer.Video: ("%", "Vid"),
    SwitchLayer.Audio: ("$", "Aud"),
}
PLANES = {"All": ("video", "audio"), "RGB": ("video",), "Vid": ("video",), "Aud": ("audio",)}
TIE = re.compile(r"(?:Out(\d+) )?In(\d+) (All|RGB|Vid|Aud)")
ERROR = re.compile(r"E\d\d")
ERRORS = {
    "E01": "no such input",
    "E10": "the switcher does not know this command",
    "E11": "no such preset",
    "E12": "no such output",
    "E13": "the value is out of range",
    "E14": "not possible with this configuration",
    "E17": "the switcher ran out of time",
    "E22": "the switcher is busy",
}


class MatrixSettings(Settings):
    outputs: int = 8
    poll_every: float = 10


class Matrix(Driver[MatrixSettings], Switchable):
    module_name = "Switcher"
    transport = TCP(port=23, ends_with=b"\r\n", appends=b"")

    async def login(self) -> None:
        """Let the banner pass (its last line is the date), then see that it answers."""
        with suppress(NoReply):  # behind a serial adapter there is none
            await self.receive(timeout=2, match=lambda line: line.count(b":") == 2)
        self["firmware"] = await self._ask("Q", r"[\d.]+")

    async def connected(self) -> None:
        await self.refresh()

    async def received(self, data: bytes) -> None:
        """Take note of a tie that somebody else made."""
        self._note(data.decode("latin-1"))

    async def switch_to(self, input: int) -> int:
        """Show an input on all outputs; 0 shows none."""
        self._note(await self._command(f"{input}*!", rf"In0*{input} All", name="tie all"))
        self["input"] = input
        return input

    async def switch(self, map: dict[int, list[int]], layer: SwitchLayer | None = None) -> None:
        """Connect inputs with outputs: `{"1": [2, 3]}` shows input 1 on outputs 2 and 3."""
        signals = SIGNALS.get(layer or SwitchLayer.All)
        if signals is None:
            raise DriverError("this switcher has no data signals", code=400)
        for input, outputs in map.items():
            for output in outputs:
                await self._tie(input, output, *signals)

    @every("poll_every")
    async def refresh(self) -> None:
        """Read what is tied to each output."""
        for output in range(1, self.settings.outputs + 1):
            self[f"video{output}"] = int(await self._ask(f"{output}%", r"\d+"))
            self[f"audio{output}"] = int(await self._ask(f"{output}$", r"\d+"))

    async def _tie(self, input: int, output: int, sign: str, signal: str) -> None:
        # a newer choice for an output replaces one that still waits
        name = f"tie {output}{sign}"
        reply = rf"Out0*{output} In0*{input} {signal}"
        self._note(await self._command(f"{input}*{output}{sign}", reply, name=name))

    def _note(self, line: str) -> None:
        """Take a reported tie into the state; without an output it concerns all of them."""
        tie = TIE.fullmatch(line)
        if tie is None:
            return
        output, input, signal = tie.groups()
        outputs = [int(output)] if output else range(1, self.settings.outputs + 1)
        for number in outputs:
            for plane in PLANES[signal]:
                self[f"{plane}{number}"] = int(input)

    async def _ask(self, query: str, reply: str) -> str:
        return await self._command(query, reply, priority=20, timeout=2, retries=1)

    async def _command(
        self,
        command: str,
        reply: str,
        *,
        name: str = "",
        priority: int = 50,
        timeout: float = 5,
        retries: int = 3,
    ) -> str:
        """Send a command and return its reply, which fits a pattern. Raises DriverError."""
        expected = re.compile(f"{reply}|{ERROR.pattern}")
        answer = await self.send(
            command,
            name=name,
            priority=priority,
            timeout=timeout,
            retries=retries,
            match=lambda line: bool(expected.fullmatch(line.decode("latin-1"))),
        )
        text = answer.decode("latin-1")
        if ERROR.fullmatch(text):
            code = 400 if text in ("E01", "E11", "E12", "E13") else 500
            raise DriverError(ERRORS.get(text, f"the switcher answers {text}"), code=code)
        return text
