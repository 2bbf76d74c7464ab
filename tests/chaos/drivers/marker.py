"""The driver of the chaos suite: says who it is, beats, and leaves marks."""

from __future__ import annotations

import os

from placeos.driver import TCP, Driver, every


class Marker(Driver):
    """One simulated device of `devices.py`."""

    module_name = "Marker"
    transport = TCP(port=1, ends_with=b"\n")

    async def connected(self) -> None:
        """The first line of a connection names the process that holds it."""
        await self.send(f"HELLO {os.getpid()}")

    @every(1)
    async def beat(self) -> None:
        """A sign of life that changes nothing."""
        self["beat"] = (await self.send("BEAT", name="beat", retries=0)).decode()

    async def mark(self, token: str) -> str:
        """Leave a mark: the device must see each token once. Never sent again."""
        answer = (await self.send(f"MARK {token}", retries=0)).decode()
        self["last_mark"] = token
        return answer

    async def slow_mark(self, token: str, seconds: float) -> str:
        """A mark whose answer the device holds back for some time."""
        answer = await self.send(f"HOLD {seconds} {token}", timeout=seconds + 5, retries=0)
        self["last_mark"] = token
        return answer.decode()
