"""What to do next, as a pure function of what should be and what is.

`plan` looks at one moment and names only steps that can begin now. The executor carries them
out, looks at the new moment and asks again; start, stop, update, crash, new driver version and
move between nodes are all this one loop. A module is moved to another driver version by
stopping it where it is, as soon as the new version's process is ready, and starting it there.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass
from enum import Enum, auto


class Phase(Enum):
    """Of a driver process."""

    LOADING = auto()
    """Forked or about to be; includes the pause after a failure."""
    READY = auto()


@dataclass(frozen=True, slots=True)
class Want:
    """A module as it should run: in the process of `version`, with `payload`."""

    version: str
    payload: bytes


@dataclass(frozen=True, slots=True)
class Have:
    """A module as it is: in the process of `version`, last given `payload`.

    `busy`: a step for it is under way, or one failed and its pause is not over.
    """

    version: str
    payload: bytes
    busy: bool = False


@dataclass(frozen=True, slots=True)
class Launch:
    """Fork the process of a driver version."""

    version: str


@dataclass(frozen=True, slots=True)
class End:
    """End the process of a driver version: no module needs it."""

    version: str


@dataclass(frozen=True, slots=True)
class Start:
    """Start a module that does not run."""

    module: str
    want: Want


@dataclass(frozen=True, slots=True)
class Update:
    """Give a running module its new settings or address, in the process where it is."""

    module: str
    version: str
    payload: bytes


@dataclass(frozen=True, slots=True)
class Stop:
    """Stop a running module."""

    module: str
    version: str


Step = Launch | End | Start | Update | Stop


def plan(
    desired: Mapping[str, Want],
    actual: Mapping[str, Have],
    processes: Mapping[str, Phase],
    modules: Iterable[str] | None = None,
) -> list[Step]:
    """The steps that can begin now, for `modules` or for all.

    Steps of different modules are independent of each other.
    """
    if modules is None:
        modules = {**desired, **actual}
    steps: list[Step] = []
    launched: set[str] = set()
    for module in modules:
        want = desired.get(module)
        if want is not None and want.version not in processes and want.version not in launched:
            launched.add(want.version)
            steps.append(Launch(want.version))
        step = _module_step(module, want, actual.get(module), processes)
        if step is not None:
            steps.append(step)
    return steps


def _module_step(
    module: str, want: Want | None, have: Have | None, processes: Mapping[str, Phase]
) -> Step | None:
    if have is not None and have.busy:
        return None
    if want is None:
        return Stop(module, have.version) if have is not None else None
    ready = processes.get(want.version) is Phase.READY
    if have is None:
        return Start(module, want) if ready else None
    if have.version != want.version and ready:
        return Stop(module, have.version)
    if have.payload != want.payload and processes.get(have.version) is Phase.READY:
        return Update(module, have.version, want.payload)
    return None


def leftovers(needed: Container[str], processes: Iterable[str]) -> list[Step]:
    """Processes to end: no module runs in them or should."""
    return [End(version) for version in processes if version not in needed]
