"""Relays and furniture."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING

from placeos.driver.interfaces.base import NAMESPACE, Interface, driver_of, outcome

if TYPE_CHECKING:
    from placeos.driver.schedule import Timer


class ElectricalRelay(Interface):
    """Switches contacts."""

    interface_name = f"{NAMESPACE}::ElectricalRelay"
    optional_state_keys = {"relay<index>": "whether a relay is closed"}

    __pulses: dict[int, Timer] | None = None

    @abstractmethod
    async def relay(self, state: bool, index: int = 0) -> object:
        """Close a relay, or open it."""

    async def pulse(
        self, period: int = 1000, index: int = 0, times: int = 1, initial_state: bool = False
    ) -> object:
        """Leave the state of rest for `period` milliseconds and come back, several `times`.

        Returns once the relay has left it. The rest goes on without the caller: a relay never
        stays out because who pulsed it has gone. A new pulse takes the place of an old one.
        """
        if times <= 0:
            return None
        timers = self.__end_pulse(index)
        left = 2 * times - 1  # steps after the first one; the odd ones lead back

        async def step() -> None:
            nonlocal left
            state = initial_state if left % 2 else not initial_state
            left -= 1
            if left == 0:
                self.__end_pulse(index)
            await outcome(self.relay(state, index))

        try:
            await outcome(self.relay(not initial_state, index))
        except BaseException:
            left = 1  # it may have left all the same
            raise
        finally:
            self.__end_pulse(index)  # another one that began meanwhile
            timers[index] = driver_of(self).schedule.every(period / 1000, step)
        return None

    def __end_pulse(self, index: int) -> dict[int, Timer]:
        if self.__pulses is None:
            self.__pulses = {}
        if index in self.__pulses:
            self.__pulses.pop(index).cancel()
        return self.__pulses


class DeskControl(Interface):
    """Desks whose height can be set. Heights are in millimetres."""

    interface_name = f"{NAMESPACE}::DeskControl"

    @abstractmethod
    async def set_desk_height(self, desk_key: str, desk_height: int) -> object:
        """Raise or lower a desk."""

    @abstractmethod
    async def get_desk_height(self, desk_key: str) -> int | None:
        """The height of a desk; None if it is not known."""

    @abstractmethod
    async def set_desk_power(self, desk_key: str, desk_power: bool | None) -> object:
        """Switch a desk's outlets on or off; None leaves that to the desk."""

    @abstractmethod
    async def get_desk_power(self, desk_key: str) -> bool | None:
        """Whether a desk's outlets are on; None if the desk decides."""
