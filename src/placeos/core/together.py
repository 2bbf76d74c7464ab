"""Modules that move to other cores stop at the same moment.

One that has stopped is without a core until the last one has, everywhere. So those without
calls stay at their devices until the calls of the others have ended.
"""

from __future__ import annotations

import asyncio


class Together:
    """Knows which modules that are to move may have calls under way."""

    def __init__(self) -> None:
        self._expected: set[str] = set()
        self._deciding = False
        self._ready = asyncio.Event()

    def deciding(self) -> None:
        """It is being decided which modules move: more may come."""
        self._deciding = True
        self._ready.clear()

    def decided(self) -> None:
        """That is all of them."""
        self._deciding = False
        self._look()

    def expect(self, module: str) -> None:
        """This one moves; its calls are to end first."""
        self._expected.add(module)
        self._ready.clear()

    def ended(self, module: str) -> None:
        """It has no calls any more, or stays, or is gone."""
        self._expected.discard(module)
        self._look()

    async def wait(self, timeout: float) -> None:
        """Wait until no call is under way in any module that moves, at most so many seconds."""
        try:
            async with asyncio.timeout(max(0.0, timeout)):
                await self._ready.wait()
        except TimeoutError:
            pass

    def _look(self) -> None:
        if not self._deciding and not self._expected:
            self._ready.set()
