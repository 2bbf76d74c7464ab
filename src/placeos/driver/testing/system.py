"""The system of a tested module: the other modules in it are played."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import ClassVar

import msgspec

from placeos.driver.calls import Reply
from placeos.driver.errors import BadArguments, raised
from placeos.driver.functions import Function, functions_of
from placeos.driver.remote import split_name
from placeos.driver.schema import encode
from placeos.wire.errors import CallError, Failure
from placeos.wire.messages import SystemModule, SystemRecord, SystemView

SYSTEM: SystemRecord = SystemRecord(id="sys-tested", name="Tested")

Modules = Mapping[str, Sequence["FakeModule"]]
"""The modules of a system by name; those of one name in their order."""


class FakeModule:
    """A module of the tested module's system: items are its state, public methods its functions.

    Arguments are checked and converted by the methods' annotations, as those of a real
    module. It implements the standard interfaces among its base classes, and what
    `implements` names.
    """

    implements: ClassVar[Sequence[str]] = ()

    def __init__(self, **state: object) -> None:
        self.state: dict[str, object] = dict(state)
        self.calls: list[tuple[str, list[object]]] = []
        """What the tested module called, with its arguments as they came."""
        self.changed: Callable[[], None] = lambda: None
        self._functions = functions_of(type(self), dir(FakeModule))

    def __getitem__(self, key: str) -> object:
        return self.state.get(key)

    def __setitem__(self, key: str, value: object) -> None:
        self.state[key] = value
        self.changed()

    async def run(self, function: str, payload: bytes) -> bytes:
        """Call a function and remember the call; its result as JSON. Raises CallError."""
        found = self._functions.get(function)
        if found is None:
            raise CallError(Failure.FUNCTION_NOT_FOUND, f"could not find function {function}")
        given = msgspec.json.decode(payload or b"[]")
        self.calls.append((function, given if isinstance(given, list) else list(given.values())))
        try:
            result = await self._call(found, payload)
            return encode(result.value if isinstance(result, Reply) else result)
        except BadArguments as error:
            raise CallError(Failure.BAD_ARGUMENTS, str(error)) from error
        except CallError:
            raise
        except Exception as error:
            raise raised(error) from error

    async def _call(self, function: Function, payload: bytes) -> object:
        positional, named = function.arguments(payload)
        result = getattr(self, function.method)(*positional, **named)
        return await result if inspect.isawaitable(result) else result

    def describe(self, id: str, name: str, index: int) -> SystemModule:
        """What the tested module is told of it."""
        interfaces = [
            base.__dict__["interface_name"]
            for base in type(self).__mro__
            if base.__dict__.get("interface_name")
        ]
        return SystemModule(id, name, index, [*self.implements, *interfaces], list(self._functions))


class FakeSystem:
    """The system; what the tested module follows in it stays followed through every change."""

    def __init__(self, modules: Modules, record: SystemRecord = SYSTEM) -> None:
        self.record = record
        self.changed: Callable[[], None] = lambda: None
        self._modules: dict[tuple[str, int], FakeModule] = {}
        self.replace(modules)

    def __getitem__(self, module: str) -> FakeModule:
        """`system["Display_2"]`. Raises KeyError."""
        return self._modules[split_name(module)]

    def replace(self, modules: Modules) -> None:
        """Make these the modules of the system, in this order."""
        self._modules = {
            (name, index): module
            for name, several in modules.items()
            for index, module in enumerate(several, 1)
        }
        for module in self._modules.values():
            module.changed = lambda: self.changed()
        self.changed()

    def value(self, name: str, index: int, key: str) -> bytes:
        """A status as JSON; `null` without one."""
        module = self._modules.get((name, index))
        return encode(None if module is None else module[key])

    def find(self, place: str) -> FakeModule | None:
        """The module at `<system>/<name>/<index>`, or with that id."""
        name, _, index = place.removeprefix("mod-").rpartition("/")
        name = name.removeprefix(f"{self.record.id}/")
        return self._modules.get((name, int(index))) if index.isdigit() else None

    def view(self) -> SystemView:
        """What the tested module is told when it asks."""
        modules = [
            module.describe(f"mod-{name}/{index}", name, index)
            for (name, index), module in self._modules.items()
        ]
        return SystemView(self.record, modules)
