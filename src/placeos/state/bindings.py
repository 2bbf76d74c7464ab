"""Following live values: the current one once, then every change, through every remap."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from typing import Final

from redis.asyncio import Redis

from placeos.state import keys
from placeos.state.client import UNAVAILABLE, StateUnavailable, checkpoint
from placeos.state.lookups import Lookups
from placeos.state.subscriber import Subscriber

log = logging.getLogger("placeos.state")

OnValue = Callable[[bytes], None]
OnText = Callable[[str], None]

RESYNC: Final = 60.0  # seconds after which every bound value is read again
RETRY: Final = 0.5  # seconds before what could not be read is tried again
MISSING: Final = 3.0  # seconds a vanished value may take to be written again before it is null
BATCH: Final = 500  # values read in one pipeline
_LOOKUP_CHANGE: Final = keys.LOOKUP_CHANGE.encode()
_NULL: Final = b"null"


class _Topic:
    """One followed channel and all who listen to it."""

    __slots__ = (
        "channel",
        "doubted",
        "key",
        "known",
        "listeners",
        "missing",
        "module",
        "moved",
        "value",
    )

    def __init__(self, channel: bytes, module: str, key: str) -> None:
        self.channel = channel
        self.module = module  # empty for a text channel
        self.key = key
        self.listeners: dict[Binding, None] = {}
        self.known = False  # whether `value` was read or heard yet
        self.value: bytes | None = None
        self.moved = False  # a message came since the value was last asked for
        self.doubted = False  # the value was missing, and long enough
        self.missing: asyncio.TimerHandle | None = None


class Binding:
    """One listener. `close()` ends it; nothing is delivered afterwards."""

    __slots__ = ("_owner", "on_value", "target", "topic")

    def __init__(
        self, owner: Bindings, on_value: OnValue, target: tuple[str, str, str] | None
    ) -> None:
        self._owner: Bindings | None = owner
        self.on_value = on_value
        self.target = target  # system, "Name/index", key
        self.topic: _Topic | None = None

    @property
    def is_open(self) -> bool:
        """Whether `close` was not called yet."""
        return self._owner is not None

    def close(self) -> None:
        """Stop delivering. Closing twice does nothing."""
        owner, self._owner = self._owner, None
        if owner is not None:
            owner._drop(self)


class Bindings:
    """All bindings of one process over one pub/sub connection. The owner runs `run()`.

    `on_value` gets the JSON of the value, on the loop: once with the current value if there
    is one, then with every change, `null` when it is removed. After Redis was away every
    value is read again and delivered if it differs from the last one delivered: a listener
    can miss intermediate values but never the last. `on_reconnect` is called whenever the
    connection stands (again).
    """

    def __init__(
        self, redis: Redis, lookups: Lookups, *, on_reconnect: Callable[[], None] | None = None
    ) -> None:
        self._redis = redis
        self._lookups = lookups
        self._on_reconnect = on_reconnect
        self._topics: dict[bytes, _Topic] = {}
        self._systems: dict[str, dict[Binding, None]] = {}
        self._unread: dict[_Topic, None] = {}
        self._unresolved: dict[str, None] = {}
        self._work = asyncio.Event()
        self._subscriber = Subscriber(
            redis,
            on_message=self._message,
            on_live=self._live,
            on_up=self._up,
            on_down=self._down,
        )
        self._subscriber.follow(_LOOKUP_CHANGE)

    @property
    def is_up(self) -> bool:
        """Whether the connection to Redis stands."""
        return self._subscriber.is_up

    async def run(self) -> None:
        """Serve until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._subscriber.run(), name="bindings: subscriber")
            tasks.create_task(self._look_again(), name="bindings: look again")
            tasks.create_task(self._resync(), name="bindings: resync")

    # -- binding ----------------------------------------------------------------------------

    def bind(self, system: str, name: str, index: int, key: str, on_value: OnValue) -> Binding:
        """Follow `key` of whichever module is at (system, name, index), now or later."""
        place = keys.position(name, index)
        binding = Binding(self, on_value, (system, place, key))
        self._systems.setdefault(system, {})[binding] = None
        table = self._lookups.known(system)
        if table is not None:
            self._remap(binding, table)
        else:
            self._unresolved[system] = None
            self._work.set()
        return binding

    def bind_module(self, module_id: str, key: str, on_value: OnValue) -> Binding:
        """Follow `key` of one module (or trigger instance)."""
        binding = Binding(self, on_value, None)
        self._attach(binding, module_id, key)
        return binding

    def monitor(self, channel: str, on_text: OnText) -> Binding:
        """Follow the text channel `placeos/<channel>`."""
        binding = Binding(self, lambda data: on_text(data.decode("utf-8", "replace")), None)
        topic = self._topic(keys.channel(channel).encode(), "", "")
        topic.listeners[binding] = None
        binding.topic = topic
        return binding

    def _topic(self, channel: bytes, module: str, key: str) -> _Topic:
        topic = self._topics.get(channel)
        if topic is None:
            topic = self._topics[channel] = _Topic(channel, module, key)
            self._subscriber.follow(channel)
        return topic

    def _attach(self, binding: Binding, module: str, key: str) -> None:
        topic = self._topic(keys.status_channel(module, key).encode(), module, key)
        topic.listeners[binding] = None
        binding.topic = topic
        if topic.known and topic.value is not None:
            # Not from inside `bind`: the caller does not hold the binding yet.
            asyncio.get_running_loop().call_soon(self._first, binding, topic, topic.value)

    def _first(self, binding: Binding, topic: _Topic, value: bytes) -> None:
        if binding.topic is topic and topic.value is value:
            _deliver(binding, value)

    def _detach(self, binding: Binding) -> None:
        topic, binding.topic = binding.topic, None
        if topic is None:
            return
        topic.listeners.pop(binding, None)
        if not topic.listeners:
            del self._topics[topic.channel]
            self._unread.pop(topic, None)
            if topic.missing is not None:
                topic.missing.cancel()
            self._subscriber.forget(topic.channel)

    def _drop(self, binding: Binding) -> None:
        self._detach(binding)
        if binding.target is not None:
            bindings = self._systems.get(binding.target[0])
            if bindings is not None:
                bindings.pop(binding, None)
                if not bindings:
                    del self._systems[binding.target[0]]

    # -- what the connection tells ------------------------------------------------------------

    def _up(self) -> None:
        if self._on_reconnect is not None:
            self._on_reconnect()

    def _down(self) -> None:
        self._lookups.unfollow()

    def _live(self, channel: bytes) -> None:
        if channel == _LOOKUP_CHANGE:
            self._lookups.follow()
            self._unresolved.update(dict.fromkeys(self._systems))
        else:
            topic = self._topics.get(channel)
            if topic is None or not topic.module:
                return
            self._unread[topic] = None
        self._work.set()

    def _message(self, channel: bytes, data: bytes) -> None:
        topic = self._topics.get(channel)
        if topic is not None:
            self._heard(topic, data)
        elif channel == _LOOKUP_CHANGE:
            system = data.decode("utf-8", "replace")
            self._lookups.invalidate(system)
            if system in self._systems:
                self._unresolved[system] = None
                self._work.set()

    def _heard(self, topic: _Topic, data: bytes) -> None:
        topic.moved = topic.known = True
        topic.doubted = False
        topic.value = None if data == _NULL else data
        for binding in tuple(topic.listeners):
            if binding.topic is topic:
                _deliver(binding, data)

    # -- looking again ------------------------------------------------------------------------

    async def _resync(self) -> None:
        while True:
            await asyncio.sleep(RESYNC)
            self._unread.update((topic, None) for topic in self._topics.values() if topic.module)
            self._work.set()

    async def _look_again(self) -> None:
        while True:
            checkpoint()
            await self._work.wait()
            self._work.clear()
            try:
                await self._resolve_systems()
                await self._read_values()
            except (StateUnavailable, *UNAVAILABLE):
                await asyncio.sleep(RETRY)
                self._work.set()

    async def _resolve_systems(self) -> None:
        while self._unresolved:
            system = next(iter(self._unresolved))
            del self._unresolved[system]  # first: an announcement meanwhile counts again
            try:
                table = await self._lookups.modules(system)
            except BaseException:
                self._unresolved[system] = None
                raise
            for binding in tuple(self._systems.get(system, ())):
                self._remap(binding, table)

    def _remap(self, binding: Binding, table: Mapping[str, str]) -> None:
        if binding.target is None or not binding.is_open:
            return
        _, place, key = binding.target
        module = table.get(place)
        present = binding.topic.module if binding.topic is not None else None
        if module == present:
            return
        self._detach(binding)
        if module is not None:
            self._attach(binding, module, key)

    async def _read_values(self) -> None:
        while self._unread:
            topics = list(self._unread)[:BATCH]
            for topic in topics:
                del self._unread[topic]
                topic.moved = False
            try:
                async with self._redis.pipeline(transaction=False) as pipe:
                    for topic in topics:
                        pipe.hget(keys.status(topic.module), topic.key)
                    values: list[bytes | None] = await pipe.execute()
            except BaseException:
                self._unread.update(dict.fromkeys(topics))
                raise
            for topic, value in zip(topics, values, strict=True):
                # A message that came meanwhile is at least as new, or a newer one follows.
                if topic.listeners and not topic.moved:
                    self._looked(topic, value)

    def _looked(self, topic: _Topic, value: bytes | None) -> None:
        if value is not None:
            topic.doubted = False
            if topic.value != value:
                self._heard(topic, value)
        elif topic.value is None:
            topic.known = True
        elif topic.doubted:
            self._heard(topic, _NULL)
        elif topic.missing is None:
            # Most likely Redis came back empty and the core is about to write it again.
            loop = asyncio.get_running_loop()
            topic.missing = loop.call_later(MISSING, self._doubt, topic)

    def _doubt(self, topic: _Topic) -> None:
        topic.missing = None
        if topic.listeners:
            topic.doubted = True
            self._unread[topic] = None
            self._work.set()


def _deliver(binding: Binding, value: bytes) -> None:
    try:
        binding.on_value(value)
    except Exception:
        log.exception("a listener failed")
