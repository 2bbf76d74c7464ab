"""Starting under bad conditions: twice at once, ports taken, after `kill -9` of everything."""

import asyncio
import socket
import time
from contextlib import suppress

import psutil
import pytest

SECOND_START = 6.0
"""Seconds from the command to a served page when the data is there."""

pytestmark = pytest.mark.long


@pytest.fixture
def new_site(site, tmp_path):
    """A further platform beside the first, in a data folder of its own."""
    return type(site)(tmp_path)


async def test_again_after_everything_was_killed(new_site):
    await new_site.start()
    try:
        await new_site.all_connected()
        systems = (await new_site.client.get("/systems")).json()
        children = psutil.Process(new_site.process.pid).children(recursive=True)
        for process in [*reversed(children), psutil.Process(new_site.process.pid)]:
            with suppress(psutil.NoSuchProcess):  # children end with their parents
                process.kill()
        new_site.process.wait()
        psutil.wait_procs(children, timeout=5)
        new_site.ready_file.unlink()
        began = time.monotonic()
        await new_site.start()
        took = time.monotonic() - began
        assert (await new_site.client.get("/systems")).json() == systems
        await new_site.all_connected()
        assert took < SECOND_START
    finally:
        took = await new_site.stop()
    assert took < 5


async def test_nothing_outlives_a_killed_supervisor(new_site):
    await new_site.start()
    children = psutil.Process(new_site.process.pid).children(recursive=True)
    new_site.process.kill()
    new_site.process.wait()
    _, left = psutil.wait_procs(children, timeout=5)
    assert not left
    await new_site.client.aclose()


async def test_ports_of_devices_taken_meanwhile(new_site):
    await new_site.start()
    await new_site.all_connected()
    before = {m["id"]: m["port"] for m in (await new_site.client.get("/modules")).json()}
    await new_site.stop()
    new_site.ready_file.unlink(missing_ok=True)
    taken = []
    try:
        for port in list(before.values())[:4]:
            if port:
                listener = socket.create_server(("127.0.0.1", port))
                taken.append(listener)
        await new_site.start()
        await new_site.all_connected()
        after = {m["id"]: m["port"] for m in (await new_site.client.get("/modules")).json()}
        assert after.keys() == before.keys()
        assert after != before
        await new_site.stop()
    finally:
        for listener in taken:
            listener.close()


async def test_same_data_folder_twice_is_refused(site):
    process = await asyncio.create_subprocess_exec(
        *(str(part) for part in (*site.process.args[:2], "--data", site.data)),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output, _ = await asyncio.wait_for(process.communicate(), 30)
    assert process.returncode != 0
    assert site.url.encode() in output, "the message should say where it already runs"
