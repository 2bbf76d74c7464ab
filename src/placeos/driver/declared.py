"""What the decorators of a driver declare, put to work for one module."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from placeos.driver.follow import Subscriptions
from placeos.driver.loader import Blueprint
from placeos.driver.schedule import Schedule, Timer
from placeos.wire.messages import SystemRecord


class Declared:
    """The timers of `@every` and `@cron`, and the subscriptions of `@on`.

    `setting` gives the present value of a setting.
    """

    __slots__ = ("_driver", "_handlers", "_subscriptions", "_timers")

    def __init__(
        self,
        blueprint: Blueprint,
        driver: object,
        schedule: Schedule,
        subscriptions: Subscriptions,
        setting: Callable[[str], Any],
    ) -> None:
        self._driver = driver
        self._handlers = blueprint.handlers
        self._subscriptions = subscriptions
        self._timers: list[tuple[Timer, bool]] = []
        for method, entry in blueprint.every:
            timer = schedule.declare_every(getattr(driver, method), _seconds(entry.period, setting))
            self._timers.append((timer, entry.offline))
        for method, line in blueprint.cron:
            timer = schedule.declare_cron(getattr(driver, method), line.spec, line.zone)
            self._timers.append((timer, line.offline))

    def resume(self, *, online: bool, others: bool = True) -> None:
        """Begin anew: those that need the device if it is `online`, the `others` too."""
        for timer, offline in self._timers:
            if others if offline else online:
                timer.resume()

    def pause(self) -> None:
        """The device is gone: those that need it stop."""
        for timer, offline in self._timers:
            if not offline:
                timer.pause()

    def follow(self, system: SystemRecord | None) -> list[str]:
        """Follow what `@on` names, in that system, and no longer what was followed before.
        Returns what cannot be followed, in words."""
        self._subscriptions.clear()
        problems = []
        for handler in self._handlers:
            method: Callable[..., Any] = getattr(self._driver, handler.method)
            call = method if handler.takes_value else _without_value(method)
            if not handler.module:
                self._subscriptions.own(handler.key, call, handler.method)
            elif system is None:
                problems.append(f"{handler.method}: the module does not belong to a system")
            else:
                self._subscriptions.other(
                    system.id, handler.module, handler.key, call, handler.method
                )
        return problems


def _seconds(period: float | str, setting: Callable[[str], Any]) -> Callable[[], float]:
    return lambda: float((setting(period) if isinstance(period, str) else period) or 0)


def _without_value(method: Callable[[], Any]) -> Callable[[object], Any]:
    return lambda _value: method()
