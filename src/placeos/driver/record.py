"""What a module's record says about its device, and whether the driver can do that."""

from __future__ import annotations

from typing import Final

from placeos.driver.errors import DriverError
from placeos.driver.loader import Blueprint
from placeos.driver.transports.base import Address, Role, Transport, options_of
from placeos.driver.transports.serial import Serial
from placeos.wire.messages import ModuleStart

SETTINGS: Final = frozenset(
    {
        "basic_auth",
        "bearer_token",
        "digest_auth",
        "disable_cookies",
        "headers",
        "host_header",
        "http_comms_timeout",
        "http_connect_timeout",
        "http_keep_alive_seconds",
        "http_max_requests",
        "https_ca_certificates",
        "https_client_cert",
        "https_insecure",
        "https_pin",
        "https_private_key",
        "https_verify",
        "multicast_hops",
        "multicast_interface",
        "proxy",
        "serial",
        "ssh",
    }
)
"""Settings that the SDK reads itself (drivers.md 2.6); another value means a new connection."""


def address_of(start: ModuleStart) -> Address:
    """Where its device is, and how to speak to it."""
    return Address(
        host=start.ip,
        port=start.port,
        uri=start.uri,
        tls=start.tls,
        makebreak=start.makebreak,
        settings={name: raw for name, raw in start.settings.items() if name in SETTINGS},
    )


def transport_for(blueprint: Blueprint, start: ModuleStart) -> Transport | None:
    """The transport the record asks for; None for logic.

    Raises DriverError when the driver cannot do that, or the address is missing.
    """
    options = options_of(blueprint.cls.transport)
    if not options:
        if start.role != Role.LOGIC:
            raise _misfit("logic", Role.LOGIC, start)
        return None
    fitting = [option for option in options if option.role == start.role]
    if not fitting:
        names = " or ".join(option.name for option in options)
        raise _misfit(f"a device on {names}", options[0].role, start)
    transport = max(fitting, key=lambda one: _suits(one, start))  # the first of the best
    if start.udp and not transport.udp:
        raise DriverError(
            f"the module's record says udp, but its driver speaks {transport.name}", code=400
        )
    if start.role in (Role.SERVICE, Role.WEBSOCKET):
        if not (start.uri or transport.default_uri):
            raise DriverError("the module has no uri to connect to", code=400)
    elif not (start.ip and start.port):
        raise DriverError("the module has no ip or port to connect to", code=400)
    return transport


def _suits(transport: Transport, start: ModuleStart) -> tuple[bool, bool]:
    """How well: which of a role's transports is meant is told by `udp` and a `serial` line."""
    serial = "serial" in start.settings
    return transport.udp == start.udp, isinstance(transport, Serial) == serial


def _misfit(kind: str, role: Role, start: ModuleStart) -> DriverError:
    return DriverError(
        f"the driver is {kind} (role {role.value}), its record says role {start.role}", code=400
    )
