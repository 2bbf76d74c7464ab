"""A zone: a node of the tree of organisation, buildings, levels and whatever else."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

from placeos.model.rules import Entity, Failure, Int, Rule
from placeos.model.text import is_timezone

_Short = Annotated[str | None, Rule(text=True, max_length=255)]


class Zone(Entity, kw_only=True):
    """One zone. `parent_id` null: a root."""

    name: Annotated[str, Rule(required=True, text=True, strip=True, max_length=255)]
    description: Annotated[str, Rule(html=True, max_length=100_000)] = ""
    tags: Annotated[list[str], Rule(text=True, max_length=1000, max_entry=255)] = []
    location: _Short = None
    display_name: _Short = None
    code: _Short = None
    type: _Short = None
    map_id: Annotated[str | None, Rule(max_length=2048)] = None
    place_id: _Short = None
    count: Int = 0
    capacity: Int = 0
    timezone: Annotated[str | None, Rule(max_length=255)] = None
    triggers: list[str] = []
    images: list[str] = []
    playlists: list[str] = []
    parent_id: Annotated[str | None, Rule(max_length=255)] = None

    def tidy(self) -> None:
        """Blank means root, or no time zone; tags without doubles."""
        self.parent_id = self.parent_id or None
        self.timezone = self.timezone or None
        self.tags = list(dict.fromkeys(self.tags))
        self.images = [image for image in self.images if image.strip()]

    def failures(self) -> Iterator[Failure]:
        """A zone is not its own parent; the time zone must be known."""
        if self.parent_id is not None and self.parent_id == self.id:
            yield Failure("parent_id", "should not be the zone itself")
        if self.timezone is not None and not is_timezone(self.timezone):
            yield Failure("timezone", "is not a known time zone")
