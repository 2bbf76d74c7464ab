"""Other modules as a driver uses them: calls that leave at once, status values, subscriptions.

Everything is asked of core at the moment it is used, by name: nothing here can go stale when
the modules of a system are changed.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine, Generator, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any, NoReturn, Protocol, TypeVar

import msgspec

from placeos.driver.errors import DriverError, RemoteError
from placeos.driver.functions import argument_name
from placeos.driver.schedule import Spawn
from placeos.driver.schema import encode
from placeos.wire.errors import Failure
from placeos.wire.messages import SystemModule, SystemView

if TYPE_CHECKING:
    from placeos.driver.follow import End, Handler, Subscriptions

T = TypeVar("T")

Interfaces = type | str | Iterable[type | str]
"""Interfaces such as `Powerable`, their published names, or names of functions; all of them."""


class Platform(Protocol):
    """What a module can ask of core (see upstream.py), waiting `seconds` at most: as long as
    the present call has left if not given."""

    async def execute(
        self, place: str, function: str, payload: bytes, seconds: float | None = None
    ) -> bytes: ...

    async def read(self, place: str, key: str, seconds: float | None = None) -> bytes: ...

    async def system(self, system_id: str, seconds: float | None = None) -> SystemView: ...


@dataclass(frozen=True, slots=True)
class Asker:
    """The module that uses a proxy: its way to core, its tasks, its log, what it follows."""

    platform: Platform
    spawn: Spawn
    log: logging.Logger
    subscriptions: Subscriptions


@dataclass(frozen=True, slots=True)
class Place:
    """`Display_2` of a system, whichever module that is at the time."""

    system: str
    name: str
    index: int

    def __str__(self) -> str:
        return f"{self.name}_{self.index}"


def split_name(name: str) -> tuple[str, int]:
    """`Display_2` → (`Display`, 2); without a number at its end it is the first."""
    base, _, index = name.rpartition("_")
    return (base, int(index)) if base and index.isascii() and index.isdigit() else (name, 1)


def interface_names(what: Interfaces) -> list[str]:
    """The published names. Raises DriverError for what is no interface."""
    if isinstance(what, Iterable) and not isinstance(what, type | str):
        return [name for one in what for name in interface_names(one)]
    name = what if isinstance(what, str) else getattr(what, "interface_name", "")
    if not isinstance(name, str) or not name:
        raise DriverError(f"{what!r} is no interface")
    return [name]


def offers(module: SystemModule, wanted: list[str]) -> bool:
    """Whether a module has all these interfaces or functions."""
    return all(name in module.implements or name in module.functions for name in wanted)


class RemoteCall(Coroutine[Any, Any, T]):
    """A call on its way: it leaves at once, awaited or not.

    Await it for the result; it can be given to whatever takes a coroutine (`gather`, a task
    group, `self.spawn`). A failure that nobody awaits is logged. It ends with its module.
    """

    __slots__ = ("_awaited", "_iterator", "_log", "_task")

    def __init__(self, task: asyncio.Task[Any], log: logging.Logger) -> None:
        self._task = task
        self._log = log
        self._awaited = False
        self._iterator: Generator[Any, Any, T] | None = None

    def cancel(self) -> None:
        """Give it up: what has not been sent to a device yet is not sent any more."""
        self._awaited = True
        self._task.cancel()

    def __await__(self) -> Generator[Any, Any, T]:
        self._awaited = True
        return self._task.__await__()

    def send(self, value: Any, /) -> Any:
        """As of a coroutine."""
        if self._iterator is None:
            self._iterator = self.__await__()
        return self._iterator.send(value)

    def throw(self, typ: Any, val: object = None, tb: TracebackType | None = None, /) -> Any:
        """As of a coroutine: who waits for it was cancelled before it began to wait."""
        if self._iterator is None:
            self.cancel()
            _raise(typ, val)
        return self._iterator.throw(typ, val, tb)

    def close(self) -> None:
        """As of a coroutine."""
        if self._iterator is not None:
            self._iterator.close()

    def __del__(self) -> None:
        if not self._awaited and not self._task.get_loop().is_closed():
            self._task.add_done_callback(partial(_tell_unread, self._log))

    def __repr__(self) -> str:
        return f"<{self._task.get_name()}>"


def _raise(typ: Any, val: object) -> NoReturn:
    raise typ if val is None else val  # type: ignore[misc]


def _tell_unread(log: logging.Logger, task: asyncio.Task[Any]) -> None:
    error = None if task.cancelled() else task.exception()
    if error is not None:
        log.warning("%s (nothing waited for the result)", error)


class RemoteModule:
    """Another module. A function of it is called like a method of its own:
    `await display.power(True)`.

    `Display_1` is looked up when it is used, so that a proxy can be kept.
    """

    __slots__ = ("_asker", "_module_id", "_place", "_seconds")

    def __init__(
        self, asker: Asker, place: Place, module_id: str = "", seconds: float | None = None
    ) -> None:
        self._asker = asker
        self._place = place
        self._module_id = module_id  # empty: whichever is at the place
        self._seconds = seconds

    @property
    def module_name(self) -> str:
        """`Display`."""
        return self._place.name

    @property
    def index(self) -> int:
        """1 for `Display_1`."""
        return self._place.index

    async def module_id(self) -> str | None:
        """The id of the module; None if there is none at present."""
        found = await self._find()
        return None if found is None else found.id

    def within(self, seconds: float) -> RemoteModule:
        """The same module, for calls that may take so long:
        `await display.within(3).power(True)`.

        Without it a call may take as long as is left of the one that is being answered, 30
        seconds outside of any. Who waited too long gets a RemoteError with code 408.
        """
        return RemoteModule(self._asker, self._place, self._module_id, checked(seconds))

    def __getattr__(self, function: str) -> Callable[..., RemoteCall[Any]]:
        if function.startswith("__"):
            raise AttributeError(function)
        return lambda *args, **named: self.call(function, *args, **named)

    def call(self, function: str, /, *args: object, **named: object) -> RemoteCall[Any]:
        """Call a function by name, for those that are no Python name (`call("power?")`), or
        that are called as something here.

        Arguments are all positional or all named, else TypeError. Raises RemoteError when it
        is awaited, naming module and function; `code` is that of the module's error.
        """
        return self.begin(function, arguments(function, args, named))

    def begin(self, function: str, payload: bytes) -> RemoteCall[Any]:
        """Call it with arguments that are JSON already."""
        job = self.execute(function, payload)
        task = self._asker.spawn(job, f"{self._place}.{function}", report=False)
        return RemoteCall(task, self._asker.log)

    async def execute(self, function: str, payload: bytes) -> Any:
        """The call itself. Raises RemoteError."""
        ask = self._asker.platform.execute
        try:
            return msgspec.json.decode(await ask(self._where(), function, payload, self._seconds))
        except RemoteError as error:
            raise self._named(function, error) from error

    async def get(self, key: str, default: Any = None) -> Any:
        """A status value of the module, `default` if there is none, or no such module."""
        try:
            text = await self._asker.platform.read(self._where(), key, self._seconds)
        except RemoteError as error:
            if error.failure == Failure.MODULE_NOT_FOUND:
                return default
            raise self._named(key, error) from error
        value = msgspec.json.decode(text)
        return default if value is None else value

    def subscribe(self, key: str, handler: Handler) -> End:
        """Call `handler` with the value of a status as soon as there is one and with every new
        one, whichever module is at this place of the system at the time; with None when it has
        gone. Returns what ends it."""
        return self._asker.subscriptions.other(self._place.system, str(self._place), key, handler)

    async def implements(self, what: Interfaces) -> bool:
        """Whether it has that interface (`Powerable`), or a function of that name."""
        wanted = interface_names(what)
        found = await self._find()
        return found is not None and offers(found, wanted)

    def _named(self, what: str, error: RemoteError) -> RemoteError:
        """The same error, naming the module and what was asked of it."""
        return RemoteError(
            f"{self._place}.{what}: {error}",
            code=error.code,
            kind=error.kind,
            failure=error.failure,
        )

    def _where(self) -> str:
        place = self._place
        return self._module_id or f"{place.system}/{place.name}/{place.index}"

    async def _find(self) -> SystemModule | None:
        view = await self._asker.platform.system(self._place.system, self._seconds)
        return next((m for m in view.modules if self._is(m)), None)

    def _is(self, module: SystemModule) -> bool:
        if self._module_id:
            return module.id == self._module_id
        return (module.name, module.index) == (self._place.name, self._place.index)

    def __repr__(self) -> str:
        return f"<{self._place}>"


Find = Callable[[float | None], Awaitable[list[RemoteModule]]]


class RemoteModules:
    """Several modules: `await modules` lists them, a function is called on all at once.

    The result of a call is the list of results; if some fail, the others still run to their
    end, then the first failure is raised.
    """

    __slots__ = ("_asker", "_find", "_label", "_seconds")

    def __init__(self, asker: Asker, label: str, find: Find, seconds: float | None = None) -> None:
        self._asker = asker
        self._label = label
        self._find = find
        self._seconds = seconds

    def within(self, seconds: float) -> RemoteModules:
        """The same modules, for calls that may take so long (see `RemoteModule.within`)."""
        return RemoteModules(self._asker, self._label, self._find, checked(seconds))

    def __await__(self) -> Generator[Any, Any, list[RemoteModule]]:
        return self._find(self._seconds).__await__()

    def __getattr__(self, function: str) -> Callable[..., RemoteCall[list[Any]]]:
        if function.startswith("__"):
            raise AttributeError(function)
        return lambda *args, **named: self.call(function, *args, **named)

    def call(self, function: str, /, *args: object, **named: object) -> RemoteCall[list[Any]]:
        """Call a function of all of them by name. Raises RemoteError when it is awaited."""
        job = self._execute(function, arguments(function, args, named))
        task = self._asker.spawn(job, f"{self._label}.{function}", report=False)
        return RemoteCall(task, self._asker.log)

    async def _execute(self, function: str, payload: bytes) -> list[Any]:
        modules = await self._find(self._seconds)
        calls = (module.execute(function, payload) for module in modules)
        results = await asyncio.gather(*calls, return_exceptions=True)
        for result in results:
            if isinstance(result, BaseException):
                raise result
        return results

    def __iter__(self) -> Iterator[RemoteModule]:
        raise TypeError(f"await them first: `for module in await …{self._label}`")

    def __repr__(self) -> str:
        return f"<{self._label}>"


def arguments(function: str, args: tuple[object, ...], named: dict[str, object]) -> bytes:
    """The arguments of a call as JSON. Raises TypeError for a mixture, DriverError for what
    JSON cannot carry."""
    if args and named:
        raise TypeError(f"{function}: give all arguments by position, or all by name")
    return encode({argument_name(name): value for name, value in named.items()} or list(args))


def checked(seconds: float) -> float:
    """A time-out. Raises ValueError unless it is above 0."""
    if not seconds > 0:
        raise ValueError(f"within({seconds!r}): expected a number of seconds above 0")
    return seconds
