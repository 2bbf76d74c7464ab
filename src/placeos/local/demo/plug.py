"""Harms a simulated device: `python -m placeos.local.demo.plug "Room 1.01" Display_1 unplug 20`.

The words after the module go to the device's control port (see `device.py`).
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import socket
import sys
from pathlib import Path

from placeos.local.demo.building import DISPLAY, ROOMS, SWITCHER, device_name, module_slug


class PlugError(LookupError):
    """There is no such device, or it does not listen."""


async def unplug(data: Path, room: str, seconds: float) -> str:
    """Pull the plug of a room's projector; it comes back by itself. Raises PlugError.

    Returns a sentence to show.
    """
    port = control_port(data, room, module_slug(DISPLAY))
    await asyncio.to_thread(tell, port, f"unplug {seconds:g}")
    return f"The projector of {room} is without power for {seconds:g} s."


def control_port(data: Path, room: str, module: str) -> int:
    """Where harm to that device is asked for. Raises PlugError."""
    slug = module if "_" in module else f"{module}_1"
    for known in ROOMS:
        for driver in (DISPLAY, SWITCHER):
            if known.name == room and slug == module_slug(driver):
                return _port(data, f"{device_name(known, driver)}.control")
    rooms = ", ".join(known.name for known in ROOMS)
    raise PlugError(f"no {slug} in {room!r} of the demo building, which has {rooms}")


def _port(data: Path, name: str) -> int:
    try:
        return int(json.loads((data / "demo" / "ports.json").read_text())[name])
    except (OSError, ValueError, KeyError) as error:
        raise PlugError(f"no demo building runs with the data folder {data}") from error


def tell(port: int, command: str) -> dict[str, object]:
    """Send one command and return the device's state. Raises PlugError."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
            connection.sendall(command.encode() + b"\n")
            answer: dict[str, object] = json.loads(connection.makefile("rb").readline())
    except (OSError, ValueError) as error:
        raise PlugError(f"the device does not answer on port {port}: {error}") from error
    if "error" in answer:
        raise PlugError(str(answer["error"]))
    return answer


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description="Harm a simulated device of the demo building.")
    parser.add_argument(
        "--data", type=Path, default=Path(os.environ.get("PLACEOS_DATA", ".placeos"))
    )
    parser.add_argument("room", help='for instance "Room 1.01"')
    parser.add_argument("module", help="Display_1 or Switcher_1")
    parser.add_argument("command", nargs="+", help="unplug 20 | freeze 20 | half-open | drop | …")
    given = parser.parse_args()
    try:
        port = control_port(given.data, given.room, given.module)
        answer = tell(port, " ".join(given.command))
    except PlugError as error:
        sys.exit(f"plug: {error}")
    sys.stdout.write(json.dumps(answer) + "\n")


if __name__ == "__main__":
    main()
