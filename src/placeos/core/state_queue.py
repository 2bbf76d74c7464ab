"""What waits to be written to Redis, within bounds. Pure bookkeeping."""

from __future__ import annotations

from typing import Final

from placeos.core.claims import Claim
from placeos.core.state_store import Change

BATCH: Final = 100  # changes in one script: more would hold up our loop, and Redis
BATCH_BYTES: Final = 1024 * 1024  # of their values; a batch has at least one change
COALESCE: Final = 1_000  # waiting changes; past twice as many the newest of each key is kept
MAX_WAITING: Final = 16 * 1024 * 1024  # bytes of waiting changes, likewise
MAX_TEXTS: Final = (1_000, 16 * 1024 * 1024)  # waiting texts of channels, their bytes; more go

Text = tuple[str, str]


class StateQueue:
    """Changes and texts in the order in which they were made."""

    def __init__(self) -> None:
        self._changes: list[Change] = []
        self._bytes = 0
        self._texts: list[Text] = []
        self._texts_bytes = 0

    def __bool__(self) -> bool:
        return bool(self._changes or self._texts)

    def modules(self) -> set[str]:
        """Modules that something waits of."""
        return {claim.module for claim, _, _ in self._changes}

    def put(self, claim: Claim, key: str, value: bytes) -> None:
        """A change, made under a claim."""
        self._changes.append((claim, key, value))
        self._bytes += len(value)

    def put_text(self, channel: str, text: str) -> bool:
        """A text for a channel; False: there was no room."""
        most, size = MAX_TEXTS
        if len(self._texts) >= most or self._texts_bytes + len(text) > size:
            return False
        self._texts_bytes += len(text)
        self._texts.append((channel, text))
        return True

    def overflow(self) -> set[Claim]:
        """Past its bounds keep the newest of each key. If that many stay, nothing does: then
        what changed is to be written whole, and these are the modules."""
        if len(self._changes) <= 2 * COALESCE and self._bytes <= MAX_WAITING:
            return set()
        newest = {(claim, key): value for claim, key, value in self._changes}
        waiting = sum(map(len, newest.values()))
        if len(newest) > COALESCE or waiting > MAX_WAITING // 2:
            return self.clear()
        self._changes = [(claim, key, value) for (claim, key), value in newest.items()]
        self._bytes = waiting
        return set()

    def take(self) -> tuple[list[Change], list[Text]]:
        """The next batch."""
        count = size = 0
        for _, _, value in self._changes[:BATCH]:
            size += len(value)
            if count and size > BATCH_BYTES:
                break
            count += 1
        changes, self._changes = self._changes[:count], self._changes[count:]
        self._bytes -= sum(len(value) for _, _, value in changes)
        texts, self._texts, self._texts_bytes = self._texts, [], 0
        return changes, texts

    def drop(self, module: str) -> None:
        """Nothing of this module is to be written any more."""
        self._changes = [change for change in self._changes if change[0].module != module]
        self._bytes = sum(len(value) for _, _, value in self._changes)

    def clear(self) -> set[Claim]:
        """Forget the changes; whose they were."""
        claims = {claim for claim, _, _ in self._changes}
        self._changes, self._bytes = [], 0
        return claims

    def clear_texts(self) -> None:
        """Forget the texts."""
        self._texts, self._texts_bytes = [], 0
