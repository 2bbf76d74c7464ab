"""The decorators of a driver: what they say is only noted here, and read when it is loaded."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Final, TypeVar

from placeos.driver.cron import Cron, zone_of
from placeos.wire.frame import Clearance

F = TypeVar("F", bound=Callable[..., object])

_ATTRIBUTE: Final = "__placeos_marks__"


@dataclass(frozen=True)
class Every:
    """`@every`: seconds, or the name of the setting that holds them."""

    period: float | str
    offline: bool = False


@dataclass(frozen=True)
class OnCalendar:
    """`@cron`: a crontab line and the name of its zone; empty: that of the system or machine."""

    spec: str
    zone: str = ""
    offline: bool = False


@dataclass(frozen=True)
class Marks:
    """All that decorators said about one method."""

    name: str = ""
    clearance: Clearance = Clearance.USER
    timeout: float = 0.0
    every: tuple[Every, ...] = ()
    cron: tuple[OnCalendar, ...] = ()
    on: tuple[tuple[str, str], ...] = field(default=())  # (module or "", key)
    rescues: tuple[type[Exception], ...] = ()


def marks_of(method: object) -> Marks:
    """The marks of a method; empty ones if it has none."""
    found = getattr(method, _ATTRIBUTE, None)
    return found if isinstance(found, Marks) else Marks()


def _mark(method: F, marks: Marks) -> F:
    setattr(method, _ATTRIBUTE, marks)
    return method


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def function(*, name: str) -> Callable[[F], F]:
    """Publish a method under a name that is no Python name: `@function(name="power?")`."""
    return lambda method: _mark(method, replace(marks_of(method), name=name))


def support(method: F) -> F:
    """Only support staff and administrators may call this function."""
    return _mark(method, replace(marks_of(method), clearance=Clearance.SUPPORT))


def administrator(method: F) -> F:
    """Only administrators may call this function."""
    return _mark(method, replace(marks_of(method), clearance=Clearance.ADMINISTRATOR))


def timeout(seconds: float) -> Callable[[F], F]:
    """Cancel a call of this function after `seconds`, if its caller gave it no less."""
    if not (_is_number(seconds) and seconds > 0):
        raise TypeError(f"@timeout: give seconds, such as @timeout(30), and not {seconds!r}")
    return lambda method: _mark(method, replace(marks_of(method), timeout=seconds))


def every(period: float | str, *, offline: bool = False) -> Callable[[F], F]:
    """Run a method again and again: `@every(30)`, or `@every("poll_every")` for a setting.

    The period is in seconds and counts from start to start; a run never overlaps the one
    before. A setting of 0 or less switches it off. It pauses while the device is not
    connected, unless `offline` is true.
    """
    if not (_is_number(period) or isinstance(period, str)):
        raise TypeError(
            f'@every: give seconds or a setting, such as @every(30) or @every("poll_every"), '
            f"and not {period!r}"
        )

    def decorate(method: F) -> F:
        marks = marks_of(method)
        return _mark(method, replace(marks, every=(*marks.every, Every(period, offline))))

    return decorate


def cron(spec: str, *, zone: str = "", offline: bool = False) -> Callable[[F], F]:
    """Run a method by the calendar: `@cron("0 7 * * 1-5", zone="Europe/Berlin")`.

    The fields are minute, hour, day of month, month and day of week. The zone is that of the
    module's system, else of the machine, if not given. It does not run while the device is not
    connected, unless `offline` is true, and what was missed is not made up for.
    """
    Cron(spec)
    if zone:
        zone_of(zone)

    def decorate(method: F) -> F:
        marks = marks_of(method)
        return _mark(method, replace(marks, cron=(*marks.cron, OnCalendar(spec, zone, offline))))

    return decorate


def on(module: str, key: str | None = None) -> Callable[[F], F]:
    """Call a method with the present value, and then with every new one.

    `@on("Display_1", "power")` follows a module of the own system, whichever that is at the
    time; `@on("power")` follows the own state. None: the value has gone (of the own state also:
    there is none yet).
    """
    if not isinstance(module, str) or not isinstance(key, str | None):
        raise TypeError(
            f'@on: give a key, or a module and a key, such as @on("Display_1", "power"), '
            f"and not {module!r}"
        )
    place = ("", module) if key is None else (module, key)

    def decorate(method: F) -> F:
        marks = marks_of(method)
        return _mark(method, replace(marks, on=(*marks.on, place)))

    return decorate


def rescues(*errors: type[Exception]) -> Callable[[F], F]:
    """Answer a call with what this method makes of an error: `@rescues(NoReply)`.

    It is called with an error of one of these classes that a function was about to end with,
    and what it returns is the result instead (what it raises, the error). Of several such
    methods the first that fits is taken. Within the driver errors travel as ever.
    """
    for error in errors:
        if not (isinstance(error, type) and issubclass(error, Exception)):
            raise TypeError(f"@rescues: {error!r} is no class of exceptions")
    if not errors:
        raise TypeError("@rescues: give at least one class of exceptions")

    def decorate(method: F) -> F:
        marks = marks_of(method)
        return _mark(method, replace(marks, rescues=(*marks.rescues, *errors)))

    return decorate
