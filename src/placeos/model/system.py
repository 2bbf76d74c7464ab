"""A system: a room, an ordered list of modules in an ordered list of zones."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from enum import StrEnum
from typing import Annotated

from placeos.model.module import Module
from placeos.model.rules import Entity, Failure, Int, Rule
from placeos.model.text import is_timezone, is_uri

_Short = Annotated[str | None, Rule(text=True, max_length=255)]
_Uri = Annotated[str | None, Rule(strip=True, max_length=2048)]


class Orientation(StrEnum):
    """How a sign hangs."""

    UNSPECIFIED = "unspecified"
    LANDSCAPE = "landscape"
    PORTRAIT = "portrait"
    SQUARE = "square"


class System(Entity, kw_only=True):
    """One system. The order of `zones` decides settings, that of `modules` their indexes."""

    name: Annotated[str, Rule(required=True, text=True, strip=True, max_length=255)]
    description: Annotated[str, Rule(html=True, max_length=100_000)] = ""
    features: Annotated[list[str], Rule(text=True, max_length=1000, max_entry=255)] = []
    email: Annotated[str | None, Rule(strip=True, lower=True, max_length=254)] = None
    bookable: bool = False
    public: bool = False
    display_name: _Short = None
    code: _Short = None
    type: _Short = None
    map_id: _Short = None
    capacity: Int = 0
    approval: bool = False
    images: list[str] = []
    security_groups: list[str] = []
    timezone: Annotated[str | None, Rule(max_length=255)] = None
    support_url: Annotated[str, Rule(strip=True, max_length=2048)] = ""
    timetable_url: _Uri = None
    camera_url: _Uri = None
    room_booking_url: _Uri = None
    camera_snapshot_urls: list[str] = []
    installed_ui_devices: Int = 0
    zones: Annotated[list[str], Rule(max_entry=255)] = []
    modules: Annotated[list[str], Rule(max_entry=255)] = []
    orientation: Orientation = Orientation.UNSPECIFIED
    playlists: list[str] = []
    signage: bool = False
    signage_last_seen: Annotated[int, Rule(read_only=True)] = 0
    playlist_item_id: Annotated[str | None, Rule(max_length=255)] = None
    space_config: Annotated[dict[str, object], Rule(max_length=100_000)] = {}
    version: Annotated[int, Rule(read_only=True)] = 0

    def tidy(self) -> None:
        """Drop blanks and doubles; blank addresses become null."""
        self.email = self.email or None
        self.timezone = self.timezone or None
        self.timetable_url = self.timetable_url or None
        self.camera_url = self.camera_url or None
        self.room_booking_url = self.room_booking_url or None
        self.images = [image for image in self.images if image.strip()]
        urls = self.camera_snapshot_urls
        self.camera_snapshot_urls = [url for url in urls if url.strip()]
        self.features = list(dict.fromkeys(self.features))
        self.zones = list(dict.fromkeys(self.zones))
        self.modules = list(dict.fromkeys(self.modules))

    def failures(self) -> Iterator[Failure]:
        """Addresses and the time zone must be valid."""
        for field in ("support_url", "timetable_url", "camera_url", "room_booking_url"):
            value = getattr(self, field)
            if value and not is_uri(value):
                yield Failure(field, "is an invalid URI")
        if not all(is_uri(url) for url in self.camera_snapshot_urls):
            yield Failure("camera_snapshot_urls", "contains an invalid URI")
        if self.timezone is not None and not is_timezone(self.timezone):
            yield Failure("timezone", "is not a known time zone")


def lookup(modules: Sequence[Module]) -> dict[str, str]:
    """`<resolved name>/<index>` → module id; equal names are numbered from 1 in list order."""
    seen: Counter[str] = Counter()
    found = {}
    for module in modules:
        name = module.resolved_name
        seen[name] += 1
        found[f"{name}/{seen[name]}"] = module.id
    return found


def split_slug(slug: str) -> tuple[str, int]:
    """Name and index of `Display_2`; the index is 1 when none is given."""
    name, separator, digits = slug.rpartition("_")
    if separator and name and digits.isascii() and digits.isdigit() and len(digits) < 10:
        return name, int(digits)
    return slug, 1
