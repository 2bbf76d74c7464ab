"""Sensors, their readings and where they are."""

from __future__ import annotations

from abc import abstractmethod

import msgspec

from placeos.driver.interfaces.base import (
    NAMESPACE,
    Interface,
    LowerSnake,
    Record,
    published,
)


@published("Sensor::SensorType")
class SensorType(LowerSnake):
    """What is measured. Values are in units of the SI, but temperatures in °C, levels and
    humidity in percent, volumes in litres, and flow in litres a second."""

    Temperature = 0
    DeviceTemp = 1
    Humidity = 2
    Illuminance = 3
    Pressure = 4
    Trigger = 5
    Presence = 6
    Switch = 7
    Level = 8
    Flow = 9
    Counter = 10
    PeopleCount = 11
    QueueSize = 12
    Acceleration = 13
    Speed = 14
    Roll = 15
    Pitch = 16
    Yaw = 17
    Compass = 18
    Current = 19
    Voltage = 20
    ElectricalResistance = 21
    Power = 22
    Energy = 23
    Capacitance = 24
    Inductance = 25
    Conductance = 26
    MagneticFlux = 27
    MagneticFluxDensity = 28
    Radiation = 29
    Distance = 30
    Area = 31
    SoundPressure = 32
    Force = 33
    Frequency = 34
    Mass = 35
    Momentum = 36
    TimePeriod = 37
    Volume = 38
    Acidity = 39
    AirQuality = 40
    PPM = 41


@published("Sensor::Status")
class SensorStatus(LowerSnake):
    """How a sensor is."""

    Normal = 0
    Alarm = 1
    Fault = 2
    OutOfService = 3


class GeoLocation(Record, tag_field="type", tag="geo"):
    """A place on earth."""

    lat: float
    lon: float


class MapLocation(Record, tag_field="type", tag="map"):
    """A place on a map, in the sensor system's own coordinates."""

    x: float
    y: float


@published("Sensor::Detail")
class SensorDetail(Record, kw_only=True):
    """A reading. Times are unix seconds. What one of these records has no member for goes into
    `extra`, and appears beside the others."""

    type: SensorType
    value: float
    last_seen: int
    mac: str
    id: str | None = None  # not needed where the device measures one thing only
    status: SensorStatus = SensorStatus.Normal
    modifier: str | None = None
    name: str | None = None
    raw: str | None = None  # the original reading for people, say 88.2°F
    unit: str | None = None
    limit_high: float | None = None
    limit_low: float | None = None
    resolution: float | None = None
    module_id: str | None = None
    binding: str | None = None  # the state key to follow
    loc: GeoLocation | MapLocation | None = None
    # where it is in the building, filled in by who knows
    location: str = "sensor"
    x: float | None = None
    y: float | None = None
    lat: float | None = None
    lon: float | None = None
    s2_cell_id: str | None = None
    building: str | None = None
    level: str | None = None
    extra: dict[str, object] = msgspec.field(default_factory=dict)

    def __json__(self) -> dict[str, object]:
        """Called by `schema.plain`."""
        values = super().__json__()
        del values["extra"]
        return self.extra | values


class Sensor(Interface):
    """Measures something, in one place or in many."""

    interface_name = f"{NAMESPACE}::Sensor"

    @abstractmethod
    async def sensor(self, mac: str, id: str | None = None) -> SensorDetail | None:
        """The reading of one sensor, None if there is no such sensor."""

    @abstractmethod
    async def sensors(
        self, type: str | None = None, mac: str | None = None, zone_id: str | None = None
    ) -> list[SensorDetail]:
        """All readings; those of a type, of a device, of a zone (if the driver knows zones)."""
