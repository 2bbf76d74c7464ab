"""The demo building's processes: one per device, on ports that stay where they can."""

import asyncio
import json
import socket
import subprocess
import time

import pytest

from placeos.local.demo.build import drivers_folder
from placeos.local.demo.building import DISPLAY, ROOMS, SWITCHER, device_name
from placeos.local.demo.plug import PlugError, control_port, tell
from placeos.local.demo.processes import journal_file, ports_file, processes


def ports(data):
    return json.loads(ports_file(data).read_text())


def test_one_process_per_device_each_with_ports_of_its_own(tmp_path):
    specs = processes(tmp_path)
    assert {spec.name for spec in specs} == {
        device_name(room, driver) for room in ROOMS for driver in (DISPLAY, SWITCHER)
    }
    assert len(set(ports(tmp_path).values())) == 2 * len(specs)


def test_ports_are_remembered_and_replaced_when_taken(tmp_path):
    processes(tmp_path)
    before = ports(tmp_path)
    with socket.create_server(("127.0.0.1", before["display-1.01"])):
        processes(tmp_path)
    after = ports(tmp_path)
    assert after.pop("display-1.01") != before.pop("display-1.01")
    assert after == before


def test_every_driver_file_ships():
    for name in ("pjlink.py", "extron_matrix.py", "meeting_room.py"):
        assert (drivers_folder() / name).is_file()


@pytest.mark.parametrize("name", ["display-1.02", "switcher-2.01"])
async def test_process_listens_keeps_a_journal_and_obeys(tmp_path, name):
    (spec,) = (spec for spec in processes(tmp_path) if spec.name == name)
    process = subprocess.Popen(spec.argv)
    try:
        deadline = time.monotonic() + 20
        while not await spec.ready():
            assert process.poll() is None
            assert time.monotonic() < deadline
            await asyncio.sleep(0.05)  # the processor is for the one that starts
        room = f"Room {name.rpartition('-')[2]}"
        module = "Display_1" if name.startswith("display") else "Switcher_1"
        assert tell(control_port(tmp_path, room, module), "state")["connections"] == 0
        with pytest.raises(PlugError, match="cannot do"):
            tell(control_port(tmp_path, room, module), "dance")
        assert journal_file(tmp_path, name).exists()
    finally:
        process.terminate()
        assert process.wait(15) == 0


def test_unknown_room_and_no_building_are_explained(tmp_path):
    with pytest.raises(PlugError, match=r"Room 1\.01"):
        control_port(tmp_path, "Room 7", "Display_1")
    with pytest.raises(PlugError, match="no demo building"):
        control_port(tmp_path, "Room 1.01", "Display_1")
