"""The simulated devices as processes for the supervisor."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path

from placeos.local.demo.building import DISPLAY, ROOMS, SWITCHER, DriverFile, Room, device_name
from placeos.local.ports import Ports
from placeos.local.probe import tcp
from placeos.local.process import Kind, ProcessSpec


def folder(data: Path) -> Path:
    """Where the demo keeps what it has to remember."""
    return data / "demo"


def ports_file(data: Path) -> Path:
    """Ports by device name; `<name>.control` is where harm is asked for."""
    return folder(data) / "ports.json"


def journal_file(data: Path, name: str) -> Path:
    """The journal of one device (see `journal.py`)."""
    return folder(data) / f"{name}.jsonl"


def processes(data: Path) -> list[ProcessSpec]:
    """One process per device, on ports that are free now and, where possible, as last time."""
    ports = Ports(ports_file(data))
    specs: list[ProcessSpec] = []
    for room in ROOMS:
        specs.append(_spec(data, ports, room, DISPLAY, _projector_arguments(room)))
        specs.append(_spec(data, ports, room, SWITCHER, _switcher_arguments(room)))
    return specs


def _spec(
    data: Path, ports: Ports, room: Room, driver: DriverFile, arguments: list[str]
) -> ProcessSpec:
    name = device_name(room, driver)
    port = ports.take(name)
    control = ports.take(f"{name}.control")
    simulator = "pjlink" if driver is DISPLAY else "extron"
    return ProcessSpec(
        name=name,
        kind=Kind.DEVICE,
        argv=(
            *(sys.executable, "-m", f"placeos.local.demo.{simulator}"),
            *("--port", str(port), "--control-port", str(control)),
            *("--log", str(journal_file(data, name))),
            *arguments,
        ),
        ready=partial(tcp, "127.0.0.1", control),
        ready_timeout=20,
    )


def _projector_arguments(room: Room) -> list[str]:
    arguments = ["--name", f"{room.name} projector", "--warm-up", f"{room.warm_up:g}"]
    arguments += ["--drop-every", f"{room.drop_every:g}"]
    if room.password:
        arguments += ["--password", room.password]
    return arguments


def _switcher_arguments(room: Room) -> list[str]:
    return ["--inputs", "8", "--outputs", "8", "--panel-every", f"{room.panel_every:g}"]
