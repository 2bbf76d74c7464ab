"""The demo building as data: zones, rooms, drivers and the devices in each room."""

from __future__ import annotations

from dataclasses import dataclass

ORGANISATION = "Demo Organisation"
BUILDING = "Demo Building"

REPOSITORY_NAME = "Drivers that ship"
REPOSITORY_FOLDER = "drivers"


@dataclass(frozen=True)
class DriverFile:
    """A driver of the repository that ships; `role` as the API counts it."""

    file_name: str
    name: str
    module_name: str
    role: int
    description: str
    default_port: int | None = None


DISPLAY = DriverFile(
    "pjlink.py", "PJLink projector", "Display", 1, "Projectors that speak PJLink class 1.", 4352
)
SWITCHER = DriverFile(
    "extron_matrix.py", "Extron matrix", "Switcher", 1, "Matrix switchers that speak SIS.", 23
)
ROOM_LOGIC = DriverFile(
    "meeting_room.py", "Meeting room", "System", 99, "Starts a meeting room and shuts it down."
)
DRIVERS = (DISPLAY, SWITCHER, ROOM_LOGIC)


@dataclass(frozen=True)
class Room:
    """One room: a projector, a switcher and the logic that starts and shuts it.

    Times are seconds, 0 is never; they are how far the simulated devices are from perfect.
    """

    name: str
    level: str
    capacity: int
    password: str = ""
    warm_up: float = 6.0
    drop_every: float = 0.0
    panel_every: float = 0.0

    @property
    def number(self) -> str:
        """`1.01` of `Room 1.01`."""
        return self.name.rpartition(" ")[2]


LEVELS = ("Level 1", "Level 2")

ROOMS = (
    Room("Room 1.01", "Level 1", capacity=8),
    Room("Room 1.02", "Level 1", capacity=12, password="projector-1.02"),  # noqa: S106 - a demo
    Room("Room 1.03", "Level 1", capacity=4, drop_every=120),
    Room("Room 2.01", "Level 2", capacity=20, warm_up=10, panel_every=90),
    Room("Room 2.02", "Level 2", capacity=6, drop_every=300),
)


def device_name(room: Room, driver: DriverFile) -> str:
    """The name of a simulated device, as in its log and in `ports.json`."""
    return f"{driver.module_name.lower()}-{room.number}"


def module_slug(driver: DriverFile) -> str:
    """What the room calls the module, e.g. `Display_1`."""
    return f"{driver.module_name}_1"
