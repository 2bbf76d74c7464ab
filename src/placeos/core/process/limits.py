"""What driver processes may use, from `PLACEOS_DRIVER_*` environment variables."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import msgspec

from placeos.config import ConfigError

THREADS: Final = 512  # of one driver process
MEMORY: Final = 512  # MiB: three times what ten thousand modules take


class Limits(msgspec.Struct, frozen=True):
    """For each driver process."""

    memory: int = MEMORY
    """PLACEOS_DRIVER_MEMORY: MiB; 0: none."""
    cpu: int = 0
    """PLACEOS_DRIVER_CPU: percent of one processor, where the system can keep it; 0: none."""
    programs: bool = False
    """PLACEOS_DRIVER_PROGRAMS is `allow`: drivers may start programs."""


def load(environ: Mapping[str, str]) -> Limits:
    """Read the environment. Raises ConfigError naming the variable that is wrong."""
    programs = environ.get("PLACEOS_DRIVER_PROGRAMS", "deny")
    if programs not in ("allow", "deny"):
        raise ConfigError(f"PLACEOS_DRIVER_PROGRAMS should be allow or deny, not {programs!r}")
    return Limits(
        memory=_number(environ, "PLACEOS_DRIVER_MEMORY", MEMORY, 64),
        cpu=_number(environ, "PLACEOS_DRIVER_CPU", 0, 5),
        programs=programs == "allow",
    )


def _number(environ: Mapping[str, str], name: str, default: int, least: int) -> int:
    text = environ.get(name, "")
    if not text:
        return default
    if not text.isascii() or not text.isdigit() or 0 < int(text) < least:
        raise ConfigError(f"{name} should be a number from {least} on, or 0 for none, not {text!r}")
    return int(text)
