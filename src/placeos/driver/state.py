"""The live state of a module: JSON values by key, published when their text changes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import msgspec

from placeos.driver.errors import DriverError, sendable
from placeos.driver.schema import encode

MAX_VALUE = 1024 * 1024  # bytes of JSON in one value
MAX_KEY = 1024  # characters of a key

NULL = b"null"
Changes = list[tuple[str, bytes]]
Publish = Callable[[Changes], None]


class State:
    """Changes of one turn of the event loop go out together, the newest value of each key."""

    __slots__ = ("_before", "_loop", "_publish", "_texts")

    def __init__(self, publish: Publish, inherited: Mapping[str, bytes]) -> None:
        self._loop = asyncio.get_running_loop()
        self._publish = publish
        self._texts: dict[str, bytes] = dict(inherited)
        self._before: dict[str, bytes] = {}  # changed keys, with what was last published

    def __contains__(self, key: str) -> bool:
        return key in self._texts

    def keys(self) -> Iterable[str]:
        """The keys that have a value."""
        return self._texts.keys()

    def text(self, key: str) -> bytes:
        """The JSON of a value, `null` if there is none."""
        return self._texts.get(key, NULL)

    def get(self, key: str, default: Any = None) -> Any:
        """A value, or `default`."""
        text = self._texts.get(key)
        return default if text is None else msgspec.json.decode(text)

    def set(self, key: str, value: object) -> None:
        """Set a value; None removes it. Raises DriverError for what JSON cannot carry."""
        text = encode(value)
        if len(text) > MAX_VALUE:
            raise DriverError(f"the value of '{key}' has {len(text)} bytes, more than {MAX_VALUE}")
        old = self._texts.get(key)
        if old is None:
            _check(key)
            old = NULL
        if text == old:
            return
        if not self._before:
            self._loop.call_soon(self.flush)
        self._before.setdefault(key, old)
        if text == NULL:
            del self._texts[key]
        else:
            self._texts[key] = text

    def signal(self, key: str) -> None:
        """Publish the present value (or that there is none) again, without a change."""
        self.flush()
        self._publish([(key, self.text(key))])

    def flush(self) -> None:
        """Publish what changed now, for instance before the answer to a call leaves."""
        before, self._before = self._before, {}
        now = ((key, self._texts.get(key, NULL), old) for key, old in before.items())
        changes = [(key, text) for key, text, old in now if text != old]
        if changes:
            self._publish(changes)


def _check(key: object) -> None:
    if not isinstance(key, str) or not 0 < len(key) <= MAX_KEY or sendable(key) != key:
        raise DriverError(f"a state key is a text of 1 to {MAX_KEY} characters, not {key!r:.100}")
