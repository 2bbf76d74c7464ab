"""Keeps the values of secret settings out of logs and errors. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

SHORTEST: Final = 4  # characters; hiding shorter ones would make any text unreadable
HIDDEN: Final = "*****"


class Mask:
    """Replaces each secret in a text or in bytes; the longest first, as one may hold another."""

    __slots__ = ("_bytes", "_texts")

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        found = {secret for secret in secrets if len(secret) >= SHORTEST}
        self._texts = sorted(found, key=len, reverse=True)
        self._bytes = [text.encode("utf-8", "surrogatepass") for text in self._texts]

    def __bool__(self) -> bool:
        return bool(self._texts)

    def text(self, text: str) -> str:
        """The text without them."""
        for secret in self._texts:
            text = text.replace(secret, HIDDEN)
        return text

    def data(self, data: bytes) -> bytes:
        """The bytes without them."""
        for secret in self._bytes:
            data = data.replace(secret, HIDDEN.encode())
        return data
