"""When a crontab line is due next, in the time of a zone. Pure.

As Debian's cron does it: a line with fixed hours whose hour is skipped when summer time begins
is due at the first minute after the gap; one whose hour comes twice when it ends is due the
first time only. A line with `*` for its minute or hour counts real minutes and hours through
both.
"""

from __future__ import annotations

import functools
import os
from datetime import datetime, tzinfo
from pathlib import Path
from typing import Final
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from cronsim import CronSim, CronSimError

_LOCALTIME: Final = Path("/etc/localtime")


class Cron:
    """A line such as `0 7 * * 1-5`: minute, hour, day of month, month, day of week (0 and 7
    are Sunday). Raises ValueError for one that means nothing, or never comes."""

    __slots__ = ("spec",)

    def __init__(self, spec: str) -> None:
        self.spec = spec
        if len(spec.split()) != 5:
            raise ValueError(
                f"cron {spec!r}: expected five fields: minute, hour, day of month, month, "
                "day of week"
            )
        try:
            CronSim(spec, datetime.now())
        except CronSimError as error:
            raise ValueError(f"cron {spec!r}: {str(error)[:1].lower()}{str(error)[1:]}") from error

    def after(self, moment: float, zone: tzinfo) -> float | None:
        """The first moment later than `moment` (both unix seconds); None: none in 50 years."""
        for due in CronSim(self.spec, datetime.fromtimestamp(moment, zone)):
            # In an hour that comes twice its first occurrence may lie before `moment`.
            if due.timestamp() > moment:
                return due.timestamp()
        return None


def zone_of(name: str) -> tzinfo:
    """The time zone of that name (`Europe/Berlin`). Raises ValueError."""
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError) as error:
        raise ValueError(f"there is no time zone {name!r}") from error


@functools.cache
def machine_zone() -> tzinfo:
    """The zone this machine is set to; UTC if that cannot be read."""
    try:
        if name := os.environ.get("TZ", "").removeprefix(":"):
            return ZoneInfo(name)
        with _LOCALTIME.open("rb") as file:
            return ZoneInfo.from_file(file)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        return ZoneInfo("UTC")
