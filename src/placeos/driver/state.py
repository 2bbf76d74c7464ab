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
MAX_STATE = 8 * 1024 * 1024  # bytes of all keys and values of a module, as `Held` counts them

NULL = b"null"
Changes = list[tuple[str, bytes]]
Publish = Callable[[Changes], None]


class Held(dict[str, bytes]):
    """The values of one module as JSON, by key, and whether there is room for more of them.

    The whole state has to fit into one frame: a module that starts anew is given it.
    """

    def __init__(self, texts: Mapping[str, bytes] = {}) -> None:
        super().__init__()
        self._size = 0
        for key, text in texts.items():
            self.put(key, text)

    def put(self, key: str, text: bytes) -> bool:
        """Set a value, or with JSON null remove it. False: there is no room for it.

        That a device is connected can always be said.
        """
        old = self.get(key)
        size = self._size - (_cost(key, old) if old is not None else 0)
        if text != NULL:
            size += _cost(key, text)
            if size > MAX_STATE and size > self._size and key != "connected":
                return False
            self[key] = text
        else:
            self.pop(key, None)
        self._size = size
        return True


def _cost(key: str, text: bytes) -> int:
    return len(text) + 6 * len(key) + 32  # a character takes up to 6 bytes of JSON


class State:
    """Changes of one turn of the event loop go out together, the newest value of each key."""

    __slots__ = ("_before", "_loop", "_publish", "_texts", "_unconfirmed")

    def __init__(
        self, publish: Publish, inherited: Mapping[str, bytes], *, confirm: bool = False
    ) -> None:
        """With `confirm` the first value of each inherited key is published in any case."""
        self._loop = asyncio.get_running_loop()
        self._publish = publish
        self._texts = Held(inherited)
        self._before: dict[str, bytes] = {}  # changed keys, with what was last published
        self._unconfirmed = set(inherited) if confirm else set[str]()

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
        if key in self._unconfirmed:
            before = b""  # which no value is: it is published in any case
        elif text == old:
            return
        else:
            before = old
        if not self._texts.put(key, text):
            raise DriverError(
                f"no room for '{key}': a module's state has at most {MAX_STATE} bytes"
            )
        if not self._before:
            self._loop.call_soon(self.flush)
        self._before.setdefault(key, before)
        self._unconfirmed.discard(key)

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
