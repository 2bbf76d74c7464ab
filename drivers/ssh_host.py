"""Linux hosts that are reached by SSH: how busy, how full and how long up they are.

Reads what proc(5) and os-release(5) of the Linux manual pages describe
(https://man7.org/linux/man-pages/), and `df -P` as POSIX has it
(https://pubs.opengroup.org/onlinepubs/9699919799/utilities/df.html).
"""

import re
import shlex
from dataclasses import dataclass
from typing import Annotated

from msgspec import Meta

from placeos.driver import SSH, Driver, DriverError, Offline, Settings, administrator, every
from placeos.driver.interfaces import Descriptor, DeviceInfo

COMMAND_TIMEOUT = 10  # seconds
FILE_SYSTEM = re.compile(r".*\s(\d+)\s+(\d+)\s+(\d+)\s+(?:\d+%|-)\s+(/.*)")  # of `df -P`


class HostSettings(Settings):
    mounts: Annotated[tuple[str, ...], Meta(description="Whose space is watched")] = ("/",)
    reboot_command: Annotated[str, Meta(description="As user root: systemctl reboot")] = (
        "sudo -n systemctl reboot"
    )
    poll_every: Annotated[float, Meta(ge=1, description="Seconds")] = 30


@dataclass
class Disk:
    """The space of a file system, in bytes; `percent` is what is used of it."""

    size: int
    used: int
    available: int
    percent: float


class Host(Driver[HostSettings], DeviceInfo):
    module_name = "Host"
    transport = SSH(shell=False)

    async def connected(self) -> None:
        await self.refresh()

    async def settings_changed(self) -> None:
        if self.get("connected"):
            await self.refresh()

    # -- functions --------------------------------------------------------------------------

    @every("poll_every")
    async def refresh(self) -> None:
        """Read load, memory, space and how long it is up."""
        loads = numbers(await self._run("cat /proc/loadavg"), 3)
        self["load1"], self["load5"], self["load15"] = loads
        self["uptime"] = int(numbers(await self._run("cat /proc/uptime"), 1)[0])  # seconds
        self["memory_used"] = memory_used(await self._run("cat /proc/meminfo"))  # percent
        mounts = shlex.join(self.settings.mounts)
        self["disks"] = disks(await self._run(f"LC_ALL=C df -P -k -- {mounts}"))

    @administrator
    async def reboot(self) -> None:
        """Restart the host. It is disconnected until it is up again."""
        try:
            await self._run(self.settings.reboot_command)
        except Offline:  # it was quicker than its answer
            self.log.info("the host went down")

    async def device_info(self) -> Descriptor:
        """What runs on the host, and its name in the network."""
        release = assignments(await self._run("cat /etc/os-release"))
        return Descriptor(
            make=release.get("NAME", "Linux"),
            model=release.get("VERSION_ID", "unknown"),
            firmware=await self._run("uname -r"),
            hostname=await self._run("uname -n"),
            ip_address=self.config.ip,
        )

    # -- the protocol -----------------------------------------------------------------------

    async def _run(self, command: str) -> str:
        """What a command prints. Raises DriverError with what it says if it fails."""
        output = await self.ssh.run(command, timeout=COMMAND_TIMEOUT)
        if output.status != 0:
            why = output.stderr.strip() or f"ended with {output.status}"
            raise DriverError(f"`{command}`: {why}", code=502)
        return output.stdout.strip()


def numbers(text: str, count: int) -> list[float]:
    """The first numbers of a line. Raises DriverError if there are fewer."""
    try:
        found = [float(word) for word in text.split()[:count]]
    except ValueError:
        found = []
    if len(found) < count:
        raise DriverError(f"expected {count} numbers, the host says {text[:80]!r}", code=502)
    return found


def memory_used(meminfo: str) -> float:
    """How many percent of the memory are in use. Raises DriverError."""
    lines = (line.partition(":") for line in meminfo.splitlines())
    sizes = {name: rest for name, _, rest in lines}
    [total] = numbers(sizes.get("MemTotal", ""), 1)
    [available] = numbers(sizes.get("MemAvailable", ""), 1)
    if not 0 <= available <= total or not total:
        raise DriverError(f"the host says {available} kB of {total} kB are available", code=502)
    return round(100 * (1 - available / total), 1)


def disks(df: str) -> dict[str, Disk]:
    """The file systems that `df -P -k` lists, by where they are mounted. Raises DriverError."""
    found = {}
    for line in df.splitlines():
        fields = FILE_SYSTEM.fullmatch(line)
        if fields is not None:
            size, used, available = (int(field) * 1024 for field in fields.groups()[:3])
            percent = 100 * used / (used + available) if used + available else 0.0
            found[fields[4]] = Disk(size, used, available, round(percent, 1))
    if not found:
        raise DriverError(f"expected file systems, the host says {df[:80]!r}", code=502)
    return found


def assignments(text: str) -> dict[str, str]:
    """The lines `NAME="value"` of os-release."""
    found = {}
    for line in text.splitlines():
        name, equals, value = line.partition("=")
        if equals:
            found[name] = value.strip("\"'")
    return found
