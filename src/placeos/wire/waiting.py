"""Waiting for the answer to a request, whose time stands still while its module is handed over."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from placeos.wire.errors import CallError, Failure
from placeos.wire.frame import Command, Header

PATIENCE: Final = 8.0  # seconds a call waits, altogether, for a module that is not there yet

OnReply = Callable[[Header, bytes], None]


class Patient:
    """Takes the answer to a request, and hears before it that the request has to wait."""

    __slots__ = ()

    def __call__(self, answer: Header, body: bytes) -> None:
        """The REPLY or ERROR frame."""
        raise NotImplementedError

    def waits(self, seconds: float) -> None:
        """The next `seconds` at most do not count against the deadline; negative: give back."""
        raise NotImplementedError


def tell(on_reply: OnReply, seconds: float) -> None:
    """Say that a request waits, to a taker of its answer that wants to know."""
    if isinstance(on_reply, Patient):
        on_reply.waits(seconds)


class Grace:
    """Seconds by which a deadline moves: never more than `PATIENCE`, whoever asks for it."""

    __slots__ = ("seconds",)

    def __init__(self) -> None:
        self.seconds = 0.0

    def add(self, seconds: float) -> float:
        """By how much the deadline moves now."""
        before = self.seconds
        self.seconds = min(max(before + seconds, 0.0), PATIENCE)
        return self.seconds - before


class _Answer(Patient):
    """Awaits one answer within a time-out."""

    __slots__ = ("future", "grace", "scope")

    def __init__(self, scope: asyncio.Timeout) -> None:
        self.future: asyncio.Future[tuple[Header, bytes]] = (
            asyncio.get_running_loop().create_future()
        )
        self.grace = Grace()
        self.scope = scope

    def __call__(self, answer: Header, body: bytes) -> None:
        if self.future.done():
            return
        if answer.command == Command.ERROR:
            error = CallError.parse(answer.error, answer.code, body)
            error.waited = answer.waited
            self.future.set_exception(error)
        else:
            self.future.set_result((answer, body))

    def waits(self, seconds: float) -> None:
        when = self.scope.when()
        if when is not None and not self.future.done() and not self.scope.expired():
            self.scope.reschedule(when + self.grace.add(seconds))


async def wait_for_answer(
    ask: Callable[[OnReply], Callable[[], None]], timeout: float | None
) -> tuple[Header, bytes]:
    """Wait for the answer to a call; `ask` makes it and returns what cancels it.

    Raises CallError: that of an ERROR answer, or timed_out after `timeout` seconds, beside
    those for which the call waited for its module.
    """
    try:
        async with asyncio.timeout(timeout) as scope:
            answer = _Answer(scope)
            cancel = ask(answer)
            try:
                return await answer.future
            finally:
                cancel()
    except TimeoutError:
        raise CallError(Failure.TIMED_OUT, f"no answer within {timeout:g} s") from None
