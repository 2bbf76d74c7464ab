"""Checking passwords off the event loop, a few at a time: each takes 64 MiB and 50 ms."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from placeos.auth.oauth import OAuthError
from placeos.model.passwords import hash_password, needs_rehash, verify_password

AT_ONCE: Final = 2
MAX_WAITING: Final = 64


class PasswordChecker:
    """A bounded pool of threads. `close` waits for what is running."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(AT_ONCE, thread_name_prefix="password")
        self._waiting = 0

    async def check(self, stored: str | None, password: str) -> tuple[bool, str | None]:
        """Whether the password is right, and its new hash if the stored one is dated.

        Takes as long without a stored hash. Raises OAuthError when too many wait.
        """
        if self._waiting >= MAX_WAITING:
            message = "too many sign-ins at once; try again"
            raise OAuthError("temporarily_unavailable", message, retry_after=2)
        self._waiting += 1
        try:
            loop = asyncio.get_running_loop()
            return await loop.run_in_executor(self._pool, _check, stored, password)
        finally:
            self._waiting -= 1

    def close(self) -> None:
        """Stop the threads."""
        self._pool.shutdown(wait=True, cancel_futures=True)


def _check(stored: str | None, password: str) -> tuple[bool, str | None]:
    right = verify_password(stored, password)
    dated = right and stored is not None and needs_rehash(stored)
    return right, hash_password(password) if dated else None
