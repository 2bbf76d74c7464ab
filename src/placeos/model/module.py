"""A module: an instance of a driver, for one device, one service or the logic of a system."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated
from urllib.parse import urlsplit

from msgspec import Meta

from placeos.model.driver import AlertLevel, Driver, Role
from placeos.model.rules import Entity, Failure, Rule
from placeos.model.text import is_host, is_uri

EDGE_SUFFIX = "-edge"


class Module(Entity, kw_only=True):
    """One module. `name` and `role` are copies of its driver's, see `adopt`."""

    driver_id: Annotated[str, Rule(required=True, max_length=255)]
    name: Annotated[str, Rule(read_only=True, max_length=255)] = ""
    custom_name: Annotated[str | None, Rule(text=True, strip=True, max_length=255)] = None
    role: Annotated[Role, Rule(read_only=True)] = Role.LOGIC
    ip: Annotated[str, Rule(strip=True, max_length=255)] = ""
    port: Annotated[int, Meta(ge=-(2**31), le=2**31 - 1)] = 0
    tls: bool = False
    udp: bool = False
    makebreak: bool = False
    uri: Annotated[str, Rule(strip=True, max_length=2048)] = ""
    control_system_id: Annotated[str | None, Rule(max_length=255)] = None
    edge_id: Annotated[str | None, Rule(max_length=255)] = None
    connected: bool = True
    running: bool = False
    notes: Annotated[str, Rule(html=True, max_length=100_000)] = ""
    ignore_connected: bool = False
    ignore_startstop: bool = False
    launch_on_execute: bool = False
    alert_level: AlertLevel = AlertLevel.MEDIUM
    has_runtime_error: Annotated[bool, Rule(read_only=True)] = False
    error_timestamp: Annotated[int | None, Rule(read_only=True)] = None

    @property
    def resolved_name(self) -> str:
        """The name systems know the module by."""
        return self.custom_name or self.name

    def tidy(self) -> None:
        """Force what the role decides."""
        if not self.control_system_id:
            self.control_system_id = None
        if not self.edge_id:
            self.edge_id = None
        if self.role in (Role.SERVICE, Role.WEBSOCKET):
            self.udp = False
            self.tls = urlsplit_scheme(self.uri) == "https"
        elif self.role == Role.LOGIC:
            self.udp = self.tls = False
            self.connected = True
        elif self.udp:
            self.tls = False
        if not self.running:
            self.has_runtime_error = False
            self.error_timestamp = None

    def failures(self) -> Iterator[Failure]:
        """What each role needs."""
        if self.role == Role.LOGIC:
            if self.control_system_id is None:
                yield Failure("control_system", "must be associated for logic modules")
            if self.edge_id is not None:
                yield Failure("edge", "logic module cannot be allocated to an edge")
            return
        if self.control_system_id is not None:
            role = self.role.name.lower()
            yield Failure("control_system", f"should not be associated for {role} modules")
        if self.role in (Role.SERVICE, Role.WEBSOCKET):
            yield from self._uri_failures()
        else:
            yield from self._address_failures()

    def _address_failures(self) -> Iterator[Failure]:
        if not self.ip:
            yield Failure("ip", "cannot be blank")
        elif not is_host(self.ip):
            yield Failure("ip", "address, hostname or port are invalid")
        if not 1 <= self.port <= 65535:
            yield Failure("port", "is invalid")

    def _uri_failures(self) -> Iterator[Failure]:
        if not self.uri:
            yield Failure("uri", "not present")
        elif not is_uri(self.uri):
            yield Failure("uri", "is an invalid URI")


def adopt(module: Module, driver: Driver) -> None:
    """Copy from the driver what a module always has in common with it, in place."""
    module.driver_id = driver.id
    module.name = driver.module_name
    module.role = driver.role


def hostname(module: Module, driver: Driver | None = None) -> str | None:
    """The host a module talks to; None for logic modules."""
    if module.role == Role.LOGIC:
        return None
    if module.role in (Role.SERVICE, Role.WEBSOCKET):
        try:
            return urlsplit(module.uri or (driver and driver.default_uri) or "").hostname
        except ValueError:
            return None
    return module.ip or None


def urlsplit_scheme(uri: str) -> str:
    """The scheme of a URI in lower case, "" if it has none."""
    try:
        return urlsplit(uri).scheme
    except ValueError:
        return ""
