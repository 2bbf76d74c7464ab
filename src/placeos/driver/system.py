"""The system (room) a logic module belongs to, and the other modules in it.

Everything is asked of core at the moment it is used, by name: nothing here can go stale
when the modules of a system are changed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Generator
from typing import Any, Protocol

import msgspec

from placeos.driver.errors import DriverError, RemoteError
from placeos.driver.schema import encode
from placeos.wire.messages import SystemModule, SystemRecord, SystemView


class Platform(Protocol):
    """What a module can ask of core."""

    async def execute(self, place: str, function: str, payload: bytes) -> bytes: ...

    async def read(self, place: str, key: str) -> bytes: ...

    async def system(self, system_id: str) -> SystemView: ...


def split_name(name: str) -> tuple[str, int]:
    """`Display_2` → (`Display`, 2); without a number at its end it is the first."""
    base, _, index = name.rpartition("_")
    return (base, int(index)) if base and index.isascii() and index.isdigit() else (name, 1)


class RemoteModule:
    """Another module. Its functions are coroutines: `await display.power(True)`."""

    __slots__ = ("_label", "_place", "_platform")

    def __init__(self, platform: Platform, place: str, label: str) -> None:
        self._platform = platform
        self._place = place  # a module id, or <system>/<name>/<index>
        self._label = label

    def __getattr__(self, function: str) -> Callable[..., Awaitable[Any]]:
        if function.startswith("__"):
            raise AttributeError(function)
        return lambda *args, **named: self.call(function, *args, **named)

    async def call(self, function: str, /, *args: object, **named: object) -> Any:
        """Call a function by name, for those that are no Python name: `call("power?")`.

        Arguments are all positional or all named. Raises RemoteError.
        """
        if args and named:
            raise TypeError(f"{function}: give all arguments by position, or all by name")
        payload = encode(named if named else list(args))
        try:
            result = await self._platform.execute(self._place, function, payload)
        except RemoteError as error:
            raise RemoteError(
                f"{self._label}.{function}: {error}",
                code=error.code,
                kind=error.kind,
                failure=error.failure,
            ) from error
        return msgspec.json.decode(result)

    async def get(self, key: str, default: Any = None) -> Any:
        """A status value of the module, `default` if there is none."""
        value = msgspec.json.decode(await self._platform.read(self._place, key))
        return default if value is None else value

    def __repr__(self) -> str:
        return f"<{self._label}>"


class RemoteModules:
    """Several modules: `await modules` lists them, a function is called on all at once.

    The result of a call is the list of results; if some fail, the others still run to their
    end, then the first failure is raised.
    """

    __slots__ = ("_find",)

    def __init__(self, find: Callable[[], Awaitable[list[RemoteModule]]]) -> None:
        self._find = find

    def __await__(self) -> Generator[Any, None, list[RemoteModule]]:
        return self._find().__await__()

    def __getattr__(self, function: str) -> Callable[..., Awaitable[list[Any]]]:
        if function.startswith("__"):
            raise AttributeError(function)
        return lambda *args, **named: self.call(function, *args, **named)

    async def call(self, function: str, /, *args: object, **named: object) -> list[Any]:
        """Call a function of all of them by name. Raises RemoteError."""
        modules = await self._find()
        calls = (module.call(function, *args, **named) for module in modules)
        results = await asyncio.gather(*calls, return_exceptions=True)
        for result in results:
            if isinstance(result, BaseException):
                raise result
        return results


class System:
    """`self.system` of a logic module."""

    __slots__ = ("_platform", "record")

    def __init__(self, platform: Platform, record: SystemRecord) -> None:
        self._platform = platform
        self.record = record

    @property
    def id(self) -> str:
        """The id of the system."""
        return self.record.id

    @property
    def name(self) -> str:
        """The name of the system."""
        return self.record.name

    def __getitem__(self, module: str) -> RemoteModule:
        """`system["Display_2"]`; whether it exists shows when it is used."""
        name, index = split_name(module)
        return RemoteModule(self._platform, f"{self.id}/{name}/{index}", f"{name}_{index}")

    def all(self, name: str) -> RemoteModules:
        """All modules of that name, in their order."""
        return self._select(lambda module: module.name == name)

    def implementing(self, what: type | str) -> RemoteModules:
        """All modules with that interface (`Powerable`), or with a function of that name."""
        wanted = what if isinstance(what, str) else getattr(what, "interface_name", "")
        if not wanted:
            raise DriverError(f"{what!r} is no interface")
        return self._select(lambda m: wanted in m.implements or wanted in m.functions)

    async def exists(self, module: str) -> bool:
        """Whether the system has such a module."""
        place = split_name(module)
        return any((m.name, m.index) == place for m in await self._modules())

    async def count(self, name: str) -> int:
        """How many modules of that name the system has."""
        return sum(module.name == name for module in await self._modules())

    async def _modules(self) -> list[SystemModule]:
        return (await self._platform.system(self.id)).modules

    def _select(self, wanted: Callable[[SystemModule], bool]) -> RemoteModules:
        async def find() -> list[RemoteModule]:
            return [
                RemoteModule(self._platform, module.id, f"{module.name}_{module.index}")
                for module in await self._modules()
                if wanted(module)
            ]

        return RemoteModules(find)
