"""A driver: one Python file of a repository at one version."""

from __future__ import annotations

from enum import IntEnum, StrEnum
from typing import Annotated

import msgspec
from msgspec import Meta

from placeos.model.rules import Entity, Rule

RECOMPILE = "RECOMPILE-"
"""Prefix of `commit` while a rebuild is asked for."""


class Role(IntEnum):
    """How modules of a driver reach their device."""

    SSH = 0
    DEVICE = 1
    SERVICE = 2
    WEBSOCKET = 3
    LOGIC = 99


class AlertLevel(StrEnum):
    """How much it matters when a module is disconnected."""

    LOW = "low"
    MEDIUM = "medium"
    HIGH = "high"
    CRITICAL = "critical"


class UpdateInfo(msgspec.Struct, omit_defaults=True):
    """The newest commit of the driver's file."""

    commit: str
    message: str
    author: str | None = None
    date: str | None = None


class Driver(Entity, kw_only=True):
    """One driver. `json_schema` is the text of a JSON object: the schema of its settings."""

    name: Annotated[str, Rule(required=True, text=True, max_length=255)]
    description: Annotated[str, Rule(html=True, max_length=100_000)] = ""
    json_schema: Annotated[str, Rule(json_text=True, max_length=1_000_000)] = "{}"
    default_uri: Annotated[str | None, Rule(max_length=2048)] = None
    default_port: Annotated[int, Meta(ge=0, le=65535)] | None = None
    role: Role
    alert_level: AlertLevel = AlertLevel.MEDIUM
    file_name: Annotated[str, Rule(required=True, strip=True, max_length=1024)]
    commit: Annotated[str, Rule(required=True, strip=True, max_length=255)]
    compilation_output: Annotated[str | None, Rule(max_length=1_000_000)] = None
    module_name: Annotated[str, Rule(required=True, text=True, strip=True, max_length=255)]
    ignore_connected: bool = False
    update_available: bool = False
    update_info: UpdateInfo | None = None
    repository_id: Annotated[str, Rule(required=True, max_length=255)]

    def tidy(self) -> None:
        """An update that is installed is no longer available."""
        if self.update_info is not None and self.update_info.commit == self.commit:
            self.update_available = False
