"""Delivering values and texts to a driver's handlers, one at a time and in order."""

from __future__ import annotations

import asyncio
import inspect
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any, Final

from placeos.driver.health import Failed, Health
from placeos.driver.schedule import Spawn

MAX_WAITING: Final = 1000  # texts; the oldest are dropped


class Delivery:
    """Calls a handler with what comes, never two calls at once.

    With `newest` a value that was not delivered yet gives way to a newer one: values are
    levels. Otherwise everything is delivered, as long as no more than `MAX_WAITING` wait.
    """

    __slots__ = ("_closed", "_handler", "_health", "_name", "_spawn", "_task", "_waiting")

    def __init__(
        self,
        handler: Callable[[Any], Awaitable[object] | None],
        name: str,
        spawn: Spawn,
        health: Health,
        *,
        newest: bool,
    ) -> None:
        self._handler = handler
        self._name = name
        self._spawn = spawn
        self._health = health
        self._waiting: deque[Any] = deque(maxlen=1 if newest else MAX_WAITING)
        self._task: asyncio.Task[object] | None = None
        self._closed = False

    def __call__(self, value: object) -> None:
        """Deliver `value`, now or after those before it."""
        if self._closed:
            return
        self._waiting.append(value)
        if self._task is None:
            self._task = self._spawn(self._run(), self._name)

    def close(self) -> None:
        """Deliver nothing more; a call that is going on may end."""
        self._closed = True
        self._waiting.clear()

    async def _run(self) -> None:
        while self._waiting:
            value = self._waiting.popleft()
            try:
                waiting = self._handler(value)
                if inspect.isawaitable(waiting):
                    await waiting
            except Failed as error:
                self._health.failed(self._name, error)
            else:
                self._health.well(self._name)
        self._task = None
