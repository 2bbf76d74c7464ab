"""Lighting: areas, their scenes and levels."""

from __future__ import annotations

from abc import abstractmethod

from placeos.driver.interfaces.base import NAMESPACE, Interface, Record, outcome, published
from placeos.driver.marks import function


@published("Lighting::Area")
class Area(Record):
    """A part of a lighting system. Which of the members count depends on the system.

    `str(area)` is the state key of its scene: `area3_2_dim_255` for id 3, channel 2,
    component `dim` and join 255.
    """

    id: int | str | None = None
    channel: int | None = None
    component: str | None = None
    join: int | None = None

    def __str__(self) -> str:
        parts = (self.channel, self.component, self.join)
        rest = "".join(f"_{part}" for part in parts if part is not None)
        return f"area{'' if self.id is None else self.id}{rest}"

    @property
    def level_key(self) -> str:
        """The state key of its level."""
        return f"{self}_level"

    def join_with(self, area: Area) -> Area:
        """This area with the joins (a bit each) of both."""
        if self.join is None and area.join is None:
            return self
        join = (self.join or 0) | (area.join or 0)
        return Area(id=self.id, channel=self.channel, component=self.component, join=join)


class LightingScene(Interface):
    """Recalls scenes. Times are in milliseconds; without an area the driver's own is meant."""

    interface_name = f"{NAMESPACE}::Lighting::Scene"
    optional_state_keys = {"area<area>": "the scene of an area: `self[str(area)] = scene`"}

    @abstractmethod
    async def set_lighting_scene(
        self, scene: int, area: Area | None = None, fade_time: int = 1000
    ) -> object:
        """Recall a scene."""

    @abstractmethod
    @function(name="lighting_scene?")
    async def lighting_scene(self, area: Area | None = None) -> object:
        """Ask for the present scene."""


class LightingLevel(Interface):
    """Dims. Levels go from 0 to 100, times are in milliseconds."""

    interface_name = f"{NAMESPACE}::Lighting::Level"
    optional_state_keys = {
        "area<area>_level": "the level of an area: `self[area.level_key] = level`"
    }

    @abstractmethod
    async def set_lighting_level(
        self, level: float, area: Area | None = None, fade_time: int = 1000
    ) -> object:
        """Dim to a level."""

    @abstractmethod
    @function(name="lighting_level?")
    async def lighting_level(self, area: Area | None = None) -> object:
        """Ask for the present level."""

    async def set_lighting(
        self, state: bool, area: Area | None = None, fade_time: int = 1000
    ) -> object:
        """Switch fully on, or off."""
        level = 100.0 if state else 0.0
        return await outcome(self.set_lighting_level(level, area, fade_time))
