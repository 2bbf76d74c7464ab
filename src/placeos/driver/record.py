"""What a module's record says about its device, and whether the driver can do that."""

from __future__ import annotations

import msgspec

from placeos.driver.errors import DriverError
from placeos.driver.loader import LOGIC, Blueprint
from placeos.driver.transport import Address
from placeos.wire.messages import ModuleStart


def address_of(start: ModuleStart) -> Address:
    """Where its device is, and how to speak to it."""
    settings = start.settings
    verify = settings.get("https_verify")
    ca = settings.get("https_ca_certificates")
    return Address(
        host=start.ip,
        port=start.port,
        tls=start.tls,
        verify=verify is not None and bytes(verify) not in (b'"none"', b"null", b"0"),
        ca=_text(ca),
    )


def _text(raw: msgspec.Raw | None) -> str:
    value = msgspec.json.decode(raw) if raw is not None else ""
    return value if isinstance(value, str) else ""


def check_role(blueprint: Blueprint, start: ModuleStart) -> None:
    """Raises DriverError when the record does not fit what the driver can do."""
    expected = blueprint.defaults.role
    if start.role != expected:
        kind = "logic" if expected == LOGIC else "a device on TCP"
        raise DriverError(
            f"the driver is {kind} (role {expected}), its record says role {start.role}", code=400
        )
    if expected != LOGIC and not (start.ip and start.port):
        raise DriverError("the module has no ip or port to connect to", code=400)
