"""Cameras, and anything else that moves."""

from __future__ import annotations

from abc import abstractmethod
from enum import Enum
from typing import TYPE_CHECKING, Final

from placeos.driver.interfaces.base import (
    NAMESPACE,
    Index,
    Interface,
    driver_of,
    outcome,
    published,
)

if TYPE_CHECKING:
    from placeos.driver.schedule import Timer

ZOOM_STEP: Final = 5.0
ZOOM_EVERY: Final = 0.25  # seconds


class Stoppable(Interface):
    """Can be halted."""

    interface_name = f"{NAMESPACE}::Stoppable"

    @abstractmethod
    async def stop(self, index: Index = 0, emergency: bool = False) -> object:
        """Halt what moves."""


@published("Moveable::MoveablePosition")
class MoveablePosition(Enum):
    """Where `move` goes."""

    Open = 0
    Close = 1
    Up = 2
    Down = 3
    Left = 4
    Right = 5
    In = 6
    Out = 7


class Moveable(Interface):
    """Moves: blinds, screens, lifts, cameras."""

    interface_name = f"{NAMESPACE}::Moveable"
    optional_state_keys = {
        "position<index>": "where it is, or was last sent",
        "moving<index>": "whether it moves",
    }

    @abstractmethod
    async def move(self, position: MoveablePosition, index: Index = 0) -> object:
        """Move to a position, or in a direction until it is stopped."""


@published("Zoomable::ZoomDirection")
class ZoomDirection(Enum):
    """What `zoom` does."""

    In = 0
    Out = 1
    Stop = 2


class Zoomable(Interface):
    """Zooms. Positions go from 0 (wide) to 100 (close)."""

    interface_name = f"{NAMESPACE}::Zoomable"
    state_keys = {"zoom": "the position, 0 to 100"}
    optional_state_keys = {"zoom<index>": "the same for one of several"}

    __zooming: dict[Index, Timer] | None = None

    @abstractmethod
    async def zoom_to(self, position: float, auto_focus: bool = True, index: Index = 0) -> object:
        """Zoom to a position, 0 to 100."""

    async def zoom(self, direction: ZoomDirection, index: Index = 0) -> object:
        """Zoom in steps until Stop, until either end is reached, or until a step fails."""
        if self.__zooming is None:
            self.__zooming = {}
        timers = self.__zooming
        if index in timers:
            timers.pop(index).cancel()
        if direction is ZoomDirection.Stop:
            return None
        step = ZOOM_STEP if direction is ZoomDirection.In else -ZOOM_STEP
        position = self.__position(index)

        async def take_step() -> None:
            nonlocal position
            position = min(100.0, max(0.0, position + step))
            try:
                await outcome(self.zoom_to(position, index=index))
            except Exception:
                end()
                raise
            if position in (0.0, 100.0):
                end()

        def end() -> None:
            if timers.get(index) is timer:
                del timers[index]
            timer.cancel()

        timer = driver_of(self).schedule.every(ZOOM_EVERY, take_step, immediate=True)
        timers[index] = timer
        return None

    def __position(self, index: Index) -> float:
        driver = driver_of(self)
        position = driver.get(f"zoom{index}")
        if position is None:
            position = driver.get("zoom", 0)
        return float(position)


@published("Camera::TiltDirection")
class TiltDirection(Enum):
    """What `tilt` does."""

    Down = 0
    Up = 1
    Stop = 2


@published("Camera::PanDirection")
class PanDirection(Enum):
    """What `pan` does."""

    Left = 0
    Right = 1
    Stop = 2


_TILT: Final = {
    TiltDirection.Down: MoveablePosition.Down,
    TiltDirection.Up: MoveablePosition.Up,
}
_PAN: Final = {
    PanDirection.Left: MoveablePosition.Left,
    PanDirection.Right: MoveablePosition.Right,
}


class Camera(Stoppable, Moveable, Zoomable):
    """A camera that pans, tilts, zooms and remembers positions."""

    interface_name = f"{NAMESPACE}::Camera"
    state_keys = {
        "pan_range": "lowest and highest pan position",
        "pan_speed": "lowest and highest pan speed",
        "tilt_range": "lowest and highest tilt position",
        "tilt_speed": "lowest and highest tilt speed",
        "zoom_range": "lowest and highest zoom position",
        "has_discrete_zoom": "whether it can be sent to a zoom position",
    }
    optional_state_keys = {
        "presets": "names of the stored positions",
        "inverted": "whether it hangs upside down",
        "focus_in": "limit of the focus",
        "focus_out": "limit of the focus",
        "has_discrete_focus": "whether it can be sent to a focus position",
        "iris_open": "limit of the iris",
        "iris_close": "limit of the iris",
        "has_discrete_iris": "whether it can be sent to an iris position",
    }

    @abstractmethod
    async def joystick(self, pan_speed: float, tilt_speed: float, index: Index = 0) -> object:
        """Move at a speed from -100 (left, down) to 100 (right, up) until it is stopped."""

    @abstractmethod
    async def recall(self, position: str, index: Index = 0) -> object:
        """Go to a stored position."""

    @abstractmethod
    async def save_position(self, name: str, index: Index = 0) -> object:
        """Store the present position."""

    @abstractmethod
    async def remove_position(self, name: str, index: Index = 0) -> object:
        """Forget a stored position."""

    async def tilt(self, direction: TiltDirection, index: Index = 0) -> object:
        """Tilt until Stop."""
        if direction is TiltDirection.Stop:
            return await outcome(self.stop(index))
        return await outcome(self.move(_TILT[direction], index))

    async def pan(self, direction: PanDirection, index: Index = 0) -> object:
        """Pan until Stop."""
        if direction is PanDirection.Stop:
            return await outcome(self.stop(index))
        return await outcome(self.move(_PAN[direction], index))
